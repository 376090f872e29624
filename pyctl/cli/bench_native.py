"""``djp bench native``."""

from __future__ import annotations

from typing import Annotated

import typer

from pyctl.bench.native.measure import REPETITIONS, run_native
from pyctl.bench.native.table import table
from pyctl.cli.bench_output import BootOption, PictureOption, SaveOption, give
from pyctl.cli.options import JsonOption
from pyctl.cli.output import Reporter


def native(
    as_json: JsonOption = False,
    picture: PictureOption = None,
    save: SaveOption = None,
    boot: BootOption = "bookworm-cloud",
    repetitions: Annotated[
        int, typer.Option(help="Medians that each value is the median of.", min=2, max=64)
    ] = REPETITIONS,
) -> None:
    """What does a hit cost on this machine's processor?

    The detours are those of a guest's kernel, ours and mainline's, fetched and relocated into
    a process of this machine. The C code that they call is replaced by code that does the
    same; a clac, which is not for processes, by a nop.
    """
    with Reporter(as_json=as_json) as report:
        with report.doing("measuring detours on this machine") as progress:
            rows = run_native(boot=boot, repetitions=repetitions, progress=progress)
        give(
            report,
            table(rows),
            rows,
            command="native",
            as_json=as_json,
            picture=picture,
            save=save,
        )
