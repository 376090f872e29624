"""Tasks held exactly where a wrong strategy does them harm (``kmod/test/hold.c``).

    with Victim(guest, VictimKind.USER) as victim:
        victim.hold(Way.PREEMPT, places(control, victim.target).jtpr)
        probes.add(victim.target)
        probes.commit()         # it must not become a jump now
        victim.release()

For guests that may be lost: on a wrong strategy the victim, or its kernel, dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from pyctl.control import Control
from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.timing import Deadline, attempts
from pyctl.transport import Process, Transport
from pyctl.transport.base import Closing
from pyctl.verify.preemption import Preemption
from pyctl.verify.testmodules import DEBUG, Calls, Targets, parse_calls
from pyctl.workloads.base import start_script

MODULE = "djp_test"
SCRIPT = "pyctl.verify.remote.victim"
#: What has to run, or nobody comes.
PASSERS_BY = {
    "exiting": "pyctl.verify.remote.exiting",
    "faulting": "pyctl.verify.remote.faulting",
}
#: Returns something else, if it returns, to whom its code was changed under.
FUNCTION = "djp_test_victim"
#: Its DCR ends in a call of a function that sleeps when it is told to.
SLEEPY_FUNCTION = "djp_test_sleepy"
#: The C handler of the probe that :meth:`Victim.handler` puts on FUNCTION.
HANDLER = "djp_test_on_victim"
THROTTLE = "/proc/sys/kernel/sched_rt_runtime_us"
#: The CPUs that work which is bound to none runs on.
UNBOUND = "/sys/devices/virtual/workqueue/cpumask"
#: For how long at most a victim is held, in seconds. The hog that preempts it may starve
#: ksoftirqd, and RCU tells of a stall after 21 s.
HOLD_SECONDS = 20.0
#: The same for ways that keep a CPU from everything else: what stops the machine waits.
BLOCKING_SECONDS = 3.0
#: Sleeps until it can read.
DECOY = "cat"
#: The pid of kernel threads' parent.
KTHREADD = "2"
#: How long a victim may take to begin or to end, in seconds before scaling.
PATIENCE = 20.0


class VictimKind(StrEnum):
    """Who is held: a kernel thread, which can't be frozen; a process; a softirq on its CPU's
    interrupt stack, which a kernel thread has raised. And of those that come by somewhere
    in the kernel: the idle task; a process that has left the list of processes, and runs
    the rest of ``do_exit()``; one in a page fault that it had in the kernel."""

    KTHREAD = "kthread"
    USER = "user"
    SOFTIRQ = "softirq"
    IDLE = "idle"
    EXITING = "exiting"
    FAULTING = "faulting"


class Way(StrEnum):
    """How a victim is kept where it is: preempted by a thread of higher priority; below a
    softirq that does not end (a hard interrupt, if it is one itself); in a probe's handler
    that does not end; asleep in a call."""

    PREEMPT = "preempt"
    INTERRUPT = "interrupt"
    SPIN = "spin"
    SLEEP = "sleep"

    @property
    def blocks(self) -> bool:
        """Whether its CPU runs no other task meanwhile, ``stop_machine()``'s neither."""
        return self in {Way.INTERRUPT, Way.SPIN}


def ways_in_code(model: Preemption) -> tuple[Way, ...]:
    """The ways to hold a task at any instruction, by preemption model. Without preemption
    nobody takes its CPU from a task in the kernel; an interrupt still does."""
    return (Way.PREEMPT, Way.INTERRUPT) if model is Preemption.FULL else (Way.INTERRUPT,)


@dataclass(frozen=True)
class Held:
    """The file ``hold``: ``state`` is ``idle``, ``armed``, ``taken``, ``held``,
    ``released``, ``expired`` (at the deadline) or ``missed``; ``pid`` the victim's."""

    state: str
    pid: int


@dataclass(frozen=True)
class Handled:
    """The file ``victim_handler``: how often the handler was called; how often it still ran
    when its probe had been unregistered; the probe's hits and refused hits."""

    handled: int
    late: int
    hits: int
    missed: int


class Passerby(Closing):
    """Whoever of this kind comes to an address, on the last CPU, can be held there. A context
    manager; djp_test has to be loaded."""

    def __init__(self, guest: Guest, kind: VictimKind) -> None:
        self._transport = guest.transport
        self._kind = kind
        self._process: Process | None = None
        # Or what preempts it has to give way after a second.
        self._throttle: bytes | None = self._transport.read(THROTTLE)
        self._transport.write(THROTTLE, b"-1")
        try:
            _use_cpus(self._transport, spare=1)
            self._process = self._start()
        except BaseException:
            self.close()
            raise

    @property
    def held(self) -> Held:
        """The last hold."""
        pairs = dict(line.split() for line in self._read("hold").splitlines())
        return Held(pairs["state"], int(pairs["pid"]))

    def hold(self, way: Way, address: int = 0, *, seconds: float | None = None) -> Held:
        """Hold it at ``address`` (ways PREEMPT and INTERRUPT), for ``seconds`` at most.

        Returns when it is held. RemoteOSError: EAGAIN, it was not preempted there;
        ETIMEDOUT, it does not come there.
        """
        if seconds is None:
            seconds = BLOCKING_SECONDS if way.blocks else HOLD_SECONDS
        decoy = self._decoy() if self._kind is VictimKind.IDLE else None
        self._write("hold", f"{self._kind} {way} {address:#x} {round(seconds * 1000)}")
        if decoy:
            decoy.send_line("")
            self._wait_for_decoy("R")
        return self.held

    def release(self) -> None:
        """Let go; it goes on calling."""
        self._write("hold", "release")

    def wait_until_free(self) -> Held:
        """Wait until it is held no more: the deadline may be what ends it."""
        for _ in attempts(Deadline.after(HOLD_SECONDS + PATIENCE)):
            held = self.held
            if held.state != "held":
                return held
        raise OracleError(f"{self._transport.host}: the victim is still held: {held}")

    def close(self) -> None:
        """Let go, and end it."""
        if self._throttle is None:
            return
        try:
            self._write("hold", "stop")
            self._transport.write(THROTTLE, self._throttle)
            _use_cpus(self._transport)
            self._throttle = None
        finally:
            if self._process is not None:
                self._process.close()

    def _start(self) -> Process | None:
        script = PASSERS_BY.get(self._kind)
        return _start_script(self._transport, script) if script else None

    def _decoy(self) -> Process:
        """A process that sleeps, and can run on the last CPU only. While that one is held it looks
        idle, so kernel threads would be woken there, and wait: who waits there already keeps
        them off."""
        last = int(self._transport.run(["nproc", "--all"]).text) - 1
        self._process = self._transport.spawn(["taskset", "--cpu-list", str(last), DECOY])
        self._wait_for_decoy("S")
        return self._process

    def _wait_for_decoy(self, state: str) -> None:
        for _ in attempts(Deadline.after(PATIENCE)):
            rows = self._transport.run(["ps", "-e", "-o", "stat=,comm="]).text.splitlines()
            if any((row[0], row.split()[-1]) == (state, DECOY) for row in rows):
                return
        raise OracleError(f"{self._transport.host}: there is no {DECOY} in state {state}")

    def _read(self, file: str) -> str:
        return self._transport.read(f"{DEBUG}/{MODULE}/{file}").decode()

    def _write(self, file: str, text: str) -> None:
        self._transport.write(f"{DEBUG}/{MODULE}/{file}", text.encode())


class Victim(Passerby):
    """A task that does nothing but call ``function``, on the last CPU, and can be held there.
    A context manager. A process runs at once; the others from each :meth:`hold` on.
    """

    def __init__(
        self, guest: Guest, kind: VictimKind = VictimKind.KTHREAD, function: str = FUNCTION
    ) -> None:
        self._targets = Targets(guest)
        self._function = function
        self._address = self._targets.address(function)
        self._before = Calls(0, 0)
        super().__init__(guest, kind)

    @property
    def target(self) -> str:
        """Where to probe it."""
        return f"{MODULE}:{self._function}"

    @property
    def address(self) -> int:
        """Its function's address."""
        return self._address

    @property
    def handler_address(self) -> int:
        """The address of the handler that :meth:`handler` registers."""
        return self._targets.address(HANDLER)

    @property
    def comm(self) -> str:
        """Its name, as the kernel has it. It must be held, or have been."""
        return self._transport.read(f"/proc/{self.held.pid}/comm").decode().rstrip("\n")

    @property
    def calls(self) -> Calls:
        """Its calls so far, one that is under way too, and wrong results."""
        now = parse_calls(self._read("victim"))[self._function]
        return Calls(now.calls - self._before.calls, now.wrong - self._before.wrong)

    @property
    def handled(self) -> Handled:
        """What the handler saw."""
        pairs = (line.split() for line in self._read("victim_handler").splitlines())
        return Handled(**{key: int(value) for key, value in pairs})

    def stop(self) -> Calls:
        """Let go and end it; all its calls are over when this returns. A process can't be
        started again."""
        self._write("hold", "stop")
        if self._process is not None:
            self._process.terminate()
        return self.calls

    @contextmanager
    def handler(self) -> Iterator[None]:
        """A probe with a C handler at the function's entry, while the context is open."""
        self.register_handler()
        try:
            yield
        finally:
            self.release()  # or it would wait for the handler
            self.unregister_handler()

    def register_handler(self) -> None:
        """The same, without a context."""
        self._write("victim_handler", "register")

    def unregister_handler(self) -> None:
        """Take it away, if it is there; returns when it will not run again."""
        self._write("victim_handler", "unregister")

    def _start(self) -> Process | None:
        self._before = self.calls
        if self._kind is not VictimKind.USER:
            return None
        return _start_script(self._transport, SCRIPT, f"{DEBUG}/{MODULE}/victim", self._function)


def _start_script(transport: Transport, script: str, *arguments: str) -> Process:
    process = start_script(transport, "djp-victim", script, (), *arguments)
    try:
        if process.read_line(PATIENCE) is None:
            raise OracleError(f"the victim did not start\n{process.stderr_tail()}")
    except BaseException:
        process.close()
        raise
    return process


def _use_cpus(transport: Transport, *, spare: int = 0) -> None:
    """Let processes run on all CPUs but the last ``spare``. While a task is held on one the
    scheduler still gives it work to do, which then waits."""
    last = int(transport.run(["nproc", "--all"]).text) - 1 - spare
    if last < 0:
        raise OracleError(f"{transport.host}: a task can't be held on its only CPU")
    transport.write(UNBOUND, f"{(2 << last) - 1:x}\n".encode())
    rows = transport.run(["ps", "-e", "-o", "pid=,ppid="]).text.splitlines()
    for pid, parent in (row.split() for row in rows):
        if KTHREADD not in {pid, parent}:
            # It may have ended meanwhile, as ps has.
            argv = ["taskset", "--all-tasks", "--pid", "--cpu-list", f"0-{last}", pid]
            transport.run(argv, check=False)


@dataclass(frozen=True)
class Places:
    """Addresses to hold a task at: in the JTPR, where its second instruction begins; in the
    detour at its first instruction, before it has counted; in the detour at the copy of that
    second instruction."""

    jtpr: int
    detour_head: int
    detour_copy: int


def places(control: Control, target: str) -> Places:
    """Those of a target. The detour's are those of the one in use, if it is probed."""
    found = control.explain(target)
    if found.address is None or found.detour is None or len(found.entries) < 2:
        raise OracleError(f"{target}: no detour of two instructions: {found}")
    second = found.entries[1]
    return Places(found.address + second.offset, found.detour.address, second.address)
