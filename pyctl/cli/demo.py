"""``djp demo``: a stock kernel, probed under load, and others that count the same."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyctl.cli.layout import INDENT, grid, screen, section, svg
from pyctl.cli.output import Reporter, plain
from pyctl.demo import GUEST, Ending, Loaded, Part, Setting, passed, run_demo
from pyctl.verify.bulk import BulkResult
from pyctl.verify.jumps import Committed
from pyctl.verify.kerneltext import TextDiff
from pyctl.verify.paths import PathResult, PathRun


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also write what is shown to this SVG file.")
    ] = None,
    count: Annotated[int, typer.Option(help="Probes in the one big batch.", min=1)] = 1000,
    guest: Annotated[str, typer.Option(help="The guest to boot.")] = GUEST,
) -> None:
    """Boot a stock kernel, probe it under load, and show that the counts agree."""
    with Reporter(as_json=as_json) as report:
        console = screen(as_json)
        parts: list[Part] = []
        with (
            report.doing("starting") as progress,
            # the guest has to go when we are interrupted between two parts
            contextlib.closing(run_demo(guest, count=count, progress=progress)) as shown,
        ):
            for part in shown:
                parts.append(part)
                console.print(show(part))
        good = all(passed(part) for part in parts)
        console.print(verdict(good))
        if picture is not None:
            picture.write_text(svg(console, title="make demo", name="djp-demo"))
        if as_json:
            sys.stdout.write(json.dumps(document(parts, good), indent=2) + "\n")
        if not good:
            raise typer.Exit(1)


def show(part: Part) -> RenderableType:
    """A part for people."""
    match part:
        case Setting():
            return show_setting(part)
        case Loaded():
            return show_loaded(part)
        case PathRun():
            return show_paths(part)
        case Committed():
            return show_commit(part)
        case BulkResult():
            return show_bulk(part)
        case Ending():
            return show_ending(part)


def show_setting(part: Setting) -> RenderableType:
    """The machine."""
    emulated = " (emulated: times below compare with each other only)"
    rows = [
        ("kernel", f"{part.release}, Debian's own, unmodified; {part.cpus} CPUs"),
        ("runs on", f"{part.qemu}, {part.accelerator}{emulated * (part.accelerator == 'tcg')}"),
        ("because", part.reason),
        ("config", f"all {part.options} options of Kconfig.snippet are there"),
        ("up in", f"{part.seconds:.1f} s"),
    ]
    return section("1  A stock kernel in a throw-away machine", grid(rows))


def show_loaded(part: Loaded) -> RenderableType:
    """The module."""
    rows = [
        ("djprobes", f"built for it and loaded in {part.seconds:.1f} s"),
        ("branch map", f"{part.branch_targets:,} branch targets found in all kernel text"),
        (
            "strategy",
            f"{part.strategy}: how it is proven that nobody stands in what is overwritten",
        ),
    ]
    return Padding(grid(rows), INDENT, expand=False)


PHASES = {
    "bypass": (
        "2  Probed, text not yet overwritten: each hit goes through an int3 (bypass)",
        "On one function of each kind of path stand a djprobe and a BPF kprobe (bcc, not ours).\n"
        "A workload that alone reaches it, or the network interface, is the third witness.\n"
        "All three must be equal, not close. One hit lost or counted twice is a failure.",
    ),
    "jump": (
        "4  The same probes, the same load, now through a 5-byte jump",
        "The first byte at the site, read back from the kernel's memory, tells: cc is int3, "
        "e9 is jmp.",
    ),
}


def show_paths(part: PathRun) -> RenderableType:
    """All paths side by side."""
    title, words = PHASES.get(part.phase, (part.phase, ""))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("path", no_wrap=True)
    table.add_column("function", overflow="fold")
    for name in ("state", "byte"):
        table.add_column(name, no_wrap=True)
    for name in ("djprobe", "bcc"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("third witness", overflow="fold")
    table.add_column("equal", no_wrap=True)
    for row in part.results:
        third = Text(f"{row.third:>6,} {row.witness}")
        counts = (f"{row.djprobe:,}", f"{row.bcc:,}", third, yes(row.passed))
        table.add_row(row.kind, row.target, row.state, f"{row.opcode:02x}", *counts)
    idle = f"every CPU kept busy meanwhile: {part.idle_percent:.1f} % idle in {part.seconds:.1f} s"
    return section(title, Group(words, "", table, "", Text(idle, style="dim")))


def show_commit(part: Committed) -> RenderableType:
    """One commit."""
    late = f", {part.retries} retries in the background" * bool(part.retries)
    rows = [
        ("patched", f"{part.first.patched} sites at once, {part.first.deferred} deferred{late}"),
        ("machine stopped", milliseconds(part.first.stop_ns)),
        ("quiescence", f"{milliseconds(part.first.quiescence_ns)}, freeze to thaw"),
    ]
    title = "3  Commit: one proof that nobody stands in those bytes, then the jumps"
    return section(title, grid(rows))


def show_bulk(part: BulkResult) -> RenderableType:
    """Many at once."""
    first = part.committed.first
    text = part.restored
    rows: list[tuple[str, RenderableType]] = [
        (
            "chosen",
            f"{part.count:,} functions that the load reaches, of {part.targets.asked:,} "
            "asked about",
        ),
        ("added", f"{part.add_seconds:.1f} s, in one write"),
        (
            "committed",
            f"{part.committed.seconds:.1f} s until the last one is a jump; "
            f"{first.deferred} deferred by the one commit",
        ),
        (
            "machine stopped",
            f"{milliseconds(first.stop_ns)}, for all of them; "
            f"quiescence {milliseconds(first.quiescence_ns)}",
        ),
        (
            "live",
            f"{part.live_seconds:.1f} s under load: {part.fired:,} of them hit, "
            f"{part.hits:,} times",
        ),
        ("removed", f"{part.remove_seconds:.1f} s, under load; {part.left} left"),
        ("text compared", f"{text.bytes_compared:,} bytes, all core kernel text"),
        ("  with the jumps", f"{part.in_place.unaccounted_bytes:,} bytes differ (ours)"),
        ("  after removal", difference(text)),
    ]
    title = f"5  {part.count:,} probes: one write, one commit, live under load, and gone again"
    return section(title, grid(rows))


def difference(text: TextDiff) -> Text:
    """A compare of text in words."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in text.accounted.items())
    own = f", by the kernel itself: {kinds}" if kinds else ""
    words = f"{text.differing:,} bytes differ{own}; unaccounted: {text.unaccounted_bytes}"
    return Text(words, style="green" if text.clean else "bold red")


def show_ending(part: Ending) -> RenderableType:
    """The log."""
    log = Text(f"clean ({part.lines} new lines, no oops, warning, stall or lockup)", style="green")
    if part.faults:
        log = Text("NOT CLEAN: " + "; ".join(part.faults[:3]), style="bold red")
    rows: list[tuple[str, RenderableType]] = [
        ("kernel log", log),
        ("djprobes", "unloaded"),
        ("took", f"{part.seconds:.0f} s altogether"),
    ]
    return section("6  Afterwards", grid(rows))


def verdict(good: bool) -> Text:
    """The last line."""
    if good:
        return Text("\nEvery count equal, every byte of kernel text as it was.", style="bold green")
    return Text("\nSomething above is not as it must be.", style="bold red")


def yes(good: bool) -> Text:
    """The cell that counts."""
    return Text("yes", style="green") if good else Text("NO", style="bold red")


def milliseconds(nanoseconds: int) -> str:
    """Nanoseconds for people."""
    return f"{nanoseconds / 1e6:,.1f} ms"


def document(parts: Sequence[Part], good: bool) -> dict[str, Any]:
    """All parts as one document."""
    names = {Setting: "machine", Loaded: "module", BulkResult: "bulk", Ending: "end"}
    result: dict[str, Any] = {"passed": good}
    for part in parts:
        if isinstance(part, PathRun):
            result[part.phase] = data(part) | {"results": [data(row) for row in part.results]}
        else:
            result[names.get(type(part), "commit")] = data(part)
    return result


def data(value: Part | PathResult) -> dict[str, Any]:
    """One value with what it says about itself."""
    facts: dict[str, Any] = {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    for name in ("equal", "passed"):
        if hasattr(value, name):
            facts[name] = getattr(value, name)
    return facts
