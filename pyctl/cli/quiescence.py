"""``djp strategy``, ``djp blockers``, ``djp reclaim``, ``djp tune``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from pyctl.cli.layout import key_table
from pyctl.cli.options import JsonOption, OnOption, open_host
from pyctl.cli.output import Reporter, plain
from pyctl.probes import Probes
from pyctl.quiescence import AUTO, Blocker


def strategy(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Choose this one.")] = None,
    on: OnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how quiescence is obtained, or choose another way."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        if name is not None:
            probes.strategy = name
        current, available = probes.strategy, probes.strategies
        auto = probes.auto_strategy if AUTO in available else None
        words = [f"[{one}]" if one == current else one for one in available]
        meaning = f"; {AUTO} is {auto} on this kernel" if auto else ""
        report.result(
            {"strategy": current, "available": available, "auto_strategy": auto},
            f"{' '.join(words)}{meaning}",
        )


def blockers(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """List what the last commit had to leave for later, and the tasks in the way."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        found = Probes(host.transport).blockers()
        report.result(
            {"blockers": [plain(one) | {"task": one.task} for one in found]},
            lambda: blocker_table(found) if found else "nothing is held up",
        )


def reclaim(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """Free all retired detours now; fails if a task stands in one."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        before = probes.stats().detours_reclaimed
        with report.doing(f"reclaiming on {host.name}"):
            probes.reclaim()
        freed = probes.stats().detours_reclaimed - before
        report.result({"reclaimed": freed}, f"{freed} detours freed, none is retired any more")


def tune(
    context: typer.Context,
    on: OnOption = None,
    as_json: JsonOption = False,
    deadline_ms: Annotated[
        int | None, typer.Option(help="A commit returns after this, in milliseconds.")
    ] = None,
    reclaim_batch: Annotated[
        int | None, typer.Option(help="Reclaim by itself when so many detours are retired.")
    ] = None,
    reclaim_age_ms: Annotated[
        int | None, typer.Option(help="Or when the oldest is so old, in milliseconds.")
    ] = None,
) -> None:
    """Show, or change, what bounds commits and reclaim."""
    asked = {
        "deadline_ms": deadline_ms,
        "reclaim_batch": reclaim_batch,
        "reclaim_age_ms": reclaim_age_ms,
    }
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        wanted = {name: value for name, value in asked.items() if value is not None}
        if wanted:
            probes.tunables = replace(probes.tunables, **wanted)
        report.result(plain(probes.tunables), lambda: key_table(plain(probes.tunables)))


def blocker_table(rows: Sequence[Blocker]) -> RenderableType:
    """A table of blockers."""
    table = Table(box=None, pad_edge=False)
    for title in ("kind", "site", "task", "is at", "address"):
        table.add_column(title, overflow="fold")
    for row in rows:
        place = (row.address_symbol, f"{row.address:#x}")
        table.add_row(row.kind, row.site_symbol, row.task, *place)
    return table
