"""``djp bench``: measurements in throw-away guests."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from pyctl.bench.quiesce import run_quiesce
from pyctl.bench.rows import (
    NAMES,
    PROBES,
    STRATEGIES,
    Case,
    Cell,
    Row,
    default_cells,
    ordered,
    product_cells,
)
from pyctl.bench.table import table
from pyctl.cli.bench_batch import batch
from pyctl.cli.bench_hits import hits
from pyctl.cli.bench_native import native
from pyctl.cli.bench_output import BootOption, PictureOption, SaveOption, give
from pyctl.cli.bench_rate import rate
from pyctl.cli.options import JsonOption, chosen, words
from pyctl.cli.output import Reporter
from pyctl.errors import UsageError
from pyctl.verify.preemption import Preemption

bench_app = typer.Typer(help="Measure, in throw-away guests.", no_args_is_help=True)

bench_app.command()(hits)
bench_app.command()(batch)
bench_app.command()(native)
bench_app.command()(rate)


@bench_app.command()
def quiesce(
    as_json: JsonOption = False,
    picture: PictureOption = None,
    save: SaveOption = None,
    boot: BootOption = "bookworm-cloud",
    strategies: Annotated[
        str | None, typer.Option(help=f"With commas between: {', '.join(NAMES)}.")
    ] = None,
    preempt: Annotated[
        str | None, typer.Option(help=f"With commas between: {', '.join(Preemption)}.")
    ] = None,
    cases: Annotated[
        str | None, typer.Option(help=f"With commas between: {', '.join(Case)}.")
    ] = None,
    probes: Annotated[
        str | None, typer.Option(help="How many at once, with commas between.")
    ] = None,
    icount: Annotated[
        bool,
        typer.Option(help="Time is the number of instructions: 1 us is 1,000, on all CPUs."),
    ] = True,
    rounds: Annotated[int, typer.Option(help="Commits that each row sums up.", min=1)] = 15,
) -> None:
    """Is each strategy sound, and what does it cost, beside mainline's optimiser?

    Without a choice of strategies, preemption models, cases or numbers of probes: 40 rows
    that show each of them. With one: every combination, where those that are not given are
    all strategies, preempt=full, idle, and 1, 100 and 10,000 probes.
    """
    with Reporter(as_json=as_json) as report:
        cells = chosen_cells(strategies, preempt, cases, probes)
        rows: list[Row] = []
        with (
            report.doing(f"measuring {len(cells)} rows") as progress,
            contextlib.closing(
                run_quiesce(cells, boot=boot, rounds=rounds, icount=icount, progress=progress)
            ) as steps,
        ):
            for step in steps:
                rows += step.rows
                report.note(f"{step.done} of {step.total} rows are measured")
        give(
            report,
            table(rows),
            ordered(rows),
            command="quiesce",
            as_json=as_json,
            picture=picture,
            save=save,
        )


def chosen_cells(
    strategies: str | None, preempt: str | None, cases: str | None, probes: str | None
) -> tuple[Cell, ...]:
    """What to measure, from options with commas."""
    if strategies is preempt is cases is probes is None:
        return default_cells()
    return product_cells(
        words(strategies) or STRATEGIES,
        chosen(Preemption, preempt) or [Preemption.FULL],
        chosen(Case, cases) or [Case.IDLE],
        [number(word) for word in words(probes)] or PROBES,
    )


def number(word: str) -> int:
    """A number of probes; ``10_000`` is fine too."""
    try:
        return int(word)
    except ValueError as error:
        raise UsageError(f"{word!r} is no number of probes") from error
