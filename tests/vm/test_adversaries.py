"""Tasks held inside a JTPR, a detour or a handler, and asleep in a displaced call, against
every strategy and every preemption model.

What a sound strategy has to do is the same everywhere: not write, and not free, while the
victim is held, say who it waits for, and get on with it afterwards. One guest lives through
all of that. Without quiescence the victim has to die, each time in a guest of its own; or
these tests prove nothing. See kmod/test/hold.c for how it is done.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from pyctl import ControlError, Guest, Probe, Probes, Reason
from pyctl.bench.rows import BEST, SOUND
from pyctl.errors import DjprobesError, RemoteOSError
from pyctl.module import SOURCE as KMOD
from pyctl.quiescence import AUTO, BlockerKind
from pyctl.timing import Deadline, attempts
from pyctl.verify.adversaries import (
    FUNCTION,
    MODULE,
    SLEEPY_FUNCTION,
    Passerby,
    Victim,
    VictimKind,
    Way,
    places,
)
from pyctl.verify.livetext import peek
from pyctl.verify.preemption import Preemption, preemption, switch_preemption

pytestmark = pytest.mark.vm

#: These stop the machine, so they wait for a CPU that does not leave its interrupt.
STOPPING = ("fixup", "stackscan", "freezer")
#: Waits for every task to sleep once: a victim holds up all sites.
BLIND = "rcu_tasks"
VICTIM = f"{MODULE}:{FUNCTION}"
SLEEPY = f"{MODULE}:{SLEEPY_FUNCTION}"
#: A site that nobody stands in.
OTHER = "ksys_pread64"
#: Milliseconds that a commit may take here.
PATIENCE_MS = 1000
#: Seconds that a victim is held in an interrupt, where the strategy need not wait for it.
LONG = 18.0
#: Seconds until a site is a jump, or a detour free, once nobody holds it up.
SETTLING = 60.0
#: Seconds until a kernel has noticed that it is dead.
DYING = 20.0


@dataclass(frozen=True)
class Case:
    """Who is held how, under which model."""

    model: Preemption
    kind: VictimKind
    way: Way

    def seconds(self, strategy: str) -> float | None:
        """For how long at most."""
        return LONG if self.way.blocks and strategy not in STOPPING else None

    def __str__(self) -> str:
        return f"{self.model}-{self.kind}-{self.way}"


CASES = (
    Case(Preemption.FULL, VictimKind.KTHREAD, Way.PREEMPT),
    Case(Preemption.FULL, VictimKind.USER, Way.PREEMPT),
    Case(Preemption.FULL, VictimKind.KTHREAD, Way.INTERRUPT),
    Case(Preemption.FULL, VictimKind.SOFTIRQ, Way.INTERRUPT),
    Case(Preemption.NONE, VictimKind.KTHREAD, Way.INTERRUPT),
    Case(Preemption.NONE, VictimKind.USER, Way.INTERRUPT),
    Case(Preemption.VOLUNTARY, VictimKind.KTHREAD, Way.INTERRUPT),
    Case(Preemption.VOLUNTARY, VictimKind.USER, Way.INTERRUPT),
)
#: A kernel thread under each model.
KTHREAD_CASES = (CASES[0], CASES[4], CASES[6])
#: In these a guest is lost each time. Without preemption both models are the same to us.
LOST = tuple(
    pytest.param(
        case,
        marks=pytest.mark.product if case.model is Preemption.VOLUNTARY else (),
        id=str(case),
    )
    for case in KTHREAD_CASES
)
DETOUR_CASES = (*KTHREAD_CASES, CASES[1], CASES[3])
#: Preemption is off in a handler: who is to be preempted there is on its way out of it.
HANDLER_CASES = (
    *KTHREAD_CASES,
    Case(Preemption.FULL, VictimKind.KTHREAD, Way.SPIN),
    Case(Preemption.NONE, VictimKind.KTHREAD, Way.SPIN),
)


def pairs(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Every strategy in every case: the best in all, the others where they are the first of
    their way; the rest only where the whole product is asked for."""
    first = {case.way: case for case in reversed(cases)}
    return pytest.mark.parametrize(
        ("case", "strategy"),
        [
            pytest.param(
                case,
                strategy,
                marks=() if strategy == BEST or case is first[case.way] else pytest.mark.product,
                id=f"{case}-{strategy}",
            )
            for case in cases
            for strategy in SOUND
        ],
    )


@pytest.fixture
def watched(guest: Guest) -> Iterator[Guest]:
    """As elsewhere; but the freezer shows the stack of a process that it can't freeze."""
    log = guest.kernel_log(allowed=["Call Trace:"])
    yield guest
    log.check()


@pytest.fixture
def lab(guest: Guest, targets: None, probes: Probes) -> Iterator[Probes]:
    """Probes with impatient commits, and no detour left from before."""
    probes.tunables = replace(probes.tunables, deadline_ms=PATIENCE_MS)
    assert reclaim(probes), "a detour of an earlier test is still in use"
    yield probes
    probes.strategy = AUTO


def reclaim(probes: Probes) -> bool:
    """Whether no retired detour is left."""
    refused = None
    try:
        probes.reclaim()
    except ControlError as error:
        refused = error
    if refused:
        assert (refused.errno, refused.reason) == (errno.EBUSY, Reason.DETOURS_BUSY)
        assert refused.owner
    else:
        assert probes.stats().detour_bytes_retired == 0
    return refused is None


def wait_until(what: Callable[[], bool], probes: Probes) -> None:
    for _ in attempts(Deadline.after(SETTLING)):
        if what():
            return
    pytest.fail(f"it is still held up: {probes.stats()}")


def is_jump(probe: Probe) -> Callable[[], bool]:
    return lambda: probe.state == "jump"


def assert_named(
    probes: Probes, victim: Victim, kind: BlockerKind, address: int | None = None
) -> None:
    """``blockers`` has the victim, and where it is."""
    entry, blockers = victim.address, probes.blockers()
    found = [b for b in blockers if b.kind == kind and b.site == entry]
    assert found, f"{kind} of {entry:#x} is not among {blockers}"
    named, own = {(b.pid, b.comm) for b in found}, (victim.held.pid, victim.comm)
    # Another detour of this site may be held up by nobody who is known.
    assert own in named if probes.strategy == BLIND else named == {own}
    assert {b.site_symbol.partition("+")[0] for b in found} == {victim.target}
    if address is not None:
        assert address in {b.address for b in found}
    if kind is BlockerKind.JUMP:
        assert {b.address_symbol.partition("+")[0] for b in found} == {victim.target}


def expect_reclaim(
    probes: Probes,
    victim: Victim,
    case: Case,
    strategy: str,
    *,
    at: int | None = None,
    moved: bool = False,
) -> None:
    """A detour that the victim stands in is freed when it has left, and not before."""
    if case.way.blocks and strategy in STOPPING:
        reclaim(probes)
        assert victim.wait_until_free().state == "expired"
    else:
        assert reclaim(probes) == moved
        assert victim.held.state == "held"
        if not moved:
            assert_named(probes, victim, BlockerKind.RECLAIM, at)
    victim.release()
    wait_until(lambda: reclaim(probes), probes)
    assert probes.blockers() == ()


def assert_calls_on(victim: Victim, probes: Probes) -> None:
    """It goes on, for a while, with right results; then it ends."""
    victim.release()
    before = victim.calls.calls
    wait_until(lambda: victim.calls.calls > before + 100, probes)
    assert victim.stop().wrong == 0


def jump_at_victim(probes: Probes) -> Probe:
    probe = probes.add(VICTIM)
    assert probes.commit().complete
    assert probe.state == "jump"
    return probe


def assert_restored(guest: Guest, probes: Probes, target: str) -> None:
    """The text is what it was, by the kernel's memory."""
    found = probes.explain(target)
    assert found.address
    assert peek(guest.transport, [found.address], len(found.dcr)) == [found.dcr]


@contextmanager
def unsafe_guest(model: Preemption) -> Iterator[Guest]:
    """A guest to be lost."""
    with Guest.boot("bookworm-cloud") as guest:
        guest.load(parameters={"unsafe": "1"})
        guest.load_extra("djp_test", source=KMOD)
        switch_preemption(guest.transport, model)
        yield guest


def unsafe_probes(guest: Guest, strategy: str = "none") -> Probes:
    """Not to be used as a context: the guest is dead when it would end."""
    probes = guest.probes()
    probes.strategy = strategy
    return probes


def assert_dies(guest: Guest, victim: Victim) -> None:
    """Let go, it does not come back, or not with what it should."""
    try:
        victim.release()
        for _ in attempts(Deadline.after(DYING)):
            if victim.calls.wrong or guest.crashed():
                return
    except DjprobesError:
        for _ in attempts(Deadline.after(DYING)):
            if guest.crashed():
                return
    pytest.fail("the victim went on as if nothing had happened")


@pairs(CASES)
def test_nothing_is_written_under_the_victim(
    guest: Guest, lab: Probes, case: Case, strategy: str
) -> None:
    lab.strategy = strategy
    with preemption(guest.transport, case.model), Victim(guest, case.kind) as victim:
        inside = places(lab.control, victim.target).jtpr
        victim.hold(case.way, inside, seconds=case.seconds(strategy))
        held_call = victim.calls.calls
        probe, other = lab.add_many([victim.target, OTHER])
        result = lab.commit()
        state, others, blocked = probe.state, other.state, lab.blockers()
        # In this order: it may be let go at any time.
        held = victim.held.state == "held"

        if case.way.blocks and strategy in STOPPING:
            assert state == "bypass" or not held
            assert victim.wait_until_free().state == "expired"
        elif strategy == "fixup":
            assert held
            assert (state, others, blocked) == ("jump", "jump", ())
            assert result.stats.tasks_moved
        elif strategy == BLIND:
            assert held
            assert (state, others) == ("bypass", "bypass")
            assert_named(lab, victim, BlockerKind.JUMP, inside)
        else:
            assert held
            assert (result.patched, result.deferred) == (1, 1)
            assert (state, others) == ("bypass", "jump")
            assert_named(lab, victim, BlockerKind.JUMP, inside)

        victim.release()
        wait_until(is_jump(probe), lab)
        wait_until(is_jump(other), lab)
        assert lab.blockers() == ()
        assert_calls_on(victim, lab)
        # The held call had passed the insertion address before the probe was there.
        assert probe.hits == victim.calls.calls - held_call


@pytest.mark.parametrize("strategy", ["rendezvous", "stackscan", "rcu_tasks"])
@pytest.mark.parametrize(
    ("kind", "way", "function"),
    [
        (VictimKind.IDLE, Way.INTERRUPT, "do_idle"),
        (VictimKind.EXITING, Way.PREEMPT, "mpol_put_task_policy"),
    ],
)
def test_nothing_is_written_under_who_is_on_no_list(
    guest: Guest, lab: Probes, kind: VictimKind, way: Way, function: str, strategy: str
) -> None:
    """The idle tasks, and those that exit: walking all processes does not meet them."""
    lab.strategy = strategy
    inside = places(lab.control, function).jtpr
    with Passerby(guest, kind) as victim:
        held = victim.hold(way, inside, seconds=Case(Preemption.FULL, kind, way).seconds(strategy))
        probe = lab.add(function)
        lab.commit()
        state, blocked = probe.state, lab.blockers()
        if way.blocks and strategy in STOPPING:
            assert victim.wait_until_free().state == "expired"
        else:
            assert (state, victim.held.state) == ("bypass", "held")
            assert (inside, held.pid) in {(one.address, one.pid) for one in blocked}
        victim.release()
        wait_until(is_jump(probe), lab)
        assert lab.blockers() == ()


@pytest.mark.parametrize("strategy", ["rendezvous", "fixup"])
def test_an_exception_below_the_interrupt_changes_nothing(
    guest: Guest, lab: Probes, strategy: str
) -> None:
    """A task that is preempted in a page fault that it had in the kernel: it is moved into
    the detour, and back, or waited for, as any other."""
    lab.strategy = strategy
    function, moved = "handle_mm_fault", strategy == "fixup"
    inside = places(lab.control, function).jtpr
    with Passerby(guest, VictimKind.FAULTING) as victim:
        held = victim.hold(Way.PREEMPT, inside)
        probe = lab.add(function)
        assert lab.commit().complete == moved
        assert victim.held.state == "held"
        assert {(one.address, one.pid) for one in lab.blockers()} == (
            set() if moved else {(inside, held.pid)}
        )
        victim.release()
        wait_until(is_jump(probe), lab)

        copy = places(lab.control, function).detour_copy
        held = victim.hold(Way.PREEMPT, copy)
        probe.remove()
        assert reclaim(lab) == moved
        assert victim.held.state == "held"
        victim.release()
        wait_until(lambda: reclaim(lab), lab)
        # It comes by again, so it lives, and has read nothing wrong.
        victim.hold(Way.PREEMPT, inside)
        assert victim.held.pid == held.pid
    assert_restored(guest, lab, function)


def test_idle_cpus_that_need_no_interrupt_are_seen_too() -> None:
    """As idle tasks in ``mwait`` do: they look for what was asked of their CPU themselves."""
    with Guest.boot("bookworm-cloud", cmdline_extra=["idle=poll"]) as guest:
        log = guest.kernel_log()
        with guest.probes() as probes:
            # There is time for one look only.
            probes.tunables = replace(probes.tunables, deadline_ms=1)
            for _ in range(10):
                probe = probes.add(OTHER)
                assert probes.commit().complete, probes.blockers()
                probe.remove()
                reclaim(probes)
        log.check()


@pytest.mark.parametrize("place", ["detour_head", "detour_copy"])
@pairs(DETOUR_CASES)
def test_no_detour_is_freed_under_the_victim(
    guest: Guest, lab: Probes, case: Case, place: str, strategy: str
) -> None:
    lab.strategy = strategy
    with preemption(guest.transport, case.model):
        probe = jump_at_victim(lab)
        with Victim(guest, case.kind) as victim:
            at: int = getattr(places(lab.control, VICTIM), place)
            victim.hold(case.way, at, seconds=case.seconds(strategy))
            calls = victim.calls.calls
            probe.remove()
            # At the head it has not counted yet, and that count is lost.
            assert probe.hits == (calls - 1 if place == "detour_head" else calls)
            assert_restored(guest, lab, VICTIM)
            # At the copy of an instruction it can be moved to the original.
            moved = strategy == "fixup" and place == "detour_copy"
            expect_reclaim(lab, victim, case, strategy, at=at, moved=moved)
            assert_calls_on(victim, lab)


@pytest.mark.parametrize("strategy", ["rendezvous", "stackscan"])
def test_a_site_waits_for_who_will_come_from_a_retired_detour(
    guest: Guest, lab: Probes, strategy: str
) -> None:
    """The new site starts inside the old displaced region, and covers where that one's
    detour jumps back to."""
    lab.strategy = strategy
    with Victim(guest) as victim:
        old = jump_at_victim(lab)
        at = places(lab.control, VICTIM)
        victim.hold(Way.PREEMPT, at.detour_copy)
        old.remove()
        probe = lab.add(f"{VICTIM}+{at.jtpr - victim.address:#x}")
        assert lab.commit().deferred == 1
        assert (probe.state, victim.held.state) == ("bypass", "held")
        found = [one for one in lab.blockers() if one.kind is BlockerKind.JUMP]
        assert [(one.site, one.address, one.pid) for one in found] == [
            (at.jtpr, at.detour_copy, victim.held.pid)
        ]
        victim.release()
        wait_until(is_jump(probe), lab)
        assert lab.blockers() == ()
        assert_calls_on(victim, lab)


@pairs(HANDLER_CASES)
def test_no_detour_is_freed_under_a_handler(
    guest: Guest, lab: Probes, case: Case, strategy: str
) -> None:
    """Of two probes at one place the other goes; so there is a new detour, and the old one
    is on its way out while the handler that it called runs."""
    lab.strategy = strategy
    with preemption(guest.transport, case.model), Victim(guest) as victim:
        with victim.handler():
            probe = jump_at_victim(lab)
            handler = 0 if case.way is Way.SPIN else victim.handler_address
            victim.hold(case.way, handler, seconds=case.seconds(strategy))
            probe.remove()
            expect_reclaim(lab, victim, case, strategy)
            assert_calls_on(victim, lab)
            handled = victim.handled
            assert handled.handled == handled.hits == victim.calls.calls
            assert handled.missed == 0
        assert victim.handled.late == 0


@pytest.mark.parametrize("way", [Way.SPIN, Way.INTERRUPT])
@pytest.mark.parametrize("model", list(Preemption))
def test_a_handler_has_ended_when_its_probe_is_gone(
    guest: Guest, lab: Probes, model: Preemption, way: Way
) -> None:
    with preemption(guest.transport, model), Victim(guest) as victim, victim.handler():
        lab.commit()
        victim.hold(way, 0 if way is Way.SPIN else victim.handler_address)
        victim.unregister_handler()
        assert victim.held.state == "expired"
        assert victim.handled.late == 0
        assert_calls_on(victim, lab)


@pytest.mark.parametrize("entered", ["text", "bypass", "jump"])
@pairs([Case(Preemption.FULL, kind, Way.SLEEP) for kind in (VictimKind.KTHREAD, VictimKind.USER)])
def test_a_sleeper_is_not_waited_for(
    guest: Guest, lab: Probes, entered: str, case: Case, strategy: str
) -> None:
    """Whoever sleeps in a displaced call returns to the text, not to the detour; whether
    the call was made from the one or the other, and whatever it left on its stack."""
    lab.strategy = strategy
    probe = None if entered == "text" else lab.add(SLEEPY)
    if entered == "jump":
        assert lab.commit().complete
    with Victim(guest, case.kind, SLEEPY_FUNCTION) as victim:
        victim.hold(case.way)
        through_probe = victim.calls.calls if probe else 0
        probe = probe or lab.add(SLEEPY)
        assert lab.commit().complete
        assert probe.state == "jump"
        probe.remove()
        assert probe.hits == through_probe
        assert reclaim(lab), lab.blockers()
        assert lab.blockers() == ()
        assert_restored(guest, lab, SLEEPY)
        assert victim.held.state == "held"
        assert_calls_on(victim, lab)


@pytest.mark.parametrize(
    ("case", "strategy"),
    [
        # The freezer alone leaves kernel threads running.
        pytest.param(CASES[0], "freeze_only", id=f"{CASES[0]}-freeze_only"),
        *(pytest.param(*case.values, "none", marks=case.marks, id=case.id) for case in LOST),
    ],
)
def test_without_quiescence_the_jump_kills(case: Case, strategy: str) -> None:
    with unsafe_guest(case.model) as guest:
        probes = unsafe_probes(guest, strategy)
        victim = Victim(guest, case.kind)
        victim.hold(case.way, places(probes.control, VICTIM).jtpr, seconds=LONG)
        probe = probes.add(VICTIM)
        assert probes.commit().complete
        assert probe.state == "jump"
        assert_dies(guest, victim)


@pytest.mark.parametrize("case", LOST)
def test_without_quiescence_the_freed_detour_kills(case: Case) -> None:
    with unsafe_guest(case.model) as guest:
        probes = unsafe_probes(guest)
        probe = jump_at_victim(probes)
        victim = Victim(guest, case.kind)
        at = places(probes.control, VICTIM).detour_copy
        victim.hold(case.way, at, seconds=LONG)
        probe.remove()
        assert reclaim(probes)
        assert_dies(guest, victim)


@pytest.mark.parametrize("case", LOST)
def test_without_quiescence_the_detour_freed_under_a_handler_kills(case: Case) -> None:
    with unsafe_guest(case.model) as guest:
        probes = unsafe_probes(guest)
        victim = Victim(guest, case.kind)
        victim.register_handler()
        probe = jump_at_victim(probes)
        handler = 0 if case.way is Way.SPIN else victim.handler_address
        victim.hold(case.way, handler, seconds=LONG)
        probe.remove()
        assert reclaim(probes)
        assert_dies(guest, victim)


@pytest.mark.parametrize("model", [Preemption.NONE, Preemption.VOLUNTARY])
def test_nobody_is_preempted_without_preemption(
    guest: Guest, lab: Probes, model: Preemption
) -> None:
    """So there the victims have to be interrupted, and that is another hazard."""
    with preemption(guest.transport, model), Victim(guest) as victim:
        with pytest.raises(RemoteOSError) as refused:
            victim.hold(Way.PREEMPT, places(lab.control, VICTIM).jtpr)
        assert refused.value.errno == errno.EAGAIN


def test_a_hold_ends_by_itself(guest: Guest, lab: Probes) -> None:
    with Victim(guest) as victim:
        victim.hold(Way.PREEMPT, places(lab.control, VICTIM).jtpr, seconds=0.3)
        assert victim.wait_until_free().state == "expired"
        assert_calls_on(victim, lab)
