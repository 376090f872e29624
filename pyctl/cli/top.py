"""``djp top``: which probes are hit most, now."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from pyctl.cli.options import JsonOption, OnOption, open_host
from pyctl.cli.output import WIDTH, Reporter, plain
from pyctl.control import Control
from pyctl.errors import UsageError
from pyctl.hits import HitReader, Rate, Rates, watch

#: Lines of a terminal that are not probes: the head, the last line, and the prompt.
MARGIN = 3
#: Probes in the table if the output has no height.
ALL = 1 << 30


def top(
    context: typer.Context,
    on: OnOption = None,
    as_json: JsonOption = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many rounds (default: at Ctrl-C).")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between readings.")] = 1.0,
    all_probes: Annotated[
        bool, typer.Option("--all", help="Also probes that were not hit in a round.")
    ] = False,
) -> None:
    """Show which probes are hit most, each second anew. With --json: one round."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        if as_json and count not in {None, 1}:
            raise UsageError("--json is one round", hint="leave --count out")
        reader = HitReader(Control(host.transport))
        rounds = watch(reader, interval=interval, rounds=1 if as_json else count)
        if as_json:
            report.result(_document(next(rounds)), "")
        else:
            with contextlib.suppress(KeyboardInterrupt):  # how it is ended
                _show(rounds, everything=all_probes)


def table_of(rates: Rates, *, height: int = ALL, everything: bool = False) -> RenderableType:
    """The fastest; a last line tells of what is left out."""
    rows = [one for one in rates.probes if everything or one.per_second]
    shown = rows[: max(height - MARGIN, 1)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "target"):
        table.add_column(title, overflow="fold")
    for title in ("hits", "rate/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in shown:
        table.add_row(one.name, one.target, f"{one.hits:,}", _rate(one))
    left = len(rates.probes) - len(shown)
    if left:
        total = sum(one.per_second or 0 for one in rates.probes[len(shown) :])
        table.add_row(f"{left:,} more", "", "", f"{total:,.0f}", style="dim")
    return table


def _show(rounds: Iterator[Rates], *, everything: bool) -> None:
    """On a terminal one table that changes; otherwise a table for each round."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
        for number, rates in enumerate(rounds):
            if number:
                console.print()
            console.print(table_of(rates, everything=everything), markup=False)
            sys.stdout.flush()
        return
    with Live(console=console, auto_refresh=False) as live:
        for rates in rounds:
            height = console.size.height
            live.update(table_of(rates, height=height, everything=everything), refresh=True)


def _document(rates: Rates) -> dict[str, Any]:
    document: dict[str, Any] = plain(rates)
    return document


def _rate(one: Rate) -> str:
    if one.per_second is None:
        return "new"
    return f"{one.per_second:,.0f}" if one.per_second >= 10 else f"{one.per_second:.1f}"
