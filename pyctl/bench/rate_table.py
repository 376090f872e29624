"""The table of ``djp bench rate``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from pyctl.bench import method_table
from pyctl.bench.rate import RateRow

#: Cells of the bar of a function without a probe.
BAR = 12
MILLION = 1e6


def table(rows: Sequence[RateRow]) -> RenderableType:
    """All that were measured, the fastest first; then what this kernel has not got."""
    measured = sorted(
        (row for row in rows if row.of_bare is not None), key=lambda row: -(row.of_bare or 0)
    )
    cpus = max((row.cpus or 0 for row in measured), default=0)
    return method_table.titled(
        "events per second",
        f"calls of a probed function on {cpus} CPUs at once, as a part of what it comes to "
        "without a probe",
        method_table.table(
            measured,
            {
                "million/s": lambda row: f"{(row.events_per_s or 0) / MILLION:.2f}",
                "spread": lambda row: f"{(row.spread or 0) / MILLION:.2f}",
                "of bare": lambda row: f"{row.of_bare:.3f}",
            },
            [round(BAR * min(1.0, row.of_bare or 0)) for row in measured],
            BAR,
            {},
        ),
        [f"{row.method}: {row.note}" for row in rows if row.note],
    )
