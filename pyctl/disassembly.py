"""Displaced instructions beside what became of them in the detour.

The syntax is AT&T's, as objdump and the kernel's own messages have it. iced-x86 decodes;
it knows nothing of djprobes, so it is a second opinion on where instructions begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from iced_x86 import Decoder, Formatter, FormatterSyntax, OpKind
from iced_x86 import Instruction as Decoded

from pyctl.errors import ProtocolError
from pyctl.explanation import Explanation
from pyctl.symbols import symbolize
from pyctl.transport import Transport

#: Where kernel and module text and data are; larger numbers are small negative ones.
KERNEL_MAP = range(0xFFFFFFFF80000000, 0xFFFFFFFFFF000000)
BRANCHES = {OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64}
IMMEDIATES = {OpKind.IMMEDIATE32TO64, OpKind.IMMEDIATE64}
#: Relocations that leave the detour by themselves: no jump back follows them.
LEAVING = {"jmp", "call"}

#: The name of an address, or None.
Namer = Callable[[int], str | None]


@dataclass(frozen=True)
class Instruction:
    """One instruction: its address, its bytes, its text, and the address that it branches
    to or refers to, if it names one."""

    address: int
    code: bytes
    text: str
    refers_to: int | None = None
    branch: bool = False


class Role(StrEnum):
    """What an instruction of a detour is there for."""

    #: The probe's own: it counts, or calls the handlers.
    ACTION = "action"
    DISPLACED = "displaced"
    #: The jump behind the region.
    BACK = "back"


@dataclass(frozen=True)
class Row:
    """An instruction of the region and what it became. ``original`` is None for what the
    detour does of its own; ``moved`` is empty if there is no detour, or for padding.
    ``relocation`` says how it was changed, None if it was copied."""

    role: Role
    original: Instruction | None
    moved: tuple[Instruction, ...]
    relocation: str | None = None


@dataclass(frozen=True)
class SideBySide:
    """A region and its detour, row by row in the order in which they run."""

    rows: tuple[Row, ...]


@dataclass
class _Groups:
    """The detour's instructions, by the displaced one that they stand for."""

    before: list[Instruction] = field(default_factory=list)
    by_offset: dict[int, list[Instruction]] = field(default_factory=dict)
    after: list[Instruction] = field(default_factory=list)


def disassemble(
    code: bytes, address: int, name: Namer = lambda _address: None
) -> list[Instruction]:
    """The instructions of ``code``, which runs at ``address``; ``name`` names what they
    refer to."""
    formatter = Formatter(FormatterSyntax.GAS)
    formatter.uppercase_hex = False
    formatter.small_hex_numbers_in_decimal = False
    formatter.rip_relative_addresses = True
    formatter.branch_leading_zeros = False
    decoder = Decoder(64, code, ip=address)
    result = []
    for decoded in decoder:
        start = decoded.ip - address
        target, branch = _reference(decoded)
        result.append(
            Instruction(
                address=decoded.ip,
                code=code[start : start + decoded.len],
                text=_text(formatter, decoded, None if target is None else name(target)),
                refers_to=target,
                branch=branch,
            )
        )
    return result


def references(explanation: Explanation) -> set[int]:
    """Every address that the region or its detour refers to, outside the detour."""
    found = disassemble(explanation.dcr, explanation.address or 0)
    inside = range(0)
    if explanation.detour is not None:
        start, code = explanation.detour.address, explanation.detour.code
        inside = range(start, start + len(code))
        found += disassemble(code, start)
    return {
        one.refers_to for one in found if one.refers_to is not None and one.refers_to not in inside
    }


def compare(explanation: Explanation, name: Namer = lambda _address: None) -> SideBySide:
    """Put region and detour side by side. ProtocolError if an entry of ``explanation`` is
    not where an instruction of the region begins."""
    base = explanation.address or 0
    region = disassemble(explanation.dcr, base, name)
    kinds = {relocation.offset: relocation.kind for relocation in explanation.relocations}
    groups = _group(explanation, region, name)
    rows = [Row(Role.ACTION, None, (one,)) for one in groups.before]
    for original in region:
        offset = original.address - base
        moved = groups.by_offset.pop(offset, [])
        rows.append(Row(Role.DISPLACED, original, tuple(moved), kinds.get(offset)))
    if groups.by_offset:
        lost = ", ".join(f"+{offset}" for offset in groups.by_offset)
        raise ProtocolError(f"explain: no displaced instruction begins at {lost}")
    rows += [Row(Role.BACK, None, (one,)) for one in groups.after]
    return SideBySide(tuple(rows))


def compare_on(transport: Transport, explanation: Explanation) -> SideBySide:
    """The same, with names as the host's kernel has them."""
    symbols = symbolize(transport, references(explanation))

    def name(address: int) -> str | None:
        detour = explanation.detour
        if detour is not None and 0 <= address - detour.address < len(detour.code):
            return f"detour+{address - detour.address:#x}"
        return str(symbols[address]) if address in symbols else None

    return compare(explanation, name)


def _group(explanation: Explanation, region: list[Instruction], name: Namer) -> _Groups:
    groups = _Groups()
    if explanation.detour is None:
        return groups
    entries = {entry.address: entry.offset for entry in explanation.entries}
    current = groups.before
    offset = None
    for one in disassemble(explanation.detour.code, explanation.detour.address, name):
        if one.address in entries:
            offset = entries[one.address]
            current = groups.by_offset.setdefault(offset, [])
        current.append(one)
    kinds = {relocation.offset: relocation.kind for relocation in explanation.relocations}
    if offset is None or kinds.get(offset) in LEAVING or len(current) < 2:
        return groups
    # What is left is the last displaced instruction and the way back behind the region.
    back = region[-1].address + len(region[-1].code)
    if current[-1].branch and current[-1].refers_to == back:
        groups.after.append(current.pop())
    return groups


def _reference(decoded: Decoded) -> tuple[int | None, bool]:
    """The address that an instruction names, and whether it branches there."""
    if decoded.op_count and decoded.op0_kind in BRANCHES:
        return decoded.near_branch_target, True
    if decoded.is_ip_rel_memory_operand:
        return decoded.ip_rel_memory_address, False
    return next((number for number in _numbers(decoded) if number in KERNEL_MAP), None), False


def _numbers(decoded: Decoded) -> Iterator[int]:
    """What may be an address: immediates as wide as one, and absolute displacements."""
    for index in range(decoded.op_count):
        kind = decoded.op_kind(index)
        if kind in IMMEDIATES:
            yield decoded.immediate(index)
        elif kind == OpKind.MEMORY:
            yield decoded.memory_displacement


def _text(formatter: Formatter, decoded: Decoded, name: str | None) -> str:
    if name is None:
        return formatter.format(decoded)
    if decoded.op_count and decoded.op0_kind in BRANCHES:
        return f"{formatter.format_mnemonic(decoded)} {name}"
    return f"{formatter.format(decoded)}  # {name}"
