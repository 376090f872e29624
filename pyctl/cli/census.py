"""``djp census``: every instruction of a running kernel, and how it could be probed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pyctl.census import Census, CensusPart
from pyctl.cli.layout import screen, section, svg
from pyctl.cli.options import JsonOption, OnOption, open_host
from pyctl.cli.output import Reporter
from pyctl.errors import UsageError
from pyctl.guest import Guest
from pyctl.methods import Method
from pyctl.probes import Probes
from pyctl.reasons import Reason

WIDTH = 116
#: Where there is room, a bar has a cell for each percent.
BAR = 100
#: Parts that get a line of their own; the smaller ones share one.
PARTS = 12
#: Glyph and colour of each method. The glyphs differ, for those who see no colours.
LOOKS = {
    Method.JUMP: ("█", "green"),
    Method.JUMP_INT3: ("▓", "cyan"),
    Method.INT3: ("▒", "yellow"),
    Method.KPROBE: ("░", "magenta"),
    Method.REFUSED: ("·", "red"),
}


@dataclass(frozen=True)
class Bar:
    """Counts side by side as one bar, as wide as there is room, at most :data:`BAR` cells."""

    counts: Mapping[Method, int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Text(no_wrap=True)
        widths = cells(list(self.counts.values()), min(options.max_width, BAR))
        for method, width in zip(self.counts, widths, strict=True):
            glyph, colour = LOOKS[method]
            bar.append(glyph * width, style=f"{colour} on {colour}")
        yield bar

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(options.max_width, BAR))


def census(
    context: typer.Context,
    on: OnOption = None,
    as_json: JsonOption = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also write what is shown to this SVG file.")
    ] = None,
    boot: Annotated[
        str | None,
        typer.Option(metavar="GUEST", help="Boot this guest for it, and throw it away after."),
    ] = None,
) -> None:
    """Judge every instruction of the running kernel: where a jump can stand, and where not."""
    with Reporter(as_json=as_json) as report, _host(context, on, boot, report) as host:
        with report.measuring(f"judging every instruction of {host.name}") as progress:
            counted = Probes(host.transport).census(progress=progress)
        shown = show(counted)
        console = screen(as_json, WIDTH)
        console.print(shown)
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_text(svg(console, title="djp census", name="djp-census"))
        if as_json:
            report.result(document(counted), shown)
        sys.stdout.flush()


def document(counted: Census) -> dict[str, Any]:
    """The census as one object."""
    return {
        "sites": counted.sites,
        "methods": counted.methods,
        "reasons": counted.reasons,
        "peers": counted.peers,
        "kernel": counted.kernel,
        "seconds": counted.seconds,
        "padding": counted.padding,
        "cells": [
            {"method": method, "reason": reason, "sites": sites}
            for (method, reason), sites in counted.cells.items()
        ],
        "parts": [
            {
                "name": part.name,
                "bytes": part.size,
                "sites": part.sites,
                "padding": part.padding,
                "methods": part.methods,
                "peers": part.peers,
            }
            for part in counted.parts
        ],
    }


def show(counted: Census) -> RenderableType:
    """The census for people."""
    modules = len(counted.parts) - 1
    about = (
        f"{counted.sites:,} instructions of the kernel and {modules} "
        f"module{'s' * (modules != 1)}, judged in "
        f"{counted.seconds:.0f} s; {counted.padding:,} more are padding that nothing reaches"
    )
    return Group(
        section(f"Every instruction of {counted.kernel}", Group(about, "", bars(counted))),
        section("How it is probed, and how by mainline's kprobes", method_table(counted)),
        section("Why not a plain jump", reason_table(counted)),
        section("Part by part", part_table(counted)),
    )


def mainline(counted: Census) -> dict[Method, int]:
    """The same sites by mainline's rules, in our words: an optprobe is a jump, a kprobe that
    is not optimised a trap."""
    kprobe, optprobe = counted.peers["kprobe"], counted.peers["optprobe"]
    return {
        Method.JUMP: optprobe,
        Method.KPROBE: kprobe - optprobe,
        Method.REFUSED: counted.sites - kprobe,
    }


def bars(counted: Census) -> RenderableType:
    """One bar for us, one for mainline, and what the colours mean."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row("djprobes", Bar(counted.methods))
    table.add_row()
    table.add_row("mainline", Bar(mainline(counted)))
    legend = Text()
    for method, (glyph, colour) in LOOKS.items():
        legend.append(glyph * 2, style=f"{colour} on {colour}")
        legend.append(f" {method}   ")
    table.add_row()
    table.add_row("", legend)
    return table


def method_table(counted: Census) -> RenderableType:
    """Methods: how many, how much of all, how much of what may be probed at all."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("djprobes", "of all", "of the probeable", "mainline", "of all", ""):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    theirs = mainline(counted)
    names = {Method.JUMP: "optprobe", Method.KPROBE: "kprobe"}

    def add(name: str, ours: int, other: int | None, word: str, style: str = "") -> None:
        allowed = "" if name == Method.REFUSED else share(ours, counted.probeable)
        cells = [f"{ours:,}", share(ours, counted.sites), allowed]
        cells += ["-", "-"] if other is None else [f"{other:,}", share(other, counted.sites)]
        table.add_row(name, *cells, Text(word, style="dim"), style=style)

    def total(name: str, methods: Collection[Method]) -> None:
        ours = sum(counted.methods[method] for method in methods)
        add(name, ours, sum(theirs.get(method, 0) for method in methods), "", "bold")

    for method, ours in counted.methods.items():
        add(method, ours, theirs.get(method), names.get(method, ""))
        if method is Method.JUMP_INT3:
            total("any jump", (Method.JUMP, Method.JUMP_INT3))
        elif method is Method.KPROBE:
            total("any probe", set(Method) - {Method.REFUSED})
    return table


def reason_table(counted: Census) -> RenderableType:
    """Reasons, the most frequent first, and what is done there instead."""
    others = [
        method
        for method in Method
        if any(found is method and reason != Reason.OK for found, reason in counted.cells)
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("reason", no_wrap=True)
    table.add_column("what it means", overflow="fold")
    for title in ("sites", "of all", *others):
        table.add_column(title, justify="right", no_wrap=True)
    for reason, count in sorted(counted.reasons.items(), key=lambda item: -item[1]):
        words = reason.sentence if isinstance(reason, Reason) else ""
        cells = [f"{counted.cells.get((method, reason), 0):,}" for method in others]
        if reason == Reason.OK:
            cells = [""] * len(others)
        shown = [cell if cell != "0" else "-" for cell in cells]
        table.add_row(reason, words, f"{count:,}", share(count, counted.sites), *shown)
    return table


def part_table(counted: Census) -> RenderableType:
    """The kernel and its modules, the largest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part", no_wrap=True)
    for title in ("bytes", "sites", *Method, "optprobe"):
        table.add_column(title, justify="right", no_wrap=True)
    for part in fold(counted.parts):
        shares = [share(count, part.sites) for count in part.methods.values()]
        table.add_row(
            part.name,
            f"{part.size:,}",
            f"{part.sites:,}",
            *shares,
            share(part.peers["optprobe"], part.sites),
        )
    return table


def fold(parts: Sequence[CensusPart], most: int = PARTS) -> list[CensusPart]:
    """The largest parts, and the others as one."""
    ordered = sorted(parts, key=lambda part: -part.sites)
    if len(ordered) <= most:
        return ordered
    kept, rest = ordered[: most - 1], ordered[most - 1 :]
    together = CensusPart(
        name=f"{len(rest)} more modules",
        size=sum(part.size for part in rest),
        sites=sum(part.sites for part in rest),
        padding=sum(part.padding for part in rest),
        methods={method: sum(part.methods[method] for part in rest) for method in Method},
        peers={peer: sum(part.peers[peer] for part in rest) for peer in rest[0].peers},
    )
    return [*kept, together]


def share(count: int, whole: int) -> str:
    """A percentage."""
    return f"{100 * count / whole:.2f} %" if whole else "-"


def cells(counts: Sequence[int], width: int) -> list[int]:
    """How many of ``width`` cells each count gets; the largest remainders are rounded up, so
    that they add up."""
    whole = sum(counts) or 1
    exact = [count * width / whole for count in counts]
    given = [int(part) for part in exact]
    late = sorted(range(len(counts)), key=lambda index: given[index] - exact[index])
    for index in late[: width - sum(given) if sum(counts) else 0]:
        given[index] += 1
    return given


@contextmanager
def _host(
    context: typer.Context, on: str | None, boot: str | None, report: Reporter
) -> Iterator[Guest]:
    """The host that is meant, or a new guest with the module in it."""
    if on is not None and boot is not None:
        raise UsageError("--on and --boot name two hosts", hint="give one of them")
    if boot is None:
        with open_host(context, on) as host:
            yield host
        return
    with report.doing(f"booting {boot}") as progress:
        guest = Guest.boot(boot, progress=progress)
    with guest:
        with report.doing(f"loading djprobes into {boot}") as progress:
            guest.load(progress=progress)
        yield guest
