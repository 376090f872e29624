"""Options that most commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from pyctl.errors import UsageError
from pyctl.guest import Guest

Choice = TypeVar("Choice", bound=StrEnum)

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


def words(text: str | None) -> list[str]:
    """What stands between the commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def chosen(kind: type[Choice], text: str | None) -> list[Choice]:
    """The members whose values stand between the commas."""
    offered = {member.value: member for member in kind}
    for word in words(text):
        if word not in offered:
            raise UsageError(
                f"{word!r} is no {kind.__name__.lower()}", hint=f"there are {', '.join(offered)}"
            )
    return [offered[word] for word in words(text)]
