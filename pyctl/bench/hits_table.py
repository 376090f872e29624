"""The table of ``djp bench hits``, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.hits import HitRow
from pyctl.bench.methods import OPTPROBE, Kind
from pyctl.bench.picture import scale

#: Cells of the longest bar; what a bar of no length stands for, in instructions.
BAR = 26
SHORTEST = 1.0


def document(rows: Sequence[HitRow]) -> list[dict[str, Any]]:
    """An array of objects with exactly the fields of :class:`HitRow` as keys."""
    return [asdict(row) for row in rows]


def table(rows: Sequence[HitRow]) -> RenderableType:
    """All that were measured, the cheapest first; then what this kernel has not got."""
    measured = sorted(
        (row for row in rows if row.extra_instructions is not None),
        key=lambda row: row.extra_instructions or 0,
    )
    missing = [row for row in rows if row.extra_instructions is None]
    title = Text("what a hit costs", style="bold cyan")
    title.append(
        ": instructions that a call executes more; each is called "
        f"{max((row.calls for row in measured), default=0):,} times",
        style="not bold default",
    )
    parts: list[RenderableType] = ["", title, "", _table(measured)]
    notes = [f"{row.method}: {row.note}" for row in measured if row.note]
    notes += [f"{row.method}: {row.note}" for row in missing]
    if notes:
        parts += ["", *(Text(note, style="dim") for note in notes)]
    return Group(*parts)


def _table(rows: Sequence[HitRow]) -> RenderableType:
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("method", no_wrap=True)
    result.add_column("whose", no_wrap=True)
    result.add_column("")
    result.add_column("extra", justify="right", no_wrap=True)
    result.add_column(f"of {OPTPROBE}", justify="right", no_wrap=True)
    result.add_column("", no_wrap=True, min_width=BAR)
    result.add_column("hits", justify="right", no_wrap=True)
    widths = scale([row.extra_instructions or 0 for row in rows], BAR, SHORTEST)
    for row, width in zip(rows, widths, strict=True):
        ours = row.kind == Kind.OURS
        style = "green" if ours else "yellow"
        result.add_row(
            Text(row.method, style=style),
            "ours" if ours else "mainline",
            row.what,
            f"{row.extra_instructions:,}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("█" * width or "▏", style=style),
            f"{row.hits:,}",
        )
    return result
