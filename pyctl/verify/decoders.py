"""All instructions of kernel text by decoders that are not the kernel's: iced-x86 and objdump.

Both begin anew at each symbol, as the kernel module does. Padding made of int3 is left out:
a third of kernel text is that.

Needs numpy; objdump needs the program of that name, and objcopy, of binutils.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind
from numpy.typing import NDArray

from pyctl.errors import OracleError
from pyctl.verify.judgements import RelocationCode
from pyctl.verify.livetext import Text

#: Neither of RelocationCode: far, to and from user mode, trapping, or no instruction at all.
OTHER = 255
INT3 = 0xCC


@dataclass(frozen=True, eq=False)
class Decoded:
    """The instructions of a text by one decoder, ascending; each array has the shape (number
    of instructions,).

    ``offset`` is in bytes from the text's start, ``length`` in bytes; ``kind`` a RelocationCode
    or OTHER; ``disp`` how far a branch's target or a RIP-relative operand is from the
    instruction's end, else 0; ``branch`` whether it is a direct branch or call; ``nop``
    whether it does nothing. ``bad`` are offsets at which no instruction was found.
    """

    decoder: str
    text: Text
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    kind: NDArray[np.uint8]
    disp: NDArray[np.int64]
    branch: NDArray[np.bool_]
    nop: NDArray[np.bool_]
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def targets(self) -> NDArray[np.uint64]:
        """The addresses that something branches to or calls, each once."""
        ends = self.offset + self.length + self.disp
        return np.unique(ends[self.branch].astype(np.uint64) + np.uint64(self.text.start))


@dataclass
class _Rows:
    """Instructions, as they are found."""

    offset: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("B"))
    disp: array[int] = field(default_factory=lambda: array("q"))
    branch: array[int] = field(default_factory=lambda: array("B"))
    nop: array[int] = field(default_factory=lambda: array("B"))
    bad: list[int] = field(default_factory=list)

    def add(self, offset: int, length: int, kind: int, disp: int, branch: bool, nop: bool) -> None:
        self.offset.append(offset)
        self.length.append(length)
        self.kind.append(kind)
        self.disp.append(disp)
        self.branch.append(branch)
        self.nop.append(nop)

    def decoded(self, decoder: str, text: Text) -> Decoded:
        return Decoded(
            decoder,
            text,
            offset=np.array(self.offset, np.int64),
            length=np.array(self.length, np.int64),
            kind=np.array(self.kind, np.uint8),
            disp=np.array(self.disp, np.int64),
            branch=np.array(self.branch, np.bool_),
            nop=np.array(self.nop, np.bool_),
            bad=tuple(self.bad),
        )


def pieces(text: Text) -> Iterator[tuple[int, int]]:
    """Start and end of each symbol's bytes, as offsets; also what is before the first."""
    starts = sorted({0, *(address - text.start for address, _ in text.symbols)})
    yield from zip(starts, [*starts[1:], len(text.data)], strict=True)


NEAR_BRANCHES = frozenset({OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64})


#: How an instruction has to be displaced, by what iced-x86 says of it.
KINDS: tuple[tuple[Callable[[Instruction], bool], RelocationCode], ...] = (
    (lambda insn: insn.is_jcc_short_or_near, RelocationCode.JCC),
    (lambda insn: insn.is_call_near, RelocationCode.CALL),
    (lambda insn: insn.is_jmp_short_or_near, RelocationCode.JMP),
    (lambda insn: insn.mnemonic == Mnemonic.RET, RelocationCode.END),
    (lambda insn: insn.is_jmp_near_indirect, RelocationCode.END),
    (lambda insn: insn.is_call_near_indirect, RelocationCode.CALL_INDIRECT),
    (lambda insn: insn.is_loop or insn.is_loopcc or insn.is_jcx_short, RelocationCode.LOOP),
)


def _kind(insn: Instruction) -> int:
    """Of an instruction behind which control may not go on."""
    return next((kind for applies, kind in KINDS if applies(insn)), OTHER)


def decode_iced(text: Text) -> Decoded:
    """Decode a text with iced-x86."""
    rows = _Rows()
    for start, end in pieces(text):
        _decode_piece(rows, text.data[start:end], start)
    return rows.decoded("iced-x86", text)


def _decode_piece(rows: _Rows, data: bytes, start: int) -> None:
    after_padding = re.compile(rb"[^\xcc]")
    decoder = Decoder(64, data, ip=0)
    add, next_, nop = rows.add, FlowControl.NEXT, Mnemonic.NOP
    for insn in decoder:
        at, length = insn.ip, insn.len
        if insn.flow_control == next_:
            if insn.is_ip_rel_memory_operand:
                # The address is modulo 2^64, and the text begins at 0 here.
                disp = _signed(insn.ip_rel_memory_address - at - length)
                add(start + at, length, RelocationCode.RIP, disp, False, insn.mnemonic == nop)
            else:
                add(start + at, length, RelocationCode.COPY, 0, False, insn.mnemonic == nop)
        elif data[at] == INT3:
            found = after_padding.search(data, at)
            decoder.position = decoder.ip = found.start() if found else len(data)
        elif insn.is_invalid:
            rows.bad.append(start + at)
        else:
            branch = insn.op0_kind in NEAR_BRANCHES
            disp = 0
            if branch:
                disp = _signed(insn.near_branch_target - at - length)
            elif insn.is_ip_rel_memory_operand:
                disp = _signed(insn.ip_rel_memory_address - at - length)
            add(start + at, length, _kind(insn), disp, branch, False)


def _signed(value: int) -> int:
    """A difference of addresses, modulo 2^64, as a signed number."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


#: What objdump writes: prefixes, then one of these, then perhaps a star, or an address.
CONTROL = re.compile(
    rb"(?:[a-z0-9.]+ +)*?(?P<name>j[a-z]+|call|loop[a-z]*|ret|xbegin)[qwl]? *"
    rb"(?:,p[nt] *)?(?P<star>\*)?(?P<target>[0-9a-f]+ <|0x[0-9a-f]+$|[0-9a-f]+$)?"
)
UNUSUAL = re.compile(
    rb"(?:[a-z0-9.]+ +)*?"
    rb"(?:lcall|ljmp|lret|iret|int|ud[0-2]|sys|rsm|vm(?:m?call|gexit|launch|resume|run))"
)
#: No instruction: an unknown one, one cut off at the end of a symbol, a prefix by itself.
NOTHING = re.compile(rb"\(bad\)|\.byte |rex[.A-Z]* *$|(?:[a-z0-9.]+ +)*\(bad\)")
RIP = re.compile(rb"\(%rip\).*# ([0-9a-f]+)")
NOP = re.compile(rb"(?:[a-z0-9]+ +)*(?:nop[wl]?\b|xchg +%ax,%ax)")
SHORT = frozenset({b"jrcxz", b"jecxz"})


def decode_objdump(text: Text) -> Decoded:
    """Decode a text with objdump."""
    rows = _Rows()
    with tempfile.TemporaryDirectory(prefix="djp-objdump-") as folder:
        file = _make_elf(text, Path(folder))
        argv = ["objdump", "--disassemble", "--disassemble-zeroes", "--wide", str(file)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            _read_lines(rows, process.stdout, text.start)
        if process.returncode:
            raise OracleError(f"objdump ended with status {process.returncode}")
    return rows.decoded("objdump", text)


def _make_elf(text: Text, folder: Path) -> Path:
    """The text as an ELF file with a symbol at the start of each piece."""
    raw, file, options = folder / "raw", folder / "elf", folder / "options"
    raw.write_bytes(text.data)
    words = [
        "--rename-section .data=.text,alloc,load,code,readonly,contents",
        f"--change-section-address .data={text.start:#x}",
    ]
    words += [
        f"--add-symbol s{number}=.text:{start:#x},function,global"
        for number, (start, _end) in enumerate(pieces(text))
    ]
    options.write_text("\n".join(words))
    argv = ["objcopy", "-I", "binary", "-O", "elf64-x86-64", f"@{options}", str(raw), str(file)]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise OracleError("objcopy is missing", hint="install binutils") from error
    except subprocess.CalledProcessError as error:
        raise OracleError(f"objcopy failed: {error.stderr.strip()}") from error
    return file


def _read_lines(rows: _Rows, lines: Iterable[bytes], start: int) -> None:
    add = rows.add
    for line in lines:
        if line.endswith(b"\tint3\n"):
            continue
        words = line.split(b"\t", 2)
        if len(words) < 3:  # a heading, or a prefix that belongs to nothing
            if len(words) == 2 and words[0].endswith(b":"):
                rows.bad.append(int(words[0][:-1], 16) - start)
            continue
        address, code, said = int(words[0][:-1], 16), words[1], words[2]
        length = (len(code.rstrip()) + 1) // 3
        end = address + length
        control = CONTROL.match(said)
        if control:
            kind, target = _control(control)
            rip = RIP.search(said) if target is None else None
            goal = target if target is not None else int(rip[1], 16) if rip else end
            add(address - start, length, kind, _signed(goal - end), target is not None, False)
        elif NOTHING.match(said):
            rows.bad.append(address - start)
        elif UNUSUAL.match(said):
            rip = RIP.search(said)
            disp = _signed(int(rip[1], 16) - end) if rip else 0
            add(address - start, length, OTHER, disp, False, False)
        else:
            rip = RIP.search(said)
            nop = b"nop" in said or b"xchg" in said
            add(
                address - start,
                length,
                RelocationCode.RIP if rip else RelocationCode.COPY,
                _signed(int(rip[1], 16) - end) if rip else 0,
                False,
                nop and NOP.match(said) is not None,
            )


def _control(found: re.Match[bytes]) -> tuple[int, int | None]:
    """The kind, and the target if the instruction says it itself."""
    name, star = found["name"], found["star"] is not None
    goal = found["target"]
    target = int(goal.rstrip(b" <"), 16) if goal is not None and not star else None
    if name == b"ret":
        return RelocationCode.END, None
    if name == b"call":
        return (RelocationCode.CALL_INDIRECT if star else RelocationCode.CALL), target
    if name == b"jmp":
        return (RelocationCode.END if star else RelocationCode.JMP), target
    if name == b"xbegin":
        return OTHER, target
    if name in SHORT or name.startswith(b"loop"):
        return RelocationCode.LOOP, target
    return RelocationCode.JCC, target
