"""``djp explain``: what would be displaced at an address, what becomes of it, and if no jump
can stand there, why not."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyctl.cli.layout import INDENT, grid
from pyctl.cli.options import (
    ByOption,
    HistOption,
    IfOption,
    JsonOption,
    OnceOption,
    OnOption,
    SampleOption,
    SoftOption,
    TargetArgument,
    open_host,
    probe_options,
)
from pyctl.cli.output import Reporter
from pyctl.disassembly import Instruction, Role, Row, SideBySide, compare_on
from pyctl.explanation import Explanation, Flags
from pyctl.methods import Method, State
from pyctl.probes import Probes
from pyctl.reasons import Reason

VERDICTS = {
    "jump": ("a jump can stand here", "bold green"),
    "fallback": ("it is probed another way than by a jump", "bold yellow"),
    "refused": ("no probe can stand here", "bold red"),
}
METHODS: dict[str | None, str] = {
    Method.JUMP: "a 5-byte jump to the detour",
    Method.JUMP_INT3: "a 5-byte jump whose bytes are int3 where something branches into them",
    Method.INT3: "an int3 that stays, and a detour with the one instruction under it",
    Method.KPROBE: "a kprobe of the kernel's own",
}
STATES: dict[str | None, str] = {
    None: "not probed",
    State.BYPASS: "probed; it fires through the int3 until a commit makes it a jump",
    State.JUMP: "probed; the jump is there",
    State.INT3: "probed; the int3 is there",
    State.KPROBE: "probed; the kprobe is there",
    State.DISABLED: "its probe is disabled",
    State.SPENT: "its probe has had its one hit",
}
FLAGS: dict[str | None, str] = {
    Flags.DEAD: "dead: nothing reads them before they are written, so they are not saved",
    Flags.CARRY: "only carry may be read, which a count leaves alone",
    Flags.LIVE: "they are saved",
}
SOURCES = {
    "branch": "a branch at",
    "call": "a call at",
    "jump-label": "a jump label at",
    "fixup": "the fixup of the instruction at",
    "symbol": "the symbol",
    "address": "its address, held by the instruction at",
    "data": "its address, in data at",
    "indirect-jump": "an indirect jump, which may go anywhere in its function, at",
}
OWN = "dim italic"
CHANGED = "yellow"
IN_THE_WAY = "bold red"


def explain(
    context: typer.Context,
    target: TargetArgument,
    on: OnOption = None,
    as_json: JsonOption = False,
    condition: IfOption = None,
    sample: SampleOption = None,
    hist: HistOption = None,
    by: ByOption = None,
    once: OnceOption = False,
    soft: SoftOption = False,
) -> None:
    """How TARGET could be probed: what a jump displaces and what becomes of it, or why none
    can stand there. With options, the detour is that of a probe that has them."""
    with Reporter(as_json=as_json) as report:
        options = probe_options(condition, sample, hist, by, once, soft)
        with open_host(context, on) as host:
            answer = Probes(host.transport).explain(target, options)
            code = compare_on(host.transport, answer)
        report.result(document(answer, code), lambda: show(answer, code))


def document(answer: Explanation, code: SideBySide) -> dict[str, Any]:
    """One object; addresses are hexadecimal text, as in the kernel's files."""
    detour = answer.detour
    return {
        "target": answer.target,
        "address": _hex(answer.address),
        "symbol": answer.symbol,
        "verdict": answer.verdict,
        "method": answer.method,
        "reason": answer.reason,
        "message": answer.message,
        "hint": answer.hint,
        "offending": None if answer.offending is None else str(answer.offending),
        "source": None if answer.source is None else str(answer.source),
        "state": answer.state,
        "dcr": _code(answer.address, answer.dcr, _displaced(answer, code)),
        "detour": _code(detour.address, detour.code, _moved(answer, code)) if detour else None,
        "relocations": answer.relocations,
        "traps": answer.traps,
        "text": answer.text,
        "ftrace": _hex(answer.ftrace),
        "flags": answer.flags,
        "flags_by": None if answer.flags_by is None else str(answer.flags_by),
        **answer.extra,
    }


def show(answer: Explanation, code: SideBySide) -> RenderableType:
    """The same for people."""
    title = Text(answer.symbol or answer.target, style="bold cyan")
    if answer.address is not None:
        title.append(f"  {answer.address:#x}", style="dim")
    parts: list[RenderableType] = [title, Padding(grid(_facts(answer)), INDENT, expand=False)]
    if code.rows:
        parts += ["", Padding(_listing(answer, code), INDENT, expand=False)]
    return Group(*parts)


def _facts(answer: Explanation) -> list[tuple[str, RenderableType]]:
    words, style = VERDICTS.get(answer.verdict, (answer.verdict, "bold"))
    rows: list[tuple[str, RenderableType]] = [("verdict", Text(words, style=style))]
    if answer.method is not None:
        rows.append(("method", f"{answer.method}: {METHODS.get(answer.method, '')}"))
    if answer.reason != Reason.OK:
        rows.append(("reason", f"{answer.reason}: {answer.message or ''}"))
        if answer.offending is not None:
            rows.append(("in the way", Text(str(answer.offending), style="red")))
        if answer.source is not None:
            kind = SOURCES.get(answer.source.kind, answer.source.kind)
            rows.append(("because of", Text(f"{kind} {answer.source.location or ''}", style="red")))
        if answer.hint is not None and not answer.accepted:
            rows.append(("what to do", answer.hint))
    rows.append(("now", STATES.get(answer.state, str(answer.state))))
    if answer.text is not None:
        rows.append(("text when live", answer.text))
    if answer.flags is not None and answer.detour is not None:
        because = f": {answer.flags_by} may read them" if answer.flags_by else ""
        rows.append(("flags", f"{FLAGS.get(answer.flags, answer.flags)}{because}"))
    if answer.ftrace is not None:
        rows.append(("ftrace", f"the probe goes behind the ftrace site at {answer.ftrace:#x}"))
    return rows


def _listing(answer: Explanation, code: SideBySide) -> RenderableType:
    """The region on the left, the detour on the right, what belongs together side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("displaced" if answer.detour else "instructions", overflow="fold")
    table.add_column("", no_wrap=True)
    if answer.detour:
        table.add_column("", no_wrap=True, style="dim")
        table.add_column(f"detour at {answer.detour.address:#x}", overflow="fold")
    for row in code.rows:
        lines = max(len(row.moved), 1)
        for index in range(lines):
            cells = _left(answer, row) if index == 0 else [Text()] * 3
            if answer.detour:
                cells = cells + _right(answer, row, index)
            table.add_row(*cells)
    return table


def _left(answer: Explanation, row: Row) -> list[Text]:
    """Offset, instruction, and what is special about it."""
    if row.original is None:
        return [Text(), Text(), Text(row.role, style=OWN)]
    offset = row.original.address - (answer.address or 0)
    extent = range(offset, offset + len(row.original.code))
    style = CHANGED if row.relocation else ""
    notes = [row.relocation] if row.relocation else []
    notes += ["int3" for trap in answer.traps if trap in extent]
    if answer.offending is not None and answer.offending.address in range(
        row.original.address, row.original.address + len(row.original.code)
    ):
        style = IN_THE_WAY
        notes.append("in the way")
    if answer.detour is not None and not row.moved:
        notes.append("padding")
    return [Text(f"+{offset}", style="dim"), Text(row.original.text, style), Text(", ".join(notes))]


def _right(answer: Explanation, row: Row, index: int) -> list[Text]:
    """Offset and instruction in the detour."""
    if answer.detour is None or index >= len(row.moved):
        return [Text(), Text()]
    one = row.moved[index]
    style = OWN if row.role is not Role.DISPLACED else CHANGED if row.relocation else ""
    return [Text(f"+{one.address - answer.detour.address}"), Text(one.text, style=style)]


def _displaced(answer: Explanation, code: SideBySide) -> list[dict[str, Any]]:
    return [
        {
            **_instruction(row.original),
            "offset": row.original.address - (answer.address or 0),
            "relocation": row.relocation,
            "moved_to": _hex(row.moved[0].address) if row.moved else None,
        }
        for row in code.rows
        if row.original is not None
    ]


def _moved(answer: Explanation, code: SideBySide) -> list[dict[str, Any]]:
    return [
        {
            **_instruction(one),
            "role": row.role,
            "displaces": row.original.address - (answer.address or 0) if row.original else None,
            "relocation": row.relocation,
        }
        for row in code.rows
        for one in row.moved
    ]


def _instruction(one: Instruction) -> dict[str, Any]:
    return {"address": _hex(one.address), "bytes": one.code, "text": one.text}


def _code(
    address: int | None, code: bytes, instructions: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if not code:
        return None
    return {"address": _hex(address), "bytes": code, "instructions": instructions}


def _hex(number: int | None) -> str | None:
    return None if number is None else f"{number:#x}"
