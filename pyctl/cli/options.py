"""Options that most commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from pyctl.guest import Guest

WHERE_HELP = "local, user@host[:port], or a guest of `djp vm up`; default: $DJP_ON, or local."
OnOption = Annotated[str | None, typer.Option("--on", metavar="WHERE", help=WHERE_HELP)]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]
TargetArgument = Annotated[str, typer.Argument(help="[MODULE:]SYMBOL[+OFFSET] or 0xADDRESS")]


def open_host(context: typer.Context, on: str | None) -> Guest:
    """The host that ``--on`` means: of the command, of ``djp`` itself, or $DJP_ON."""
    where = on or context.obj or "local"
    if where == "local":
        return Guest.local()
    return Guest.ssh(where) if "@" in where else Guest.running(where)
