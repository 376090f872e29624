"""Kernel paths of different contexts, each counted by three witnesses at once.

A djprobe and a BPF kprobe (bcc) stand on one function; a workload that knows its own count,
or the network interface's statistics (netlink), is the third. All three have to be equal.

    with PathComparison(guest) as comparison:
        comparison.measure("bypass")
        comparison.commit()
        comparison.measure("jump")

The functions are reached by their workload only, and the workloads run one after another:
a kprobe does not count what happens inside another kprobe's handler, so a timer interrupt
on top of another path would make bcc, not djprobes, miss a hit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyctl.guest import Guest
from pyctl.methods import Method, State
from pyctl.probes import Probe
from pyctl.transport.base import Closing
from pyctl.verify.bcc import BccCounter
from pyctl.verify.jumps import Committed, commit_all
from pyctl.verify.livetext import peek
from pyctl.verify.snapshot import Snapshot, consistent
from pyctl.workloads import Busy, FileIo, Network, Packets, Running, Timers, Workload, Yield

#: The first byte at a probe's address, by state: int3, or the jump's opcode.
OPCODES = {"bypass": 0xCC, "jump": 0xE9}


@dataclass(frozen=True)
class TracedPath:
    """A function, and the workload that alone reaches it.

    bcc counts ``function``. The djprobe stands there too, unless ``probe`` names another
    target. The workload's result has the third count under the key ``counted``; ``witness``
    says in words who counts it.
    """

    kind: str
    function: str
    workload: Workload
    operations: int
    counted: str
    witness: str
    probe: str | None = None

    @property
    def target(self) -> str:
        """Where the djprobe goes."""
        return self.probe or self.function


PATHS = (
    TracedPath("syscall", "__x64_sys_pread64", FileIo(), 2000, "pread", "preads made"),
    TracedPath("scheduler", "yield_task_fair", Yield(), 2000, "sched_yield", "yields made"),
    TracedPath(
        "network tx",
        "veth_xmit",
        Network(),
        500,
        "tx_packets",
        "netlink tx_packets",
        probe="veth:veth_xmit",
    ),
    TracedPath("timer irq", "posix_timer_fn", Timers(), 500, "signal", "expiries received"),
    TracedPath(
        "module",
        "dummy_xmit",
        Packets(),
        2000,
        "tx_packets",
        "netlink tx_packets",
        probe="dummy:dummy_xmit",
    ),
)


@dataclass(frozen=True)
class PathResult:
    """One path in one phase: what each witness counted meanwhile.

    ``target`` is the djprobe's insertion address as a symbol, ``opcode`` the byte that stood
    there in the kernel's memory.
    """

    phase: str
    kind: str
    function: str
    target: str
    state: State | str
    method: Method | str | None
    opcode: int
    djprobe: int
    bcc: int
    third: int
    witness: str
    missed: int

    @property
    def equal(self) -> bool:
        """Whether all three agree, to the last hit, and there were any."""
        return self.djprobe == self.bcc == self.third > 0 and self.missed == 0

    @property
    def as_wanted(self) -> bool:
        """Whether it stood in the phase's state, by the kernel's own memory too."""
        return self.state == self.phase and self.opcode == OPCODES.get(self.phase)

    @property
    def passed(self) -> bool:
        """Equal, and in the state that was to be shown."""
        return self.equal and self.as_wanted


@dataclass(frozen=True)
class PathRun:
    """All paths in one phase. ``idle_percent`` is what the CPUs were idle meanwhile."""

    phase: str
    results: tuple[PathResult, ...]
    idle_percent: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every path did."""
        return all(result.passed for result in self.results)


class PathComparison(Closing):
    """The probes of both kinds on all paths, while every CPU is busy; a context manager."""

    def __init__(
        self,
        guest: Guest,
        paths: Sequence[TracedPath] = PATHS,
        *,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._transport = guest.transport
        self._paths = tuple(paths)
        self._progress = progress
        with contextlib.ExitStack() as stack:
            # The workloads first: they load the modules that are to be probed.
            progress("setting the workloads up")
            self._running: list[Running] = [
                stack.enter_context(path.workload.prepare(guest.transport)) for path in self._paths
            ]
            progress("compiling the BPF programs in the guest")
            self._bcc: BccCounter = stack.enter_context(guest.bcc(slots=len(self._paths)))
            self._probes = stack.enter_context(guest.probes())
            self._made: list[Probe] = self._probes.add_many(path.target for path in self._paths)
            self._bcc.attach(path.function for path in self._paths)
            stack.enter_context(Busy().background(guest.transport))
            self._stack = stack.pop_all()

    def measure(self, phase: str) -> PathRun:
        """Run every workload once, and compare what was counted meanwhile."""
        start, ticks = time.monotonic(), self._ticks()
        pairs = list(zip(self._paths, self._running, self._made, strict=True))
        results = tuple(self._measure(phase, *pair) for pair in pairs)
        idle, total = (b - a for a, b in zip(ticks, self._ticks(), strict=True))
        share = 100 * idle / total if total else 0.0
        return PathRun(phase, results, share, time.monotonic() - start)

    def commit(self) -> Committed:
        """Make all of them jumps, under load."""
        return commit_all(self._probes, [probe.name for probe in self._made])

    def close(self) -> None:
        """Take probes and load away."""
        self._stack.close()

    def _measure(self, phase: str, path: TracedPath, running: Running, probe: Probe) -> PathResult:
        self._progress(f"{phase}: {path.kind}: {path.operations} x {path.workload.name}")
        before = self._counts()
        missed = probe.missed
        done = running.go(operations=path.operations)
        after = self._counts()
        status = probe.status
        (opcode,) = peek(self._transport, [status.address])[0]
        return PathResult(
            phase=phase,
            kind=path.kind,
            function=path.function,
            target=status.target,
            state=status.state,
            method=status.method,
            opcode=opcode,
            djprobe=after.ours[path.function] - before.ours[path.function],
            bcc=after.theirs[path.function] - before.theirs[path.function],
            third=done.operations[path.counted],
            witness=path.witness,
            missed=status.missed - missed,
        )

    def _counts(self) -> Snapshot[str]:
        names = {
            probe.name: path.function for path, probe in zip(self._paths, self._made, strict=True)
        }

        def ours() -> dict[str, int]:
            return {names[name]: hits for name, hits in self._probes.hits().items()}

        return consistent(ours, self._bcc.read)

    def _ticks(self) -> tuple[int, int]:
        """Idle and all clock ticks of all CPUs so far, by /proc/stat."""
        line = self._transport.read("/proc/stat").decode().splitlines()[0]
        numbers = [int(word) for word in line.split()[1:9]]
        return numbers[3] + numbers[4], sum(numbers)
