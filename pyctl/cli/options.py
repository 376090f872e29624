"""Options that most commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from pyctl.errors import UsageError
from pyctl.guest import Guest
from pyctl.options import Options

Choice = TypeVar("Choice", bound=StrEnum)

WHERE_HELP = "local, user@host[:port], or a guest of `djp vm up`; default: $DJP_ON, or local."
OnOption = Annotated[str | None, typer.Option("--on", metavar="WHERE", help=WHERE_HELP)]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]
#: What a probe does besides counting every hit.
IfOption = Annotated[
    str | None,
    typer.Option(
        "--if",
        metavar="'FIELD OP VALUE'",
        help="Only hits for which this holds count, say '%di >= 5' or '+8(%di):u16 == 3'.",
    ),
]
SampleOption = Annotated[
    int | None, typer.Option("--sample", metavar="N", help="Of these only 1 in N, on each CPU.")
]
HistOption = Annotated[
    str | None,
    typer.Option(
        "--hist", metavar="FIELD", help="Also count by powers of two of a field: %si:u32."
    ),
]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="KEY", help="Also count by cpu, pid or comm.")
]
OnceOption = Annotated[
    bool, typer.Option("--once", help="One hit, then it is taken out of the text.")
]
SoftOption = Annotated[
    bool, typer.Option("--soft", help="Enable and disable it by a flag; the text stays.")
]
TargetArgument = Annotated[str, typer.Argument(help="[MODULE:]SYMBOL[+OFFSET] or 0xADDRESS")]


def probe_options(
    condition: str | None,
    sample: int | None,
    hist: str | None,
    by: str | None,
    once: bool,
    soft: bool,
) -> Options:
    """The options that were given."""
    return Options(condition=condition, sample=sample, hist=hist, by=by, once=once, soft=soft)


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
