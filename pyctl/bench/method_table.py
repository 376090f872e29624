"""What the tables of benches have in common that measure one method after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.methods import OPTPROBE, Kind


class MethodRow(Protocol):
    """A dataclass with a line of such a table; ``ratio`` is to what optprobe takes."""

    @property
    def method(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def ratio(self) -> float | None: ...


R = TypeVar("R", bound=MethodRow)
Columns: TypeAlias = Mapping[str, Callable[[R], str]]


def titled(title: str, words: str, shown: RenderableType, notes: Sequence[str]) -> RenderableType:
    """A table with what it is above, and notes below."""
    heading = Text(title, style="bold cyan")
    heading.append(f": {words}", style="not bold default")
    below = [Text(note, style="dim") for note in notes]
    return Group("", heading, "", shown, *([""] if below else []), *below)


def table(
    rows: Sequence[R], before: Columns[R], bars: Sequence[int], room: int, after: Columns[R]
) -> Table:
    """A line for each row, with bars of so many cells, ``room`` at most; the numbers in
    ``before`` and ``after``, by their headings, stand on either side of them."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("method", no_wrap=True)
    result.add_column("whose", no_wrap=True)
    result.add_column("")
    for heading in (*before, f"of {OPTPROBE}"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True, min_width=room)
    for heading in after:
        result.add_column(heading, justify="right", no_wrap=True)
    for row, bar in zip(rows, bars, strict=True):
        ours = row.kind == Kind.OURS
        style = "green" if ours else "yellow"
        result.add_row(
            Text(row.method, style=style),
            "ours" if ours else "mainline",
            row.what,
            *(text(row) for text in before.values()),
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            Text("█" * bar or "▏", style=style),
            *(text(row) for text in after.values()),
        )
    return result
