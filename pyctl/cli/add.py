"""``djp add``: one probe, or thousands from a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pyctl.cli.options import (
    ByOption,
    HistOption,
    IfOption,
    JsonOption,
    OnceOption,
    OnOption,
    SampleOption,
    SoftOption,
    open_host,
    probe_options,
)
from pyctl.cli.output import Reporter
from pyctl.cli.tables import commit_line, probe_table, summary
from pyctl.control import ProbeStatus
from pyctl.errors import UsageError
from pyctl.methods import State
from pyctl.options import Options
from pyctl.probes import AddPhase, Probe, Probes

#: More probes than this are counted and not listed; `djp ls` lists them.
LISTED = 100
#: From so many on it is shown how far it is.
MANY = 200


def add(
    context: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="[MODULE:]SYMBOL[+OFFSET] or 0xADDRESS", metavar="TARGET..."),
    ] = None,
    on: OnOption = None,
    as_json: JsonOption = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Targets, one a line, # for comments; - is stdin."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A name; once for each target, in their order.")
    ] = None,
    commit: Annotated[bool, typer.Option("--commit", help="Commit afterwards.")] = False,
    method: Annotated[
        str | None,
        typer.Option(help="Exactly this one: jump, jump+int3, int3 or kprobe; or refuse."),
    ] = None,
    condition: IfOption = None,
    sample: SampleOption = None,
    hist: HistOption = None,
    by: ByOption = None,
    once: OnceOption = False,
    soft: SoftOption = False,
) -> None:
    """Add probes: all of them, or none. They stay until `djp rm`."""
    with Reporter(as_json=as_json) as report:
        wanted = [*(targets or ()), *(read_targets(file) if file is not None else ())]
        if not wanted:
            raise UsageError("say what to probe", hint="`djp add TARGET...` or `djp add -f FILE`")
        options = probe_options(condition, sample, hist, by, once, soft)
        with open_host(context, on) as host:
            probes = Probes(host.transport)
            made = {one.name for one in _add(report, probes, wanted, name, method, options)}
            done = probes.commit() if commit else None
            many = len(made) >= MANY
            with report.doing("reading them back") if many else contextlib.nullcontext():
                rows = [status for status in probes.list() if status.name in made]
        report.result(
            {"probes": rows, "commit": done},
            lambda: probe_table(rows) if len(rows) <= LISTED else summary(rows),
        )
        if done is not None:
            report.note(commit_line(done))
        elif not as_json and _waits(rows):
            report.note("they fire through the int3 now; `djp commit` makes them jumps")


def read_targets(file: Path) -> list[str]:
    """What stands in a file, one a line; empty lines and comments are skipped."""
    try:
        text = sys.stdin.read() if f"{file}" == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read targets from {file}: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _add(
    report: Reporter,
    probes: Probes,
    targets: Sequence[str],
    names: Sequence[str] | None,
    method: str | None,
    options: Options,
) -> list[Probe]:
    """Many take seconds: then show the bytes on their way, and that the kernel is at it."""
    if len(targets) < MANY:
        return probes.add_many(targets, names=names, method=method, options=options)
    words = {
        AddPhase.SENDING: f"sending {len(targets):,} probes",
        AddPhase.APPLYING: f"the kernel adds {len(targets):,} probes in one step",
    }
    with contextlib.ExitStack() as shown:
        current: tuple[AddPhase, Callable[[int, int], None]] | None = None

        def progress(phase: AddPhase, done: int, total: int) -> None:
            nonlocal current
            if current is None or current[0] is not phase:
                shown.close()
                current = phase, shown.enter_context(report.measuring(words[phase]))
            if done:  # until then its bar is one that has no end
                current[1](done, total)

        return probes.add_many(
            targets, names=names, method=method, options=options, progress=progress
        )


def _waits(rows: Sequence[ProbeStatus]) -> bool:
    return any(row.state is State.BYPASS for row in rows)
