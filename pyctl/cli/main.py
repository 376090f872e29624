"""``djp``: probes on this machine, on a host behind SSH, or in a guest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from pyctl.cli.add import add
from pyctl.cli.bench import bench_app
from pyctl.cli.census import census
from pyctl.cli.demo import demo
from pyctl.cli.explain import explain
from pyctl.cli.layout import key_table
from pyctl.cli.maps import maps
from pyctl.cli.options import WHERE_HELP, JsonOption, OnOption, open_host
from pyctl.cli.output import Reporter
from pyctl.cli.quiescence import blockers, reclaim, strategy, tune
from pyctl.cli.soak import soak_command
from pyctl.cli.tables import commit_line, probe_table
from pyctl.cli.top import top
from pyctl.cli.vm import vm_app
from pyctl.errors import UsageError
from pyctl.probes import Probes
from pyctl.workloads import WORKLOADS, WorkloadResult, make_workload

app = typer.Typer(
    name="djp",
    help="Direct jump probes on a live kernel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(vm_app, name="vm")
app.add_typer(bench_app, name="bench")
app.command()(add)
app.command()(top)
app.command()(maps)
app.command()(demo)
app.command()(explain)
app.command()(census)
app.command()(strategy)
app.command()(blockers)
app.command()(reclaim)
app.command()(tune)
app.command("soak")(soak_command)


@app.callback()
def _global(
    context: typer.Context,
    on: Annotated[
        str, typer.Option("--on", metavar="WHERE", envvar="DJP_ON", help=WHERE_HELP)
    ] = "local",
) -> None:
    context.obj = on


@app.command()
def load(
    context: typer.Context,
    on: OnOption = None,
    as_json: JsonOption = False,
    ko: Annotated[Path | None, typer.Option(help="A djprobes.ko built for that kernel.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The folder to build from (default: kmod/).")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A module parameter, KEY=VALUE.")
    ] = None,
) -> None:
    """Load the kernel module, built first where that is needed."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        with report.doing(f"loading djprobes into {host.name}") as progress:
            done = host.load(
                ko=ko, source=source, parameters=pairs(parameter or []), progress=progress
            )
        words = {
            "already": "djprobes is loaded already",
            "ko": f"loaded {done.path}",
            "guest": "built for the guest's kernel and loaded",
            "built": "built on the host and loaded",
            "modprobe": "loaded the module that is installed there",
        }[done.how]
        report.result(done, f"{host.name}: {words} ({done.seconds:.1f} s)")


@app.command()
def unload(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """Unload the kernel module."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        host.unload()
        report.result({"unloaded": True}, f"{host.name}: djprobes is unloaded")


@app.command()
def rm(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    on: OnOption = None,
    as_json: JsonOption = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All probes made through debugfs, also of others.")
    ] = False,
) -> None:
    """Remove probes."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        if everything == bool(names):
            raise UsageError(
                "say which probes to remove", hint="`djp rm NAME...` or `djp rm --all`"
            )
        probes = Probes(host.transport)
        before = probes.list()
        if everything:
            probes.remove_all()
        else:
            probes.remove(*names or ())
        left = {status.name for status in probes.list()}
        gone = [status.name for status in before if status.name not in left]
        report.result({"removed": gone}, f"{len(gone)} removed")


@app.command()
def enable(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    on: OnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put disabled probes back."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        probes.enable(*names)
        report_some(report, probes, names)


@app.command()
def disable(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    on: OnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take probes out of the text; their counts stay."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        probes = Probes(host.transport)
        probes.disable(*names)
        report_some(report, probes, names)


@app.command("ls")
def list_probes(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """List the probes and their hits."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        rows = Probes(host.transport).list()
        report.result({"probes": rows}, lambda: probe_table(rows) if rows else "no probes")


@app.command()
def commit(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """One quiescence for all probes that wait for their jump, or for their removal."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        with report.doing(f"committing on {host.name}"):
            done = Probes(host.transport).commit()
        report.result(done, commit_line(done))


@app.command()
def stats(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """Counters of the whole module: commits, sites, times, memory."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        answer = Probes(host.transport).stats()
        rows = {item.name: getattr(answer, item.name) for item in dataclasses.fields(answer)}
        rows |= rows.pop("extra")
        report.result(rows, lambda: key_table(rows))


@app.command()
def features(context: typer.Context, on: OnOption = None, as_json: JsonOption = False) -> None:
    """What the running kernel offers, symbol by symbol."""
    with Reporter(as_json=as_json) as report, open_host(context, on) as host:
        answer = Probes(host.transport).features()
        symbols = {f"symbol {name}": found for name, found in answer.symbols.items()}
        report.result(answer, lambda: key_table({**answer.values, **symbols}))


@app.command()
def workload(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(WORKLOADS)}.")],
    on: OnOption = None,
    as_json: JsonOption = False,
    seconds: Annotated[float | None, typer.Option(help="How long (default: 1).")] = None,
    operations: Annotated[int | None, typer.Option(help="Do exactly so many.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A parameter, KEY=VALUE.")
    ] = None,
) -> None:
    """Put load on the kernel, and report exactly what was done."""
    with Reporter(as_json=as_json) as report:
        work = make_workload(name, **typed(name, pairs(parameter or [])))
        with open_host(context, on) as host:
            with report.doing(f"running {name} on {host.name}"):
                done = work.run(host.transport, seconds=seconds, operations=operations)
            report.result(done, lambda: workload_table(done))


def pairs(words: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as a dictionary."""
    result = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found or not key:
            raise UsageError(f"{word!r} is not KEY=VALUE")
        result[key] = value
    return result


def typed(name: str, parameters: dict[str, str]) -> dict[str, Any]:
    """A workload's parameters with the types that its fields have."""
    kind = WORKLOADS.get(name)
    if kind is None:
        return dict(parameters)
    kinds = {item.name: type(item.default) for item in dataclasses.fields(kind)}
    result: dict[str, Any] = {}
    for key, text in parameters.items():
        try:
            if kinds.get(key) is bool:
                result[key] = {"yes": True, "true": True, "no": False, "false": False}[text]
            else:
                result[key] = int(text, 0) if kinds.get(key) is int else text
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"workload {name!r}: {key}={text!r} is no {kinds[key].__name__}"
            ) from error
    return result


def report_some(report: Reporter, probes: Probes, names: Sequence[str]) -> None:
    """The lines of these probes."""
    rows = [status for status in probes.list() if status.name in set(names)]
    report.result({"probes": rows}, lambda: probe_table(rows))


def workload_table(done: WorkloadResult) -> RenderableType:
    """What a workload did."""
    rows = {key: f"{value:,}" for key, value in done.operations.items()}
    return key_table({"workload": done.name, "seconds": f"{done.seconds:.2f}", **rows})


if __name__ == "__main__":
    app()
