"""Commits without end, while everything happens that has ever come between a commit and its
quiescence; every count exact, the log clean, the text as it was."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
SLICE = 100
SLICE_SECONDS = 1800.0
#: In one slice of so many all that is asked for goes on at the same time.
ALL_TOGETHER = 16
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
            counts, stopped = _commit(writer, beside, commits, seed, log, progress)
        hits = standing.hits
        standing.remove()
        _reclaim(probes)
        log.check()
        after = probes.stats()
        return Soaked(
            commits=counts["commit"] + stopped.get(Trouble.WRITERS, Counter())["commit"],
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
    writer: Running,
    beside: Mapping[Trouble, Running],
    commits: int,
    seed: int,
    log: KernelLog,
    progress: Callable[[int, int], None],
) -> tuple[Counter[str], dict[Trouble, Counter[str]]]:
    """So many, slice by slice, with a look at the log after each; what the writer did, and
    what went on beside it."""
    draw = random.Random(seed)
    total = Counter[str]()
    counts = {kind: Counter[str]() for kind in beside}
    slices = 0
    progress(0, commits)
    while total["commit"] < commits:
        active = slice_of(tuple(beside), slices, draw)
        for kind in active:
            beside[kind].start()
        writer.start(operations=(min(SLICE, commits - total["commit"]) + 1) // 2)
        total.update(writer.finish(SLICE_SECONDS).operations)
        for kind in active:
            counts[kind].update(beside[kind].stop().operations)
        log.check()
        slices += 1
        progress(total["commit"], commits)
    return total, counts


def slice_of(kinds: Sequence[Trouble], number: int, draw: random.Random) -> tuple[Trouble, ...]:
    """What goes on during a slice: all of it in one of ALL_TOGETHER, the first too;
    otherwise one or two kinds, or nothing gets done on a slow guest."""
    if number % ALL_TOGETHER == 0:
        return tuple(kinds)
    return tuple(draw.sample(kinds, min(len(kinds), draw.randint(1, 2))))


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
