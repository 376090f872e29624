"""``djp bench hits``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from pyctl.bench.hits import CALLS, ROUNDS, compared, run_hits
from pyctl.bench.hits_table import table
from pyctl.bench.methods import METHODS, OPTPROBE, Method
from pyctl.cli.bench_output import BootOption, PictureOption, SaveOption, collected, give
from pyctl.cli.options import JsonOption, words
from pyctl.cli.output import Reporter
from pyctl.errors import UsageError


def hits(
    as_json: JsonOption = False,
    picture: PictureOption = None,
    save: SaveOption = None,
    boot: BootOption = "bookworm-cloud",
    methods: Annotated[
        str | None,
        typer.Option(help="With commas between; all if none is given. `optprobe` always is."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help=f"Of {CALLS} calls each, for each method.", min=2, max=255)
    ] = ROUNDS,
) -> None:
    """What does a hit cost, in instructions, ours beside the kernel's own ways?

    In a guest with one CPU that counts its instructions. A lost or doubled hit is an error.
    """
    with Reporter(as_json=as_json) as report:
        wanted = chosen_methods(methods)
        measured = collected(
            report,
            f"measuring {len(wanted)} methods",
            partial(run_hits, boot=boot, methods=wanted, rounds=rounds),
        )
        rows = compared(measured)
        give(
            report,
            table(rows),
            rows,
            command="hits",
            as_json=as_json,
            picture=picture,
            save=save,
        )


def chosen_methods(text: str | None) -> tuple[Method, ...]:
    """Those between the commas, in the order of the table, and what they compare with."""
    asked = words(text)
    if not asked:
        return METHODS
    known = [method.name for method in METHODS]
    for word in asked:
        if word not in known:
            raise UsageError(f"{word!r} is no method", hint=f"there are {', '.join(known)}")
    return tuple(method for method in METHODS if method.name in {*asked, OPTPROBE})
