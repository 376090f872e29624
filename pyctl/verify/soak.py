"""Commits without end, while everything happens that has ever come between a commit and its
quiescence; every count exact, the log clean, the text as it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.kernellog import KernelLog
from pyctl.probes import Probes
from pyctl.quiescence import AUTO
from pyctl.timing import Deadline, attempts
from pyctl.verify.bulk import find_targets
from pyctl.verify.chaos import Commits, Hogs, Hotplug, Mortal, Storm, Suspend
from pyctl.verify.kerneltext import KernelText, TextDiff
from pyctl.verify.remote.commits import ORACLES
from pyctl.verify.testmodules import Targets
from pyctl.workloads import Modules, Running, Workload

#: Reached all the time, in task, softirq and hard interrupt context.
HOT = (
    *("vfs_read", "vfs_write", "try_to_wake_up", "tick_sched_timer", "hrtimer_interrupt"),
    *("update_process_times", "__handle_mm_fault", "do_exit", "wake_up_new_task", "dput"),
    *("update_curr", "pick_next_task_fair", "enqueue_task_fair", "finish_task_switch"),
)
#: Functions that the batches are drawn from.
POOL = 300
#: Functions of djp_test that kernel threads call all the time and that check themselves; on
#: the first stands a probe from beginning to end.
CHECKED = ("djp_test_plain", "djp_test_jcc", "djp_test_state")
#: Commits between two looks at the kernel log, which must not overflow meanwhile, and how
#: long they may take, in seconds before scaling.
SLICE = 200
SLICE_SECONDS = 1800.0
RECLAIM_SECONDS = 60.0


class Trouble(StrEnum):
    """What goes on beside the commits."""

    HOTPLUG = "hotplug"
    MODULES = "modules"
    STORM = "storm"
    HOGS = "hogs"
    SUSPEND = "suspend"
    KILL = "kill"
    WRITERS = "writers"


@dataclass(frozen=True)
class Soaked:
    """What was done: ``commits`` of the checked writers; ``oracle_hits``, all of them as
    they had to be; what each ``trouble`` counts; ``threads_calls`` and ``threads_hits`` of a
    probe that stood all the time at a function called by kernel threads, and
    ``threads_wrong``, wrong results of all such functions. ``text`` compares all kernel text
    with what it was before."""

    commits: int
    seconds: float
    probes: int
    oracle_hits: int
    pool_hits: int
    late: int
    busy: int
    trouble: Mapping[str, Mapping[str, int]]
    threads_calls: int
    threads_hits: int
    threads_wrong: int
    partial: int
    max_stop_ns: int
    text: TextDiff
    left: int

    @property
    def passed(self) -> bool:
        """Counts exact, text as it was, nothing left behind; the log was looked at before."""
        exact = self.threads_hits == self.threads_calls and not self.threads_wrong
        happened = all(any(counts.values()) for counts in self.trouble.values())
        return exact and happened and self.text.clean and self.left == 0


def soak(
    guest: Guest,
    *,
    commits: int,
    trouble: Collection[Trouble] = tuple(Trouble),
    strategy: str = AUTO,
    seed: int = 0,
    pool: int = POOL,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Soaked:
    """Do it on a guest with djprobes loaded and no probes; ``progress`` hears commits done
    and in all. KernelLogError for a fault in the log, WorkloadError for a wrong count."""
    transport = guest.transport
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(guest.probes())
        if strategy in probes.strategies:
            probes.strategy = strategy
        log = guest.kernel_log()
        targets = Targets(guest)
        text = stack.enter_context(KernelText(transport))
        functions = find_targets(transport, pool, HOT).functions
        text.save()
        before = probes.stats()
        start = time.monotonic()
        standing = probes.add(f"djp_test:{CHECKED[0]}")
        writer = stack.enter_context(make_writer("soak", 0, functions, seed).prepare(transport))
        # Kernel threads, which no freezer stops; they end last, so that nobody counts on.
        with targets.load(*CHECKED) as threads:
            beside = {
                kind: stack.enter_context(make_workload(kind, functions, seed).prepare(transport))
                for kind in trouble
            }
            for running in beside.values():
                running.start()
            counts = _commit(writer, commits, log, progress)
            stopped = {kind: running.stop().operations for kind, running in beside.items()}
        hits = standing.hits
        standing.remove()
        _reclaim(probes)
        log.check()
        after = probes.stats()
        return Soaked(
            commits=counts["commit"] + stopped.get(Trouble.WRITERS, {}).get("commit", 0),
            seconds=time.monotonic() - start,
            probes=counts["probe"],
            oracle_hits=counts["oracle_hits"],
            pool_hits=counts["pool_hits"],
            late=counts["late"],
            busy=counts["busy"],
            trouble={str(kind): dict(done) for kind, done in stopped.items()},
            threads_calls=threads.calls(CHECKED[0]),
            threads_hits=hits,
            threads_wrong=threads.wrong,
            partial=after.commits_partial - before.commits_partial,
            max_stop_ns=after.max_stop_ns,
            text=text.diff(),
            left=len(probes.list()) + after.detours_retired,
        )


def _commit(
    writer: Running, commits: int, log: KernelLog, progress: Callable[[int, int], None]
) -> dict[str, int]:
    """So many, slice by slice, with a look at the log after each."""
    total: dict[str, int] = {}
    while (done := total.get("commit", 0)) < commits:
        progress(done, commits)
        writer.start(operations=(min(SLICE, commits - done) + 1) // 2)
        for kind, number in writer.finish(SLICE_SECONDS).operations.items():
            total[kind] = total.get(kind, 0) + number
        log.check()
    progress(total["commit"], commits)
    return total


def make_writer(name: str, number: int, pool: tuple[str, ...], seed: int) -> Commits:
    """The first or the second; they have no function in common that is counted exactly."""
    oracles = tuple(ORACLES)[number::2]
    return Commits(writer=name, oracles=oracles, pool=pool, seed=seed + number)


def make_workload(kind: Trouble, pool: tuple[str, ...], seed: int) -> Workload:
    kinds: Mapping[Trouble, Workload] = {
        Trouble.HOTPLUG: Hotplug(seed=seed),
        Trouble.MODULES: Modules(),
        Trouble.STORM: Storm(),
        Trouble.HOGS: Hogs(),
        Trouble.SUSPEND: Suspend(),
        Trouble.KILL: Mortal(seed=seed),
        Trouble.WRITERS: make_writer("other", 1, pool, seed),
    }
    return kinds[kind]


def _reclaim(probes: Probes) -> None:
    """Free all that was retired; it is quiet now."""
    for _ in attempts(Deadline.after(RECLAIM_SECONDS)):
        probes.reclaim()
        if probes.stats().detours_retired == 0:
            return
    raise OracleError(
        "retired detours are not reclaimed: " + "; ".join(str(one) for one in probes.blockers())
    )
