"""A kernel thread preempted inside the bytes that a jump would cover.

It is what the whole project is about, so the wrong ways are run too, and must be seen to
go wrong. See kmod/test/hold.c for how it is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyctl import ControlError, Guest, Probes, Reason
from pyctl.errors import DjprobesError
from pyctl.module import SOURCE as KMOD
from pyctl.timing import Deadline, attempts
from pyctl.verify.testmodules import Peers, Targets

pytestmark = pytest.mark.vm

HOLD = "/sys/kernel/debug/djp_test/hold"
VICTIM = "djp_test:djp_test_victim"


def state(guest: Guest) -> dict[str, int]:
    rows = (line.split() for line in guest.transport.read(HOLD).decode().splitlines())
    return {key: int(value) for key, value in rows}


@contextmanager
def own_guest(**parameters: str) -> Iterator[Guest]:
    """A guest of its own: some of these tests end theirs."""
    with Guest.boot("bookworm-cloud") as guest:
        guest.load(parameters=parameters)
        guest.load_extra("djp_test", source=KMOD)
        # Otherwise the hog has to give way after a second.
        guest.transport.write("/proc/sys/kernel/sched_rt_runtime_us", b"-1")
        yield guest


def hold(guest: Guest) -> None:
    guest.transport.write(HOLD, b"1")
    assert state(guest)["held"] == 1


def let_go(guest: Guest) -> None:
    guest.transport.write(HOLD, b"0")


def wait_for_jump(probes: Probes, name: str, seconds: float) -> None:
    for _ in attempts(Deadline.after(seconds)):
        if probes.status(name).state == "jump":
            return
    pytest.fail(f"{name} is still in bypass: {probes.stats()}")


def test_freezer_waits_for_the_victim() -> None:
    with own_guest() as guest, guest.probes() as probes:
        log = guest.kernel_log()
        hold(guest)
        probe = probes.add(VICTIM, name="victim")
        result = probes.commit()
        assert not result.complete
        assert (result.patched, result.deferred) == (0, 1)
        assert probe.state == "bypass"

        # A site that nobody stands in is patched by the same commit, or by a retry before it.
        other = probes.add("ksys_pread64")
        result = probes.commit()
        assert (result.stats.patched, result.deferred) == (1, 1)
        assert (other.state, probe.state) == ("jump", "bypass")

        log.check()
        calls_when_held = state(guest)["calls"]
        let_go(guest)
        wait_for_jump(probes, "victim", seconds=60)
        end = state(guest)
        assert end["wrong"] == 0
        assert end["calls"] >= calls_when_held
        # The call during which it was held had passed the insertion address already.
        assert probe.hits == end["calls"] - calls_when_held
        log.check()


@pytest.mark.parametrize("strategy", ["none", "freeze_only"])
def test_without_the_scan_the_victim_dies(strategy: str) -> None:
    with own_guest(unsafe="1") as guest:
        probes = guest.probes()  # not as a context: the guest may be dead when it would end
        probes.strategy = strategy
        hold(guest)
        probe = probes.add(VICTIM)
        assert probes.commit().complete
        assert probe.state == "jump"
        wrong = 0
        try:
            let_go(guest)
            wrong = state(guest)["wrong"]
        except DjprobesError:
            pass
        assert guest.crashed() or wrong, "the victim went on as if nothing had happened"


def test_a_stalled_optimiser_is_not_waited_for() -> None:
    """Kprobes' optimiser keeps everybody from writing text while a task stands in the buffer
    of a kprobe that was removed. We say so, and go on when it is over."""
    with own_guest() as guest, guest.probes() as probes:
        log = guest.kernel_log()
        targets, peers = Targets(guest), Peers(guest)
        start = targets.address("djp_test_victim")
        region = targets.text(start, VICTIM_REGION)
        peers.add_kprobe(start)
        assert peers.optimised(start), "the kernel did not optimise the kprobe"
        jump = targets.text(start, 5)
        buffer = start + 5 + int.from_bytes(jump[1:], "little", signed=True)
        copied = targets.text(buffer, OPTPROBE_BUFFER).index(region[2:])
        guest.transport.write(HOLD, f"{buffer + copied:#x}".encode())
        assert state(guest)["held"] == 1
        # It may not come back before the victim is let go.
        removal = f"(echo -{start:#x} > /sys/kernel/debug/djp_peer/kprobe) >/dev/null 2>&1 &"
        guest.transport.run(["sh", "-c", removal])

        refused = early = None
        for _ in attempts(Deadline.after(30)):
            try:
                if early:
                    early.remove()
                early = None
                early = probes.add(f"{VICTIM}+2", name="early")
            except ControlError as error:
                refused = error.reason
                if refused is Reason.KPROBES_BUSY:
                    break
        assert refused is Reason.KPROBES_BUSY
        let_go(guest)
        if early:  # it came before the optimiser began to wait
            early.remove()
        for _ in attempts(Deadline.after(60)):
            kprobes = guest.transport.read(KPROBES).decode()
            if not kprobes and targets.text(start, VICTIM_REGION) == region:
                break
        assert not kprobes
        # Its landing, +5, is in the JTPR of this one.
        probes.add(f"{VICTIM}+2", name="behind")
        probes.commit()
        wait_for_jump(probes, "behind", seconds=60)
        guest.transport.write(HOLD, b"1")
        let_go(guest)
        assert state(guest)["wrong"] == 0
        log.check()


KPROBES = "/sys/kernel/debug/kprobes/list"
#: Bytes that an optimised kprobe on djp_test_victim displaces.
VICTIM_REGION = 5
#: More than the kernel's template and five bytes.
OPTPROBE_BUFFER = 256


def test_unsafe_strategies_are_not_offered(guest: Guest) -> None:
    with guest.probes() as probes:
        assert probes.strategies == ("freezer",)
        with pytest.raises(DjprobesError):
            probes.strategy = "none"
