"""The table of ``djp bench rate``, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.methods import OPTPROBE, Kind
from pyctl.bench.rate import RateRow

#: Cells of the bar of a function without a probe.
BAR = 12
MILLION = 1e6


def document(rows: Sequence[RateRow]) -> list[dict[str, Any]]:
    """An array of objects with exactly the fields of :class:`RateRow` as keys."""
    return [asdict(row) for row in rows]


def table(rows: Sequence[RateRow]) -> RenderableType:
    """All that were measured, the fastest first; then what this kernel has not got."""
    measured = sorted(
        (row for row in rows if row.of_bare is not None), key=lambda row: -(row.of_bare or 0)
    )
    title = Text("events per second", style="bold cyan")
    title.append(
        f": calls of a probed function on {max((row.cpus or 0 for row in measured), default=0)} "
        "CPUs at once, as a part of what it comes to without a probe",
        style="not bold default",
    )
    parts: list[RenderableType] = ["", title, "", _table(measured)]
    notes = [f"{row.method}: {row.note}" for row in rows if row.note]
    if notes:
        parts += ["", *(Text(note, style="dim") for note in notes)]
    return Group(*parts)


def _table(rows: Sequence[RateRow]) -> RenderableType:
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("method", no_wrap=True)
    result.add_column("whose", no_wrap=True)
    result.add_column("")
    for heading in ("million/s", "spread", "of bare", f"of {OPTPROBE}"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True, min_width=BAR)
    for row in rows:
        ours = row.kind == Kind.OURS
        style = "green" if ours else "yellow"
        result.add_row(
            Text(row.method, style=style),
            "ours" if ours else "mainline",
            row.what,
            f"{(row.events_per_s or 0) / MILLION:.2f}",
            f"{(row.spread or 0) / MILLION:.2f}",
            f"{row.of_bare:.3f}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("█" * round(BAR * min(1.0, row.of_bare or 0)) or "▏", style=style),
        )
    return result
