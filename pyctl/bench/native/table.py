"""The table of ``djp bench native``, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.methods import OPTPROBE, Kind
from pyctl.bench.native.measure import NativeRow
from pyctl.bench.picture import scale

#: Cells of the longest bar; what a bar of no length stands for, in ticks.
BAR = 26
SHORTEST = 1.0


def document(rows: Sequence[NativeRow]) -> list[dict[str, Any]]:
    """An array of objects with exactly the fields of :class:`NativeRow` as keys."""
    return [asdict(row) for row in rows]


def table(rows: Sequence[NativeRow]) -> RenderableType:
    """The cheapest first."""
    title = Text("what a hit costs here", style="bold cyan")
    title.append(
        f": ticks of the TSC that it adds to a call; {rows[0].processor}",
        style="not bold default",
    )
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("method", no_wrap=True)
    result.add_column("whose", no_wrap=True)
    result.add_column("")
    for heading in ("ticks", "spread", f"of {OPTPROBE}"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True, min_width=BAR)
    result.add_column("detour", justify="right", no_wrap=True)
    ordered = sorted(rows, key=lambda row: row.ticks)
    widths = scale([row.ticks for row in ordered], BAR, SHORTEST)
    for row, width in zip(ordered, widths, strict=True):
        ours = row.kind == Kind.OURS
        style = "green" if ours else "yellow"
        result.add_row(
            Text(row.method, style=style),
            "ours" if ours else "mainline",
            row.what,
            f"{row.ticks:,.1f}",
            f"{row.spread:,.1f}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("█" * width or "▏", style=style),
            f"{row.detour_bytes} B",
        )
    return Group("", title, "", result)
