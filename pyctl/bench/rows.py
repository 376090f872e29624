"""What is measured, and what came out: cells and rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pyctl.errors import UsageError
from pyctl.verify.preemption import Preemption

#: Mainline's optimiser, as if it were one of our strategies.
KPROBES = "kprobes"
#: Patches at once. It kills kernels, and has a guest of its own.
NONE = "none"
#: Offered only by a module that was loaded with ``unsafe=1``.
UNSAFE = frozenset({NONE, "freeze_only"})
SOUND = ("rendezvous", "fixup", "stackscan", "freezer", "rcu_tasks")
STRATEGIES = (*SOUND, KPROBES, NONE)
#: What may be asked for.
NAMES = ("auto", *STRATEGIES, "freeze_only")
#: What ``auto`` means where everything is offered.
BEST = SOUND[0]
PROBES = (1, 100, 10_000)
#: register_kprobe() takes some 50 ms for each of so many, under emulation.
MANY = 1000


class Case(StrEnum):
    """What else goes on: nothing; kernel threads that are preempted and do not sleep for
    10 s; a process on each CPU that computes; thousands of threads that sleep."""

    IDLE = "idle"
    HELD = "held"
    LOAD = "load"
    CROWD = "crowd"


class Verdict(StrEnum):
    """What the adversary found: a task held inside the bytes to be overwritten came through
    unharmed, or not; or this kernel does not have the strategy."""

    SOUND = "sound"
    UNSOUND = "unsound"
    NOT_OFFERED = "not offered"


@dataclass(frozen=True)
class Cell:
    """One measurement to be made."""

    strategy: str
    preempt: Preemption
    case: Case
    probes: int

    def __post_init__(self) -> None:
        if self.strategy not in NAMES:
            raise UsageError(
                f"there is no strategy {self.strategy!r}", hint=f"there are {', '.join(NAMES)}"
            )
        if self.probes < 1:
            raise UsageError(f"{self.probes} probes can't be measured", hint="at least 1")


@dataclass(frozen=True)
class Row:
    """A line of the table; the fields are the keys of its JSON object, in this order.

    ``stop_us_*``: the longest time that a CPU was kept from running tasks, in microseconds,
    over the commits of all rounds. ``live_ms``: from the write of ``commit`` until all sites
    are jumps, in milliseconds, the median of all rounds. ``deferred``: sites that the first
    commit left in bypass, the most of all rounds; of mainline's optimiser those that did not
    become jumps. ``blocker``: the task in the way of the first of them. None where it can't
    be told.
    """

    strategy: str
    preempt: str
    case: str
    probes: int
    verdict: str
    stop_us_median: float | None = None
    stop_us_max: float | None = None
    live_ms: float | None = None
    deferred: int | None = None
    blocker: str | None = None


def product_cells(
    strategies: Iterable[str],
    preempts: Iterable[Preemption],
    cases: Iterable[Case],
    probes: Iterable[int],
) -> tuple[Cell, ...]:
    """Every combination."""
    counts, situations, models = tuple(probes), tuple(cases), tuple(preempts)
    return tuple(
        Cell(strategy, model, case, count)
        for strategy in strategies
        for model in models
        for case in situations
        for count in counts
    )


def default_cells() -> tuple[Cell, ...]:
    """Not every combination, but each axis: 40 cells.

    All strategies at all sizes on an idle, fully preemptible kernel; there too with a thread
    that never sleeps; with the other preemption models; and the best one under load.
    """
    full, others = Preemption.FULL, (Preemption.NONE, Preemption.VOLUNTARY)
    sound = (*SOUND, KPROBES)
    return (
        *(cell for cell in product_cells(sound, [full], [Case.IDLE], PROBES) if not slow(cell)),
        *product_cells(sound, [full], [Case.HELD], [100]),
        *product_cells(sound, others, [Case.IDLE], [100]),
        *product_cells([BEST], [full], [Case.LOAD], [1, 100]),
        *product_cells([NONE], Preemption, [Case.IDLE], [100]),
    )


def slow(cell: Cell) -> bool:
    """Whether a cell takes many minutes, so that it has to be asked for."""
    return cell.strategy == KPROBES and cell.probes > MANY


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The rows by preemption model, case and number of probes; strategies side by side."""
    models, cases = list(Preemption), list(Case)
    return sorted(
        rows,
        key=lambda row: (
            -models.index(Preemption(row.preempt)),
            cases.index(Case(row.case)),
            row.probes,
            NAMES.index(row.strategy),
        ),
    )
