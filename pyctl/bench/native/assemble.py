"""Machine code of a guest's kernel, written down for the assembler so that it can run in a
process: each instruction as it is, but for what it says of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from iced_x86 import Code, Decoder, Instruction, MemorySize, Mnemonic, OpKind, Register

from pyctl.errors import OracleError

#: Bytes between two per-CPU slots: each has a cache line of its own.
SLOT_BYTES = 64
#: Negative as numbers: kernel addresses.
KERNEL = 0xFFFF800000000000
#: The kernel's returns may be jumps to this.
RETURN_THUNK = "__x86_return_thunk"
#: C code that callbacks.c has an equivalent of.
CALLBACKS = frozenset({"optimized_callback"})
#: A call of it, by either name, is one of where %rax says: this machine asks for no retpoline.
CALL_THUNKS = frozenset({"__x86_indirect_thunk_rax", "__x86_indirect_thunk_array"})
CALL_RAX = bytes.fromhex("ff d0 0f 1f 00")
#: The preemption count, PREEMPT_COUNT in native.h, which is not 0.
PREEMPT_COUNT = 0x8000
COUNTED = frozenset({Mnemonic.INC, Mnemonic.DEC})
CLAC = bytes.fromhex("0f 01 ca")
NOP3 = bytes.fromhex("0f 1f 00")


@dataclass(frozen=True)
class Piece:
    """Code at ``address``, up to where it can't go on; ``gap``: it goes on so many bytes
    behind the piece before it, not in a page of its own."""

    address: int
    code: bytes
    gap: int | None = None


@dataclass(frozen=True)
class Captured:
    """One case: ``pieces``, the first of which is the function that is called."""

    name: str
    pieces: tuple[Piece, ...]


def straight(piece: Piece) -> list[Instruction]:
    """Its instructions up to the first that control does not pass."""
    found = []
    for one in Decoder(64, piece.code, ip=piece.address):
        found.append(one)
        if one.mnemonic in {Mnemonic.RET, Mnemonic.JMP}:
            return found
    raise OracleError(f"the code at {piece.address:#x} does not end within {len(piece.code)} bytes")


def targets(piece: Piece) -> set[int]:
    """Where its calls and jumps go, outside of it."""
    body = straight(piece)
    inside = range(piece.address, body[-1].next_ip)
    return {
        one.near_branch_target
        for one in body
        if one.op0_kind == OpKind.NEAR_BRANCH64 and one.near_branch_target not in inside
    }


class Slots:
    """Per-CPU addresses of that kernel, and what they are here."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def note(self, body: Iterable[Instruction]) -> None:
        """Only the preemption count has 32 bits."""
        for one in body:
            of_cpu = one.segment_prefix == Register.GS and one.mnemonic in COUNTED
            if of_cpu and one.memory_size in {MemorySize.UINT32, MemorySize.INT32}:
                self._known[one.memory_displacement] = PREEMPT_COUNT

    def of(self, address: int) -> int:
        """An offset from %gs."""
        return self._known.setdefault(address, SLOT_BYTES * (1 + len(self._known)))


def assemble(cases: Sequence[Captured], symbols: Mapping[int, str]) -> str:
    """The file ``detours.S``: a table of all cases and their code. ``symbols`` names what is
    called. OracleError if an instruction can't run outside of its kernel."""
    slots = Slots()
    lines = ["\t.text"]
    for number, case in enumerate(cases):
        lines += _code(number, case, symbols, slots)
    lines += ["\t.section .rodata", "\t.balign 8", "\t.globl native_cases", "native_cases:"]
    for number, _case in enumerate(cases):
        lines.append(f"\t.quad .Lname_{number}, .Lcase_{number}")
    lines.append("\t.quad 0, 0")
    for number, case in enumerate(cases):
        lines.append(f'.Lname_{number}: .asciz "{case.name}"')
    lines.append('\t.section .note.GNU-stack, "", @progbits')
    return "\n".join(lines) + "\n"


def _code(number: int, case: Captured, symbols: Mapping[int, str], slots: Slots) -> Iterable[str]:
    bodies = [straight(piece) for piece in case.pieces]
    known = {one.ip for body in bodies for one in body}
    where = _Where(number, known, symbols, slots)
    for body in bodies:
        slots.note(body)
    for piece, body in zip(case.pieces, bodies, strict=True):
        # As in the kernel: the function in one page, its detour in another.
        yield "\t.balign 4096, 0xcc" if piece.gap is None else f"\t.skip {piece.gap}, 0xcc"
        if piece is case.pieces[0]:
            yield f".Lcase_{number}:"
        elif piece.gap is None:
            yield "\t.quad native_object"  # before a detour of ours with a handler
        for one in body:
            at = one.ip - piece.address
            yield f".L{number}_{one.ip:x}:"
            code = piece.code[at : at + one.len]
            yield from _instruction(piece, one, code, where)


@dataclass(frozen=True)
class _Where:
    number: int
    known: set[int]
    symbols: Mapping[int, str]
    slots: Slots

    def label(self, address: int) -> str:
        """The label of an instruction, or of what stands for a function."""
        if address in self.known:
            return f".L{self.number}_{address:x}"
        name = self.symbols.get(address, "")
        if name in CALLBACKS:
            return f"native_{name}"
        raise OracleError(f"there is no equivalent of {name or hex(address)}, which is called")


def _instruction(piece: Piece, one: Instruction, code: bytes, where: _Where) -> Iterable[str]:
    """One instruction for the assembler."""
    if code == CLAC:
        yield _bytes(NOP3)  # it is not for processes
    elif one.op0_kind == OpKind.NEAR_BRANCH64:
        yield from _branch(piece, one, code, where)
    elif one.code == Code.MOV_R64_IMM64:
        value = one.immediate64
        word = "native_object" if value >= KERNEL else f"{where.slots.of(value):#x}"
        yield _bytes(code[:-8])
        yield f"\t.quad {word}"
    elif one.segment_prefix == Register.GS:
        yield from _per_cpu(one, code, where)
    elif one.is_ip_rel_memory_operand:
        raise OracleError(f"the code at {one.ip:#x} refers to data at {one.memory_displacement:#x}")
    else:
        yield _bytes(code)


def _branch(piece: Piece, one: Instruction, code: bytes, where: _Where) -> Iterable[str]:
    target = one.near_branch_target
    if one.mnemonic == Mnemonic.JMP and where.symbols.get(target) == RETURN_THUNK:
        yield "\tret"
        return
    if where.symbols.get(target) in CALL_THUNKS:
        yield _bytes(CALL_RAX)
        return
    if one.is_jcc_short_or_near and target not in where.known:
        # What is for other cases than this one ends the process.
        condition = code[-5] if len(code) == 6 else code[0]
        yield _bytes(bytes([0x0F, 0x80 | condition & 0x0F]))
        yield "\t.long native_unexpected - . - 4"
        return
    inside = 0 <= target - piece.address < len(piece.code)
    if code[0] in {0xE8, 0xE9} or (code[0] == 0x0F and len(code) == 6):
        yield _bytes(code[:-4])
        yield f"\t.long {where.label(target)} - . - 4"
    elif inside and target in where.known:
        yield _bytes(code)  # as far away as before
    else:
        raise OracleError(f"the short branch at {one.ip:#x} leaves its function")


def _per_cpu(one: Instruction, code: bytes, where: _Where) -> Iterable[str]:
    if one.memory_base not in {Register.NONE, Register.RIP}:
        yield _bytes(code)  # a register has the address, see above
        return
    offsets = Decoder(64, code, ip=one.ip)
    decoded = offsets.decode()
    place = offsets.get_constant_offsets(decoded)
    if place.displacement_size != 4:
        raise OracleError(f"the per-CPU address at {one.ip:#x} has no 32 bits")
    slot = where.slots.of(one.memory_displacement)
    at = place.displacement_offset
    yield _bytes(code[:at])
    rest = code[at + 4 :]
    if one.memory_base == Register.RIP:
        yield f"\t.long {slot:#x} - . - {4 + len(rest)}"
    else:
        yield f"\t.long {slot:#x}"
    if rest:
        yield _bytes(rest)


def _bytes(code: bytes) -> str:
    return "\t.byte " + ", ".join(f"{byte:#04x}" for byte in code)
