"""The table of ``djp bench hits``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from pyctl.bench import method_table
from pyctl.bench.hits import HitRow
from pyctl.bench.picture import scale

#: Cells of the longest bar; what a bar of no length stands for, in instructions.
BAR = 26
SHORTEST = 1.0


def table(rows: Sequence[HitRow]) -> RenderableType:
    """All that were measured, the cheapest first; then what this kernel has not got."""
    measured = sorted(
        (row for row in rows if row.extra_instructions is not None),
        key=lambda row: row.extra_instructions or 0,
    )
    missing = [row for row in rows if row.extra_instructions is None]
    calls = max((row.calls for row in measured), default=0)
    return method_table.titled(
        "what a hit costs",
        f"instructions that a call executes more; each is called {calls:,} times",
        method_table.table(
            measured,
            {"extra": lambda row: f"{row.extra_instructions:,}"},
            scale([row.extra_instructions or 0 for row in measured], BAR, SHORTEST),
            BAR,
            {"hits": lambda row: f"{row.hits:,}"},
        ),
        [f"{row.method}: {row.note}" for row in (*measured, *missing) if row.note],
    )
