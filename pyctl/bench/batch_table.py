"""The table of ``djp bench batch``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyctl.bench.batch import BASES, SWITCHED, BatchRow, Place, Way
from pyctl.bench.methods import Kind
from pyctl.bench.picture import scale

#: Cells of the longest bar; what a bar of no length stands for, in microseconds.
BAR = 24
SHORTEST = 10.0
ALONE = "mainline has nothing that puts probes at all of them at once"
WORDS = {
    Way.COUNT: "djprobes, count",
    Way.SWITCH_TEXT: "one of them off and on, by text",
    Way.SWITCH_FLAG: "one of them off and on, by flag",
    Way.KPROBE: "kprobes, optimiser on",
    Way.KPROBE_LATE: "kprobes, optimiser let loose afterwards",
    Way.KPROBE_FTRACE: "kprobes on ftrace",
    Way.FTRACE: "one ftrace_ops, filtered",
    Way.FPROBE: "one fprobe (kprobe.multi)",
}


def table(rows: Sequence[BatchRow]) -> RenderableType:
    """A table for each kind of place, ours and mainline's side by side, and the notes."""
    parts: list[RenderableType] = []
    for place in Place:
        some = [row for row in rows if row.place == place and row.method not in SWITCHED]
        if not some:
            continue
        title = Text(f"{place}", style="bold cyan")
        beside = f"each beside {WORDS[BASES[place]]} (mainline)" if place in BASES else ALONE
        title.append(f": {beside}", style="not bold default")
        parts += ["", title, "", _section(some)]
    switched = [row for row in rows if row.method in SWITCHED]
    if switched:
        title = Text("one probe among many", style="bold cyan")
        parts += ["", title, "", _switches(switched)]
    notes = [f"{_name(row)}: {row.note}" for row in rows if row.note and row.method not in SWITCHED]
    if notes:
        parts += ["", *(Text(note, style="dim") for note in notes)]
    return Group(*parts)


def seconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "-"
    if value >= 1:
        return f"{value:,.2f} s"
    return f"{1e3 * value:,.1f} ms" if value >= 1e-3 else f"{1e6 * value:,.1f} us"


def factor(value: float | None) -> str:
    """A ratio below 1 as a fraction: people ask for one 300th."""
    if value is None:
        return "-"
    return f"1/{1 / value:,.0f}" if 0 < value < 0.5 else f"{value:,.2f}"


def _section(rows: Sequence[BatchRow]) -> RenderableType:
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("", overflow="fold")
    headings = ("probes", "register", "live", "each", "of kprobes", "remove", "of kprobes")
    for heading in (*headings, "stop max", "text", "data"):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        result.add_row(
            Text(_name(row), style="green" if row.kind == Kind.OURS else "yellow"),
            f"{row.probes:,}",
            seconds(row.register_s),
            seconds(row.live_s),
            _micro(row.each_us),
            factor(row.ratio),
            seconds(row.remove_s),
            factor(row.remove_ratio),
            _micro(row.stop_us_max),
            _bytes(row.text_bytes),
            _bytes(row.data_bytes),
        )
    return Group(result, "", _bars(rows))


def _bars(rows: Sequence[BatchRow]) -> RenderableType:
    """Time for each probe, on a logarithmic scale."""
    timed = [row for row in rows if row.each_us]
    result = Table(box=None, pad_edge=False, show_header=False)
    result.add_column(no_wrap=True, justify="right")
    result.add_column(no_wrap=True)
    widths = scale([row.each_us or 0 for row in timed], 2 * BAR, SHORTEST)
    for row, width in zip(timed, widths, strict=True):
        bar = Text("█" * width or "▏", style="green" if row.kind == Kind.OURS else "yellow")
        bar.append(f" {_micro(row.each_us)} each", style="dim")
        result.add_row(f"{_name(row)}, {row.probes:,}", bar)
    return result


def _switches(rows: Sequence[BatchRow]) -> RenderableType:
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("", no_wrap=True)
    for heading in ("probes", "off", "on"):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        result.add_row(
            Text(_name(row), style="green"),
            f"{row.probes:,}",
            seconds(row.remove_s),
            seconds(row.live_s),
        )
    return result


def _name(row: BatchRow) -> str:
    return WORDS[Way(row.method)] + (", under load" if row.load else "")


def _micro(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} us"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} B"
