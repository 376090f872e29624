"""Others who patch kernel text beside a probe: kprobes, jump labels, static calls, ftrace.

Whatever the kernel lets them do, their count and ours are exact, the function does what it
should, and when both are gone the text is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EILSEQ, EINVAL

import pytest

from pyctl import ControlError, Guest, Probe, Probes, Reason
from pyctl.control import DEBUGFS
from pyctl.errors import RemoteOSError
from pyctl.timing import Deadline, attempts
from pyctl.verify.bulk import find_targets
from pyctl.verify.functrace import FunctionTracer
from pyctl.verify.jumps import commit_all
from pyctl.verify.testmodules import Peers, Targets
from pyctl.workloads import FileIo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

#: x + 31, five instructions of four bytes; kmod/test/entries.S. Two are the DCR.
FUNCTION = "djp_test_neighbours"
LENGTH = 24
RACE_SECONDS = 4.0
IA = 4
#: Where the kprobe is, from the insertion address.
PLACES = {"before": -4, "at": 0, "inside": 4, "behind": 8}
STATES = ("bypass", "jump", "int3")
#: Called once for each pwrite of a workload, and by nobody else.
PWRITE = "__x64_sys_pwrite64"
REFUSED = {EINVAL, EILSEQ}
#: What register_kprobe() may answer where a probe is: 0 or an errno.
ANSWERS = {
    ("before", "bypass"): {0},
    ("before", "jump"): {0},
    # An int3 that is not its own can't be copied. A jump can, and is emulated.
    ("at", "bypass"): REFUSED,
    ("at", "jump"): {0, *REFUSED},
    # Never reached, and optimised it would cover where our detour comes back.
    ("inside", "bypass"): REFUSED,
    ("inside", "jump"): REFUSED,
    ("behind", "bypass"): {0},
    ("behind", "jump"): {0},
    # One instruction is displaced, and its four bytes are all that is ours.
    ("before", "int3"): {0},
    ("at", "int3"): REFUSED,
    ("inside", "int3"): {0},
    ("behind", "int3"): {0},
}


@pytest.fixture
def functions(guest: Guest) -> Targets:
    return Targets(guest)


@pytest.fixture
def peers(guest: Guest, probes: Probes) -> Iterator[Peers]:
    """What a test leaves behind goes before our probes do, which it may hold."""
    it = Peers(guest)
    yield it
    it.remove_kprobes()


def answer(peers: Peers, address: int, *, stepped: bool = False) -> int:
    """What register_kprobe() says."""
    try:
        peers.add_kprobe(address, stepped=stepped)
    except RemoteOSError as error:
        return error.errno
    return 0


def probe_in(state: str, probes: Probes, target: str) -> Probe:
    probe = probes.add(target, method="int3" if state == "int3" else "jump")
    if state == "jump":
        assert probes.commit().complete
    assert probe.state == state
    return probe


def last_error(guest: Guest) -> dict[str, str]:
    lines = guest.transport.read(f"{DEBUGFS}/last_error").decode().splitlines()
    return {key: value for key, _, value in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize("stepped", [False, True], ids=["optimised", "stepped"])
@pytest.mark.parametrize(
    ("where", "instead"), [("before", "kprobe"), ("at", "kprobe"), ("inside", "int3")]
)
def test_a_kprobe_that_is_there_is_named(
    watched: Guest,
    probes: Probes,
    functions: Targets,
    peers: Peers,
    where: str,
    instead: str,
    stepped: bool,
) -> None:
    """No jump goes over a kprobe, be it an int3 or a jump of its own. What can stand there
    instead counts beside it, whoever goes first."""
    start = functions.address(FUNCTION)
    before = functions.text(start, LENGTH)
    address = start + IA + PLACES[where]
    target = f"djp_test:{FUNCTION}+{IA}"
    for first in ("kprobe", "djprobe"):
        peers.add_kprobe(address, stepped=stepped)
        assert stepped or peers.optimised(address)

        with pytest.raises(ControlError) as caught:
            probes.add(target, method="jump")
        assert caught.value.reason is Reason.KPROBE
        assert f"{address:#x}" in str(caught.value.offending)
        answer = probes.explain(target)
        assert (answer.method, answer.reason) == (instead, Reason.KPROBE)
        assert answer.offending is not None
        assert answer.offending.address == address

        probe = probes.add(target)
        assert (probe.method, probe.reason) == (instead, Reason.KPROBE)
        assert probes.commit().complete
        assert functions.call(FUNCTION, 200) == 0
        assert (probe.hits, peers.kprobe_hits(address)) == (200, 200)
        if first == "kprobe":
            peers.remove_kprobe(address)
            assert functions.call(FUNCTION, 100) == 0
            assert probe.hits == 300
            probe.remove()
        else:
            probe.remove()
            assert functions.call(FUNCTION, 100) == 0
            assert peers.kprobe_hits(address) == 300
            peers.remove_kprobe(address)
        assert functions.call(FUNCTION, 10) == 0
        assert functions.text(start, LENGTH) == before


def test_a_kprobe_out_of_reach_is_no_reason(
    watched: Guest, probes: Probes, functions: Targets, peers: Peers
) -> None:
    """One behind the DCR was there first, and is optimised."""
    start = functions.address(FUNCTION)
    before = functions.text(start, LENGTH)
    behind = start + IA + PLACES["behind"]
    peers.add_kprobe(behind)
    assert peers.optimised(behind)
    probe = probe_in("jump", probes, f"djp_test:{FUNCTION}+{IA}")
    assert functions.call(FUNCTION, 50) == 0
    assert (probe.hits, peers.kprobe_hits(behind)) == (50, 50)
    peers.remove_kprobe(behind)
    assert functions.call(FUNCTION, 50) == 0
    assert probe.hits == 100
    probe.remove()
    assert functions.text(start, LENGTH) == before


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("where", PLACES)
def test_a_kprobe_that_comes_later(
    watched: Guest, probes: Probes, functions: Targets, peers: Peers, where: str, state: str
) -> None:
    """Removed in either order, optimised if it can be, or never."""
    start = functions.address(FUNCTION)
    before = functions.text(start, LENGTH)
    address = start + IA + PLACES[where]
    for stepped, first in ((False, "djprobe"), (True, "kprobe")):
        probe = probe_in(state, probes, f"djp_test:{FUNCTION}+{IA}")
        got = answer(peers, address, stepped=stepped)
        if got == 0 and got not in ANSWERS[where, state]:
            peers.remove_kprobe(address)  # before it is optimised, and somebody dies
        assert got in ANSWERS[where, state]
        accepted = got == 0
        if accepted and not stepped and where == "behind":
            assert peers.optimised(address)
        assert functions.call(FUNCTION, 200) == 0
        assert (probe.state, probe.hits) == (state, 200)
        if accepted:
            assert peers.kprobe_hits(address) == 200
            remove_both(watched, probe, peers, functions, address, first)
        else:
            probe.remove()
        assert functions.call(FUNCTION, 10) == 0
        assert functions.text(start, LENGTH) == before


def remove_both(
    guest: Guest, probe: Probe, peers: Peers, functions: Targets, address: int, first: str
) -> None:
    """Each counts on when the other is gone. But who has written over the other's bytes has to
    go first, which is said."""
    if first == "kprobe":
        peers.remove_kprobe(address)
        assert functions.call(FUNCTION, 100) == 0
        assert probe.hits == 300
        probe.remove()
    elif address == probe.address:
        with pytest.raises(ControlError) as caught:
            probe.remove()
        assert caught.value.reason is Reason.FOREIGN_TEXT
        assert f"{address:#x}" in str(caught.value.offending)
        assert last_error(guest).get("owner") == "kprobe"
        assert functions.call(FUNCTION, 100) == 0
        assert (probe.hits, peers.kprobe_hits(address)) == (300, 300)
        peers.remove_kprobe(address)
        probe.remove()
    else:
        probe.remove()
        assert functions.call(FUNCTION, 100) == 0
        assert peers.kprobe_hits(address) == 300
        peers.remove_kprobe(address)


def test_kprobes_find_the_instructions_behind_a_jump(
    watched: Guest, probes: Probes, functions: Targets, peers: Peers
) -> None:
    """register_kprobe() decodes from the function's start, over our jump and what is left of
    the DCR behind it. It has to find the same instructions there as without us."""
    start = functions.address("djp_test_out_of_step")
    behind = range(10, 21)

    def found() -> list[int]:
        offsets = []
        for offset in behind:
            if answer(peers, start + offset, stepped=True) == 0:
                peers.remove_kprobe(start + offset)
                offsets.append(offset)
        return offsets

    original = found()
    assert original == [10, 17]
    probe_in("jump", probes, "djp_test:djp_test_out_of_step+4")
    assert found() == original


@pytest.fixture(scope="module")
def other_guest() -> Iterator[Guest]:
    """For tests where somebody executes half a jump when it goes wrong."""
    with Guest.boot("bookworm-cloud") as it:
        it.load()
        yield it


@pytest.mark.parametrize(
    ("where", "state"),
    [
        ("before", "bypass"), ("at", "bypass"), ("at", "jump"), ("inside", "bypass"),
        ("inside", "jump"),
    ],
)  # fmt: skip
def test_a_kprobe_that_was_begun_before_us(other_guest: Guest, where: str, state: str) -> None:
    """Its registration stands still where the kernel has copied the instruction, and nobody
    can see the kprobe yet, until our probe is in ``state``."""
    log = other_guest.kernel_log()
    with other_guest.probes() as probes:
        functions, peers = Targets(other_guest), Peers(other_guest)
        start = functions.address(FUNCTION)
        before = functions.text(start, LENGTH)
        peers.begin_slow_kprobe(start + IA + PLACES[where])
        probe: Probe | None
        try:
            probe = probe_in(state, probes, f"djp_test:{FUNCTION}+{IA}")
        except ControlError as error:
            assert error.reason in (Reason.KPROBE, Reason.FOREIGN_TEXT)  # noqa: PT017
            probe = None
        peers.end_slow_kprobe()
        assert functions.call(FUNCTION, 100) == 0
        assert peers.slow_kprobe_hits() == 100
        if probe:
            assert probe.hits == 100
        peers.remove_slow_kprobe()
        assert functions.call(FUNCTION, 100) == 0
        if probe:
            assert probe.hits == 200
            probe.remove()
        assert functions.text(start, LENGTH) == before
    log.check()


@pytest.mark.parametrize(
    ("optimised", "stepped"),
    [
        ((), (0, IA, IA + 4, IA + 8)),
        ((IA,), (0, IA + 8)),
        ((IA + 4,), (0, IA)),
        ((IA + 8,), (0, IA, IA + 4)),
    ],
    ids=["stepped", "at", "inside", "behind"],
)
def test_racing_with_kprobes(
    other_guest: Guest, optimised: tuple[int, ...], stepped: tuple[int, ...]
) -> None:
    """A djprobe and kprobes around it come and go without end, and the function is called.

    Nobody stands where an optimised one's jump would be, see Peers.race().
    """
    log = other_guest.kernel_log()
    functions, peers = Targets(other_guest), Peers(other_guest)
    start = functions.address(FUNCTION)
    before = functions.text(start, LENGTH)
    with (
        functions.load(FUNCTION, FUNCTION) as load,
        peers.race(
            *(start + offset for offset in (*optimised, *stepped)),
            optimised=[start + offset for offset in optimised],
        ),
        functions.churn(start + IA),
    ):
        for _ in attempts(Deadline.after(RACE_SECONDS)):
            pass
    done = functions.churned()
    assert load.wrong == 0
    assert done.added > 0
    assert all(accepted > 0 for accepted in peers.raced().values())
    assert 0 < done.hits <= load.calls(FUNCTION)
    assert functions.call(FUNCTION, 100) == 0
    assert functions.text(start, LENGTH) == before
    log.check()


@pytest.mark.parametrize("state", ["bypass", "jump"])
def test_jump_labels_and_static_calls_flip_beside_us(
    watched: Guest, probes: Probes, functions: Targets, state: str
) -> None:
    """Three probes with a jump label and a static call between them, no byte apart."""
    start = functions.address("djp_test_flipped")
    before = functions.text(start, 48)
    added = probes.add_many(f"djp_test:djp_test_flipped_{number}" for number in (1, 2, 3))
    if state == "jump":
        assert probes.commit().complete
    with functions.load("djp_test_flipped", "djp_test_flipped") as load:
        functions.flip(1000)
    assert load.wrong == 0
    calls = load.calls("djp_test_flipped")
    assert calls > 0
    assert [probe.hits for probe in added] == [calls] * 3
    assert {probe.state for probe in added} == {state}
    probes.remove(*added)
    assert functions.text(start, 48) == before


def test_probes_come_and_go_while_their_neighbours_flip(watched: Guest, functions: Targets) -> None:
    start = functions.address("djp_test_flipped")
    before = functions.text(start, 48)
    with (
        functions.load("djp_test_flipped", "djp_test_flipped") as load,
        functions.churn(functions.address("djp_test_flipped_2")),
    ):
        functions.flip(1000)
    done = functions.churned()
    assert load.wrong == 0
    assert (done.refused, done.stuck) == (0, 0)
    assert done.added > 0
    assert functions.text(start, 48) == before


def test_all_functions_are_traced_while_probes_are_live(watched: Guest, probes: Probes) -> None:
    """Every ftrace site of the kernel is patched, there and back, beside 500 jumps."""
    targets = find_targets(watched.transport, 500)
    with watched.kernel_text() as text:
        text.save()
        with FileIo().prepare(watched.transport) as work:
            added = probes.add_many(targets.functions)
            pwrite = probes.add(PWRITE)
            commit_all(probes, [probe.name for probe in added])
            calls = 0
            for _ in range(3):
                with FunctionTracer(watched.transport) as tracer:
                    names = tracer.during(lambda: work.go(operations=100))
                assert PWRITE in names
                calls += 100
                calls += work.go(operations=100).operations["pwrite"]
            assert pwrite.hits == calls
        assert {status.state for status in probes.list()} == {"jump"}
        probes.remove_all()
        text.diff().check()
