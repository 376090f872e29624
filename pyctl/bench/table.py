"""The table of ``djp bench quiesce``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.picture import LiveBars, milliseconds
from pyctl.bench.rows import KPROBES, Row, Verdict, ordered

LOOKS = {
    Verdict.SOUND: "green",
    Verdict.UNSOUND: "bold red",
    Verdict.NOT_OFFERED: "dim",
}
CASES = {
    "idle": "nothing else runs",
    "held": "kernel threads that are preempted and do not sleep for 10 s",
    "load": "a process on each CPU computes",
    "crowd": "2,000 threads sleep",
}


def table(rows: Sequence[Row]) -> RenderableType:
    """One table for each preemption model and case, and a chart of the times."""
    parts: list[RenderableType] = []
    sections = groupby(ordered(rows), key=lambda row: (row.preempt, row.case))
    for (preempt, case), group in sections:
        some = list(group)
        title = Text(f"preempt={preempt}, {case}", style="bold cyan")
        title.append(f": {CASES.get(case, case)}", style="not bold default")
        parts += ["", title, "", _section(some)]
        if any(row.live_ms for row in some):
            parts += ["", LiveBars(tuple(some))]
    return Group(*parts)


def _section(rows: Sequence[Row]) -> RenderableType:
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("strategy", no_wrap=True)
    for title in ("probes", "stop median", "stop max", "all jumps after", "deferred"):
        result.add_column(title, justify="right", no_wrap=True)
    result.add_column("verdict", no_wrap=True)
    result.add_column("in the way", overflow="fold")
    for row in rows:
        name = f"{row.strategy} (mainline)" if row.strategy == KPROBES else row.strategy
        deferred = "-" if row.deferred is None else f"{row.deferred:,}"
        result.add_row(
            name,
            f"{row.probes:,}",
            milliseconds(row.stop_us_median, 1e-3),
            milliseconds(row.stop_us_max, 1e-3),
            milliseconds(row.live_ms, 1),
            deferred,
            Text(row.verdict, style=LOOKS[Verdict(row.verdict)]),
            row.blocker or "-",
        )
    return result
