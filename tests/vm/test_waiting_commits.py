"""While a commit waits for a task, nobody waits for the commit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pyctl import Guest, Probe, Probes
from pyctl.control import DEBUGFS
from pyctl.module import SOURCE as KMOD
from pyctl.quiescence import AUTO
from pyctl.timing import Deadline, attempts
from pyctl.transport import Process
from pyctl.verify.adversaries import Victim, Way, places

pytestmark = pytest.mark.vm

#: Longer than a task is held: a commit that ends before has not waited for its deadline.
DEADLINE_MS = 100_000
#: With ``fixup`` nothing has to wait here.
WAITING = ("rendezvous", "stackscan", "freezer", "rcu_tasks")
CPU = "/sys/devices/system/cpu/cpu1/online"
#: A switch in front of a static key.
SCHEDSTATS = "/proc/sys/kernel/sched_schedstats"
#: A module that needs nothing from any CPU: the victim's has no time for it.
LIBRARY = "lru_cache"
SECONDS = 60.0


@pytest.fixture(scope="module")
def three() -> Iterator[Guest]:
    """A guest that has a CPU left when one is busy with a victim and one off line."""
    with Guest.boot("bookworm-cloud", smp=3) as guest:
        log = guest.kernel_log(allowed=["Call Trace:"])
        guest.load()
        guest.load_extra("djp_test", source=KMOD)
        # What preempts the victim would starve it, and RCU with it.
        pid = guest.transport.run(["pgrep", "--exact", "ksoftirqd/2"]).text
        guest.transport.run(["chrt", "--fifo", "--pid", "90", pid])
        yield guest
        log.check()


@contextmanager
def waiting_commit(guest: Guest, probe: Probe) -> Iterator[Process]:
    """A commit by a process of its own, that waits."""
    argv = ["sh", "-c", f"echo $$; echo commit > {DEBUGFS}/control"]
    with guest.transport.spawn(argv) as process:
        pid = process.read_line()
        for _ in attempts(Deadline.after(SECONDS)):
            if b"djp_commit_locked" in guest.transport.read(f"/proc/{pid}/stack"):
                break
        else:
            pytest.fail("the commit does not wait")
        assert probe.state == "bypass"
        yield process


@pytest.fixture
def patient(three: Guest) -> Iterator[Probes]:
    with three.probes() as probes:
        probes.tunables = replace(probes.tunables, deadline_ms=DEADLINE_MS)
        yield probes
        probes.strategy = AUTO


def settle(probes: Probes, probe: Probe) -> None:
    for _ in attempts(Deadline.after(SECONDS)):
        if probe.state == "jump" and not probes.blockers():
            return
    pytest.fail(f"it is still held up: {probes.blockers()}")


@pytest.mark.parametrize("strategy", WAITING)
def test_no_lock_is_held_that_others_need(three: Guest, patient: Probes, strategy: str) -> None:
    """Not by those who add, remove and list probes, load modules, take CPUs off line, or flip
    static keys."""
    patient.strategy = strategy
    transport = three.transport
    with Victim(three) as victim:
        victim.hold(Way.PREEMPT, places(patient.control, victim.target).jtpr)
        probe = patient.add(victim.target)
        with waiting_commit(three, probe) as commit:
            patient.add("ksys_pread64").remove()
            for argv in (["modprobe", LIBRARY], ["modprobe", "--remove", LIBRARY]):
                transport.run(argv)
            for state in (b"0", b"1"):
                transport.write(CPU, state)
            for state in (b"1", b"0"):
                transport.write(SCHEDSTATS, state)
            assert victim.held.state == "held"
            assert probe.state == "bypass"
            victim.release()
            assert commit.wait(SECONDS) == 0
        settle(patient, probe)
    probe.remove()


@pytest.mark.parametrize("strategy", WAITING)
def test_a_signal_ends_the_wait(three: Guest, patient: Probes, strategy: str) -> None:
    patient.strategy = strategy
    with Victim(three) as victim:
        victim.hold(Way.PREEMPT, places(patient.control, victim.target).jtpr)
        probe = patient.add(victim.target)
        with waiting_commit(three, probe) as commit:
            commit.signal(signal.SIGKILL)
            commit.wait(SECONDS)
            assert (victim.held.state, probe.state) == ("held", "bypass")
        # Nobody waits for it any more, but it is not forgotten.
        victim.release()
        settle(patient, probe)
    probe.remove()
