"""Many probes at once: one write, one commit, live under load, removed, text as it was."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pyctl.control import DEBUGFS
from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.timing import Deadline, attempts
from pyctl.transport import Transport, bootstrap
from pyctl.verify.functrace import FunctionTracer
from pyctl.verify.jumps import Committed, commit_all
from pyctl.verify.kerneltext import KernelText, TextDiff
from pyctl.workloads import Busy, FileIo, Fork, Network, Running, Signals, Workload

TARGETS = "pyctl.verify.remote.targets"
SEARCH_SECONDS = 300.0
#: Seconds that the probes are live after the commit, at least.
LIVE_SECONDS = 5.0
#: Keep every CPU busy, at a priority that leaves the loads their share.
HOGS = Busy(nice=10)
LOADS: tuple[Workload, ...] = (FileIo(), Fork(), Network(), Signals())
#: How long each load is traced, to see what it reaches. Tracing is slow; more adds little.
TRACE_SECONDS = 0.5


@dataclass(frozen=True)
class Targets:
    """Functions that take a jump, and how many had to be asked for."""

    functions: tuple[str, ...]
    asked: int
    seconds: float


@dataclass(frozen=True)
class BulkResult:
    """What was done to ``count`` functions, with seconds of the guest's host.

    ``in_place`` compares kernel text while the jumps stand there, ``restored`` after their
    removal; ``fired`` of the probes were hit, ``hits`` times altogether, while ``load`` was
    done. ``max_stop_ns`` is the longest stop of the machine since the
    module was loaded, ``left`` the number of probes that are still there in the end.
    """

    count: int
    targets: Targets
    add_seconds: float
    committed: Committed
    in_place: TextDiff
    fired: int
    hits: int
    load: Mapping[str, int]
    live_seconds: float
    remove_seconds: float
    restored: TextDiff
    max_stop_ns: int
    left: int

    @property
    def passed(self) -> bool:
        """Text as it was, no probe left, the compare did see them when they were there, and
        most of them were live."""
        seen = self.in_place.unaccounted_bytes >= self.count
        return self.restored.clean and self.left == 0 and seen and self.fired * 2 > self.count


def reached_by(transport: Transport, loads: Sequence[Running]) -> list[str]:
    """Functions that these loads reach, by the kernel's function tracer, each load alone for
    a moment; those that most loads reach first."""
    seen: Counter[str] = Counter()
    with FunctionTracer(transport) as tracer:
        for load in loads:
            seen.update(tracer.during(partial(load.go, seconds=TRACE_SECONDS)))
    return [name for name, _count in seen.most_common()]


def find_targets(transport: Transport, count: int, first: Sequence[str] = ()) -> Targets:
    """``count`` functions of the core kernel that take a jump: those of ``first``, then
    others, spread over its text."""
    argv = bootstrap.command("djp-targets", DEBUGFS, str(count), json.dumps(list(first)))
    done = transport.run(argv, input=bootstrap.bundle(TARGETS), timeout=SEARCH_SECONDS)
    answer = json.loads(done.stdout)
    found = Targets(tuple(answer["functions"]), answer["asked"], answer["seconds"])
    if len(found.functions) < count:
        raise OracleError(
            f"{transport.host}: only {len(found.functions)} of {found.asked} functions take a "
            f"jump, {count} were wanted"
        )
    return found


def run_bulk(
    guest: Guest,
    *,
    count: int = 1000,
    loads: Sequence[Workload] = LOADS,
    hogs: Workload = HOGS,
    live_seconds: float = LIVE_SECONDS,
    progress: Callable[[str], None] = lambda _text: None,
) -> BulkResult:
    """Do it on a guest; nothing is left behind."""
    transport = guest.transport
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(guest.probes())
        progress(f"load: {', '.join(load.name for load in (*loads, hogs))}")
        running = [stack.enter_context(load.prepare(transport)) for load in loads]
        progress("tracing which functions the load reaches")
        reached = reached_by(transport, running)
        running.append(stack.enter_context(hogs.prepare(transport)))
        progress(f"asking explain for {count} functions")
        targets = find_targets(transport, count, reached)
        progress("keeping a copy of all kernel text")
        text = stack.enter_context(KernelText(transport))
        text.save()
        for load in running:
            load.start()
        progress(f"{count} probes in one write")
        start = time.monotonic()
        made = probes.add_many(targets.functions)
        add_seconds = time.monotonic() - start
        progress("one commit")
        committed = commit_all(probes, [probe.name for probe in made])
        _pass_time(live_seconds)
        operations = _stop(running)
        progress("comparing kernel text while the jumps stand there")  # quick without load only
        in_place = text.diff()
        for load in running:
            load.start()
        progress("removing them all, under load")
        start = time.monotonic()
        probes.remove(*made)
        remove_seconds = time.monotonic() - start
        operations = _sum(operations, _stop(running))
        progress("comparing kernel text again")
        restored = text.diff()
        hits = [probe.hits for probe in made]
        return BulkResult(
            count=len(made),
            targets=targets,
            add_seconds=add_seconds,
            committed=committed,
            in_place=in_place,
            fired=sum(1 for number in hits if number),
            hits=sum(hits),
            load=operations,
            live_seconds=live_seconds,
            remove_seconds=remove_seconds,
            restored=restored,
            max_stop_ns=probes.stats().max_stop_ns,
            left=len(probes.list()),
        )


def _pass_time(seconds: float) -> None:
    """The probes are to be hit for a while."""
    for _ in attempts(Deadline(time.monotonic() + seconds, seconds)):
        pass


def _stop(running: Sequence[Running]) -> dict[str, int]:
    """End the load; all its operations together, by kind."""
    return _sum(*(load.stop().operations for load in running))


def _sum(*counts: Mapping[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for kind, number in count.items():
            total[kind] = total.get(kind, 0) + number
    return total
