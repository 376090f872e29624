"""``djp bench batch``."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from pyctl.bench.batch import BatchCase, BatchRow, Way, compared, default_cases, run_batch
from pyctl.bench.batch_table import table
from pyctl.cli.bench_output import BootOption, PictureOption, SaveOption, give
from pyctl.cli.options import JsonOption, chosen
from pyctl.cli.output import Reporter


def batch(
    as_json: JsonOption = False,
    picture: PictureOption = None,
    save: SaveOption = None,
    boot: BootOption = "bookworm-cloud",
    methods: Annotated[
        str | None, typer.Option(help=f"With commas between: {', '.join(Way)}.")
    ] = None,
    small: Annotated[
        int, typer.Option(help="How many at once, where mainline's kprobes are too.", min=1)
    ] = 1000,
    big: Annotated[int, typer.Option(help="How many at once, elsewhere.", min=1)] = 10_000,
    entries: Annotated[
        bool, typer.Option(help="Also at the entries of all functions at once.")
    ] = True,
    slow: Annotated[
        bool,
        typer.Option("--slow", help="As many of mainline's kprobes too: ten minutes and more."),
    ] = False,
    icount: Annotated[
        bool,
        typer.Option(help="Time is the number of instructions: 1 us is 1,000, on all CPUs."),
    ] = True,
) -> None:
    """What do many probes cost, put in, made live and taken out, beside the kernel's own ways?

    In one guest, at the same places. Kernel text is compared with what it was before.
    """
    with Reporter(as_json=as_json) as report:
        cases = chosen_cases(methods, small=small, big=big, entries=entries, slow=slow)
        rows: list[BatchRow] = []
        with (
            report.doing(f"measuring {len(cases)} rows") as progress,
            contextlib.closing(
                run_batch(cases, boot=boot, icount=icount, progress=progress)
            ) as steps,
        ):
            for row in steps:
                rows.append(row)
                report.note(f"{len(rows)} of {len(cases)} rows are measured")
        rows = compared(rows)
        give(
            report,
            table(rows),
            rows,
            command="batch",
            as_json=as_json,
            picture=picture,
            save=save,
        )


def chosen_cases(
    methods: str | None, *, small: int, big: int, entries: bool, slow: bool
) -> list[BatchCase]:
    """What to measure, from the options."""
    wanted = chosen(Way, methods) or list(Way)
    return [
        case
        for case in default_cases(slow=slow, small=small, big=big)
        if case.method in wanted and (entries or case.probes)
    ]
