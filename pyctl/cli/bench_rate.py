"""``djp bench rate``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from pyctl.bench.rate import CALLS, ROUNDS, compared, run_rate
from pyctl.bench.rate_table import table
from pyctl.cli.bench_hits import chosen_methods
from pyctl.cli.bench_output import BootOption, PictureOption, SaveOption, collected, give
from pyctl.cli.options import JsonOption
from pyctl.cli.output import Reporter


def rate(
    as_json: JsonOption = False,
    picture: PictureOption = None,
    save: SaveOption = None,
    boot: BootOption = "bookworm-cloud",
    methods: Annotated[
        str | None,
        typer.Option(help="With commas between; all if none is given. `optprobe` always is."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help=f"Of {CALLS} calls on each CPU, for each method.", min=2)
    ] = ROUNDS,
) -> None:
    """How many events a second is there room for, ours beside the kernel's own ways?

    A probed function is called on all CPUs of a guest at once. A lost or doubled hit is an
    error. Under emulation only the ratios mean something.
    """
    with Reporter(as_json=as_json) as report:
        wanted = chosen_methods(methods)
        measured = collected(
            report,
            f"measuring {len(wanted)} methods",
            partial(run_rate, boot=boot, methods=wanted, rounds=rounds),
        )
        rows = compared(measured)
        give(
            report,
            table(rows),
            rows,
            command="rate",
            as_json=as_json,
            picture=picture,
            save=save,
        )
