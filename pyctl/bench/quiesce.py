"""What a commit costs, strategy by strategy, beside mainline's optimiser in the same guest."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyctl.bench.rows import KPROBES, UNSAFE, Case, Cell, Row, Verdict, slow
from pyctl.bench.sites import choose_sites
from pyctl.bench.verdict import judge
from pyctl.control import DEBUGFS
from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.probes import Probes
from pyctl.quiescence import parse_blockers
from pyctl.transport import Process
from pyctl.transport.base import Closing
from pyctl.verify.preemption import FILE as PREEMPT
from pyctl.verify.preemption import Preemption, switch_preemption
from pyctl.verify.testmodules import DEBUG
from pyctl.workloads import Busy
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.bench.remote.rounds"
OPTIMIZATION = "/proc/sys/debug/kprobes-optimization"
#: How long the threads of case ``held`` do not sleep, in milliseconds.
SPIN_MS = 10_000
#: Threads of case ``crowd``.
SLEEPERS = 2000
#: Seconds, before scaling, for the sites to become jumps, and for a whole round.
LIVE_SECONDS = 120.0
ROUND_SECONDS = 900.0
#: Registering and removing thousands of kprobes takes minutes.
SLOW_ROUND_SECONDS = 3600.0
#: No further round of a cell begins after so many seconds, but there are some; one is
#: enough of what waits 10 s in each, or registers thousands of kprobes.
CELL_SECONDS = 20.0
LONG_ROUND_SECONDS = 5.0
FEWEST_ROUNDS = 3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """How far it is: ``done`` of ``total`` rows, and the new ones."""

    done: int
    total: int
    rows: tuple[Row, ...]


def run_quiesce(
    cells: Sequence[Cell],
    *,
    boot: str = "bookworm-cloud",
    rounds: int = 15,
    icount: bool = True,
    progress: Progress,
) -> Generator[Step, None, None]:
    """Measure the cells; rows come in groups of one strategy and preemption model. Boots
    throw-away guests; close the generator (or use it up) and they are gone.

    With ``icount`` a microsecond is a thousand instructions that the guest executed, on any
    of its CPUs, whatever the host does meanwhile.
    """
    groups: dict[tuple[str, Preemption], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.preempt), []).append(cell)
    done = 0
    with Lab(boot, max(cell.probes for cell in cells), progress, icount=icount) as lab:
        # Guests are the dearer thing to change, then the model.
        for strategy, model in sorted(groups, key=lambda key: (key[0] in UNSAFE, key[1])):
            group = groups[strategy, model]
            rows = lab.measure(strategy, model, group, rounds)
            done += len(rows)
            yield Step(done, len(cells), tuple(rows))


class Bed(Closing):
    """A guest with everything that a measurement needs; a new one when it was lost."""

    def __init__(self, boot: str, progress: Progress, *, icount: bool) -> None:
        self._boot = boot
        self._progress = progress
        self._icount = icount
        self._stack = contextlib.ExitStack()
        self._guest: Guest | None = None
        self._unsafe = False

    def ready(self, *, unsafe: bool) -> Guest:
        """A guest that lives; with strategies that kill it or without."""
        if self._guest is None or self._guest.crashed() or unsafe != self._unsafe:
            self.close()
            self._progress(f"booting {self._boot}")
            guest = self._stack.enter_context(
                Guest.boot(self._boot, progress=self._progress, icount=self._icount)
            )
            self._progress("loading djprobes and its test modules")
            guest.load(parameters={"unsafe": "1"} if unsafe else {})
            for name in ("djp_test", "djp_peer"):
                guest.load_extra(name, source=SOURCE)
            self._guest, self._unsafe = guest, unsafe
        return self._guest

    def close(self) -> None:
        """End the guest."""
        self._stack.close()
        self._guest = None


class Lab(Closing):
    """Where it is measured, and where it is attacked: for that a clock that stands still
    while a guest is busy would be an obstacle."""

    def __init__(self, boot: str, most: int, progress: Progress, *, icount: bool = True) -> None:
        self._most = most
        self._progress = progress
        self._measured = Bed(boot, progress, icount=icount)
        self._attacked = Bed(boot, progress, icount=False) if icount else self._measured
        self._sites: dict[str, tuple[int, ...]] = {}

    def measure(
        self, strategy: str, model: Preemption, cells: Sequence[Cell], rounds: int
    ) -> list[Row]:
        """The rows of these cells, all of one strategy and preemption model."""
        guest = self._measured.ready(unsafe=strategy in UNSAFE)
        rows = [Row(c.strategy, c.preempt, c.case, c.probes, Verdict.NOT_OFFERED) for c in cells]
        if not _offered(guest, strategy, model):
            return rows
        _use(guest, strategy, model)
        sites = self._sites_of(guest)
        with Rounds(guest) as agent:
            # What runs for the first time is slow, under emulation by far: not counted.
            agent.row(Cell(strategy, model, Case.IDLE, 1), sites[:1], 1)
            for number, cell in enumerate(cells):
                self._progress(f"{strategy}, preempt={model}, {cell.case}, {cell.probes} probes")
                with _case(guest, cell.case):
                    rows[number] = agent.row(cell, sites[: cell.probes], rounds)
        self._progress(f"{strategy}, preempt={model}: holding a task in the jump's bytes")
        guest = self._attacked.ready(unsafe=strategy in UNSAFE)
        _use(guest, strategy, model)
        verdict = judge(guest, strategy, model)
        return [replace(row, verdict=verdict) for row in rows]

    def close(self) -> None:
        """End the guests."""
        self._measured.close()
        self._attacked.close()

    def _sites_of(self, guest: Guest) -> tuple[int, ...]:
        """Guests of one snapshot have their text at the same addresses."""
        key = guest.transport.run(["grep", "-w", "_stext", "/proc/kallsyms"]).text
        if key not in self._sites:
            self._progress(f"choosing {self._most} sites that both can make jumps of")
            self._sites[key] = choose_sites(guest.transport, self._most)
        return self._sites[key]


class Rounds(Closing):
    """The script in the guest."""

    def __init__(self, guest: Guest) -> None:
        self._host = guest.transport.host
        folders = (DEBUGFS, f"{DEBUG}/djp_test", f"{DEBUG}/djp_peer")
        self._process: Process = start_script(guest.transport, "djp-rounds", SCRIPT, (), *folders)

    def row(self, cell: Cell, sites: Sequence[int], rounds: int) -> Row:
        """Up to ``rounds`` rounds of one cell; the verdict is for others to give."""
        begin = time.monotonic()
        answers = []
        for number in range(rounds):
            passed = time.monotonic() - begin
            long = cell.case is Case.HELD or slow(cell)
            if long and passed > LONG_ROUND_SECONDS:
                break
            if number >= FEWEST_ROUNDS and passed > CELL_SECONDS:
                break
            answers.append(self._round(cell, sites))
        return make_row(cell, answers)

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _round(self, cell: Cell, sites: Sequence[int]) -> dict[str, Any]:
        request = {
            "probes": KPROBES if cell.strategy == KPROBES else "djprobes",
            "addresses": list(sites),
            "spin_ms": SPIN_MS if cell.case is Case.HELD else 0,
            "sleepers": SLEEPERS if cell.case is Case.CROWD else 0,
            "seconds": LIVE_SECONDS,
        }
        self._process.send_line(json.dumps(request))
        line = self._process.read_line(SLOW_ROUND_SECONDS if slow(cell) else ROUND_SECONDS)
        if line is None:
            raise OracleError(
                f"{self._host}: the measuring script ended\n{self._process.stderr_tail()}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OracleError(f"{self._host}: {cell}: {answer['error']}")
        return answer


def make_row(cell: Cell, answers: Sequence[Mapping[str, Any]]) -> Row:
    """A row from the answers of its rounds, one or more; its verdict is yet to be given."""
    # 0: what is done in the background had been first.
    stops = [answer["stop_ns"] / 1e3 for answer in answers if answer.get("stop_ns")]
    times = [answer["live_ms"] for answer in answers]
    late = None in times
    found = [one for answer in answers for one in parse_blockers(answer.get("blockers", ""))]
    return Row(
        strategy=cell.strategy,
        preempt=cell.preempt,
        case=cell.case,
        probes=cell.probes,
        verdict=Verdict.NOT_OFFERED,
        stop_us_median=_rounded(statistics.median(stops)) if stops else None,
        stop_us_max=_rounded(max(stops)) if stops else None,
        live_ms=None if late else _rounded(statistics.median(times)),
        deferred=max(answer["deferred"] for answer in answers),
        blocker=next((one.task for one in found if one.kind == "jump" and one.pid), None),
    )


def _rounded(value: float) -> float:
    return round(value, 1)


def _use(guest: Guest, strategy: str, model: Preemption) -> None:
    switch_preemption(guest.transport, model)
    if strategy != KPROBES:
        Probes(guest.transport).strategy = strategy


def _offered(guest: Guest, strategy: str, model: Preemption) -> bool:
    """Whether this kernel, and this module, can do it."""
    transport = guest.transport
    if not transport.exists(PREEMPT):
        return False
    models = [word.strip("()") for word in transport.read(PREEMPT).decode().split()]
    if strategy == KPROBES:
        return model in models and transport.exists(OPTIMIZATION)
    return model in models and strategy in Probes(transport).strategies


@contextlib.contextmanager
def _case(guest: Guest, case: Case) -> Iterator[None]:
    """What goes on meanwhile; threads that do not sleep are let loose for each commit."""
    with contextlib.ExitStack() as stack:
        if case is Case.LOAD:
            stack.enter_context(Busy().background(guest.transport))
        yield
