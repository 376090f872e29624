"""Times that differ by three orders of magnitude, as bars on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from pyctl.bench.rows import KPROBES, Row, Verdict

#: Cells of the longest bar, and of the label before it.
BAR = 60
LABEL = 22
#: What a bar of no length stands for, in milliseconds.
SHORTEST = 0.1


@dataclass(frozen=True)
class LiveBars:
    """A bar for each row that has a time: from the commit until all sites are jumps."""

    rows: tuple[Row, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        timed = [row for row in self.rows if row.live_ms is not None]
        room = max(10, min(BAR, options.max_width - LABEL - 12))
        widths = scale([row.live_ms or 0.0 for row in timed], room)
        for row, width in zip(timed, widths, strict=True):
            line = Text(f"{row.strategy} {row.probes:,}".rjust(LABEL - 2) + "  ", no_wrap=True)
            line.append("█" * width or "▏", style=_colour(row))
            line.append(f" {milliseconds(row.live_ms, 1)}", style="dim")
            yield line
        if timed:
            caption = "from the commit until all are jumps, on a logarithmic scale"
            yield Text(" " * LABEL + caption, style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(options.max_width, LABEL + BAR + 12))


def scale(values: Sequence[float], room: int, shortest: float = SHORTEST) -> list[int]:
    """Widths on a logarithmic scale: the largest value gets all of ``room``, ``shortest`` or
    less nothing."""
    largest = max([*values, 10 * shortest])
    return [
        round(room * math.log(max(value, shortest) / shortest) / math.log(largest / shortest))
        for value in values
    ]


def milliseconds(value: float | None, factor: float) -> str:
    """A time for people; ``factor`` makes milliseconds of it."""
    if value is None:
        return "-"
    time = value * factor
    return (
        f"{time:,.0f} ms" if time >= 100 else f"{time:,.1f} ms" if time >= 1 else f"{time:.3f} ms"
    )


def _colour(row: Row) -> str:
    if row.verdict == Verdict.UNSOUND:
        return "red"
    return "yellow" if row.strategy == KPROBES else "green"
