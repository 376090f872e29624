"""The table of ``djp bench native``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from pyctl.bench import method_table
from pyctl.bench.native.measure import NativeRow
from pyctl.bench.picture import scale

#: Cells of the longest bar; what a bar of no length stands for, in ticks.
BAR = 26
SHORTEST = 1.0


def table(rows: Sequence[NativeRow]) -> RenderableType:
    """The cheapest first."""
    ordered = sorted(rows, key=lambda row: row.ticks)
    return method_table.titled(
        "what a hit costs here",
        f"ticks of the TSC that it adds to a call; {rows[0].processor}",
        method_table.table(
            ordered,
            {
                "ticks": lambda row: f"{row.ticks:,.1f}",
                "spread": lambda row: f"{row.spread:,.1f}",
            },
            scale([row.ticks for row in ordered], BAR, SHORTEST),
            BAR,
            {"detour": lambda row: f"{row.detour_bytes} B"},
        ),
        [],
    )
