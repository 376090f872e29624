"""``djp soak``: commits without end in a throw-away guest, while it is given no peace."""

from __future__ import annotations

import random
from typing import Annotated

import typer
from rich.console import RenderableType

from pyctl.cli.layout import key_table
from pyctl.cli.options import JsonOption, chosen
from pyctl.cli.output import Reporter, plain
from pyctl.guest import Guest
from pyctl.quiescence import AUTO
from pyctl.verify.soak import Soaked, Trouble, soak


def soak_command(
    as_json: JsonOption = False,
    commits: Annotated[int, typer.Option(help="At least so many.", min=1)] = 100_000,
    trouble: Annotated[
        str | None, typer.Option(help=f"With commas between; all: {', '.join(Trouble)}.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="How quiescence is obtained.")] = AUTO,
    boot: Annotated[str, typer.Option(metavar="GUEST", help="Boot this one.")] = "bookworm-cloud",
    seed: Annotated[
        int | None, typer.Option(help="Draw the same batches again (default: others).")
    ] = None,
) -> None:
    """Commit again and again under hotplug, modules, hogs, fork storms, kills and suspends.

    Every count must be exact, the kernel log clean, and the text as it was in the end.
    """
    with Reporter(as_json=as_json) as report:
        kinds = chosen(Trouble, trouble) or list(Trouble)
        drawn = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        with report.doing(f"booting {boot}") as progress:
            guest = Guest.boot(boot, progress=progress)
        with guest:
            with report.doing(f"loading djprobes into {boot}") as progress:
                guest.load(progress=progress)
            with report.measuring(f"{commits:,} commits, seed {drawn}") as measured:
                done = soak(
                    guest,
                    commits=commits,
                    trouble=kinds,
                    strategy=strategy,
                    seed=drawn,
                    progress=measured,
                )
        document = plain(done) | {"passed": done.passed, "seed": drawn}
        report.result(document, lambda: show(done, drawn))
        if not done.passed:
            raise typer.Exit(1)


def show(done: Soaked, seed: int) -> RenderableType:
    """What was done, for people."""
    rows: dict[str, object] = {
        "commits": f"{done.commits:,} in {done.seconds:,.0f} s, {done.partial:,} partial; "
        f"seed {seed}",
        "probes": f"{done.probes:,}; {done.late:,} still in bypass after their commit",
        "counted exactly": f"{done.oracle_hits:,} hits, all as they had to be",
        "beside them": f"{done.pool_hits:,} hits of functions that everybody calls",
        "kernel threads": f"{done.threads_calls:,} calls, {done.threads_hits:,} hits, "
        f"{done.threads_wrong:,} wrong results",
        "longest stop": f"{done.max_stop_ns / 1e6:,.2f} ms",
        "refused for now": f"{done.busy:,} writes",
    }
    for kind, counts in done.trouble.items():
        rows[kind] = ", ".join(f"{number:,} {word}" for word, number in counts.items())
    text = done.text
    rows["kernel text"] = (
        f"{text.bytes_compared:,} bytes, {text.unaccounted_bytes:,} not as they were"
    )
    rows["left behind"] = f"{done.left:,} probes and detours"
    rows["kernel log"] = "clean"
    rows["passed"] = done.passed
    return key_table(rows)
