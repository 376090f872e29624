"""``djp maps``: what probes with ``--hist`` or ``--by`` have counted, as bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyctl.cli.layout import INDENT
from pyctl.cli.options import JsonOption, OnOption, open_host
from pyctl.cli.output import Reporter, plain
from pyctl.control import ProbeStatus
from pyctl.errors import UsageError
from pyctl.maps import MapEntry, MapKind, bucket_of
from pyctl.options import Options
from pyctl.probes import Probes

BAR = 40
#: Eighths of a cell, so that a bar tells small differences.
PARTS = " \N{LEFT ONE EIGHTH BLOCK}\N{LEFT ONE QUARTER BLOCK}\N{LEFT THREE EIGHTHS BLOCK}" + (
    "\N{LEFT HALF BLOCK}\N{LEFT FIVE EIGHTHS BLOCK}\N{LEFT THREE QUARTERS BLOCK}"
    "\N{LEFT SEVEN EIGHTHS BLOCK}"
)
FULL = "\N{FULL BLOCK}"
TITLES = {MapKind.HIST: "value", MapKind.CPU: "cpu", MapKind.PID: "task", MapKind.COMM: "name"}


def maps(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Of these probes only.")
    ] = None,
    on: OnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the hits of probes with --hist or --by are distributed."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        asked = _asked(probes.list(), names or ())
        chosen = {status.name for status in asked}
        entries = [entry for entry in probes.maps() if entry.name in chosen]
        report.result(
            {"maps": [_document(entry) for entry in entries]},
            lambda: show(asked, entries) if asked else "no probe counts by anything",
        )


def show(probes: Sequence[ProbeStatus], entries: Sequence[MapEntry]) -> RenderableType:
    """A picture for each probe."""
    parts: list[RenderableType] = []
    for status in probes:
        mine = [entry for entry in entries if entry.name == status.name]
        title = Text(status.name, style="bold cyan")
        title.append(f"  {status.target}  {status.options}", style="dim")
        body = bars(mine) if mine else Text("no hits yet", style="dim")
        parts += [*([""] if parts else []), title, Padding(body, INDENT, expand=False)]
    return Group(*parts)


def bars(entries: Sequence[MapEntry]) -> RenderableType:
    """One probe's map: buckets and CPUs in their order, tasks by how often they came."""
    other = [entry for entry in entries if entry.kind == MapKind.OTHER]
    rows = _ordered([entry for entry in entries if entry.kind != MapKind.OTHER])
    most = max((entry.count for entry in entries), default=0)
    kind = rows[0].kind if rows else MapKind.OTHER
    table = Table(box=None, pad_edge=False, header_style="dim")
    numbers = kind != MapKind.COMM
    table.add_column(
        TITLES.get(MapKind(kind), "") if kind in set(MapKind) else kind,
        justify="right" if numbers else "left",
        no_wrap=True,
    )
    table.add_column("hits", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry in rows:
        table.add_row(Text(_printable(entry.key)), f"{entry.count:,}", bar(entry.count, most))
    for entry in other:
        table.add_row(Text("others", style="dim"), f"{entry.count:,}", bar(entry.count, most))
    return table


def bar(count: int, most: int, width: int = BAR) -> str:
    """``count`` of ``most`` as so many cells; anything is seen, only nothing is empty."""
    eighths = round(8 * width * count / most) if most else 0
    if count and not eighths:
        eighths = 1
    return FULL * (eighths // 8) + PARTS[eighths % 8].strip()


def _ordered(entries: Iterable[MapEntry]) -> list[MapEntry]:
    """Buckets with the empty ones between them."""
    rows = list(entries)
    if rows and rows[0].kind == MapKind.HIST:
        found = {entry.bounds[0]: entry for entry in rows}
        lows = [0, *(1 << bit for bit in range(64))]
        used = [low for low in lows if min(found) <= low <= max(found)]
        return [
            found.get(low) or MapEntry(rows[0].name, MapKind.HIST, 0, bucket_of(low))
            for low in used
        ]
    if rows and rows[0].kind == MapKind.CPU:
        return sorted(rows, key=lambda entry: int(entry.key))
    return sorted(rows, key=lambda entry: (-entry.count, entry.key))


def _asked(probes: Sequence[ProbeStatus], names: Sequence[str]) -> list[ProbeStatus]:
    """Those of these names, or all that have a map."""
    mapped = {status.name: status for status in probes if _has_map(status)}
    for name in names:
        if name not in mapped:
            there = any(status.name == name for status in probes)
            raise UsageError(
                f"{name!r} counts by nothing" if there else f"there is no probe {name!r}",
                hint="add it with --hist or --by" if there else "`djp ls` lists them",
            )
    return [mapped[name] for name in names] if names else list(mapped.values())


def _has_map(status: ProbeStatus) -> bool:
    options = status.options
    if isinstance(options, Options):
        return options.hist is not None or options.by is not None
    return "hist=" in options or "by=" in options  # of a newer module


def _document(entry: MapEntry) -> dict[str, Any]:
    """As in the file; a bucket's bounds as numbers, too."""
    row: dict[str, Any] = plain(entry)
    if entry.kind == MapKind.HIST:
        row |= dict(zip(("low", "high"), entry.bounds, strict=True))
    return row


def _printable(key: str) -> str:
    """A task may call itself anything; a terminal must not take it for a command."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in key)
