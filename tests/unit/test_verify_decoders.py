"""Decoders as oracles for the kernel's judgements: they agree with right records, and each
comparison tells a wrong one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pyctl.errors import OracleError, ProtocolError
from pyctl.transport import RecordingTransport
from pyctl.verify.audit import audit
from pyctl.verify.decoders import OTHER, Decoded, decode_iced, decode_objdump
from pyctl.verify.judgements import SITE, MethodCode, RelocationCode, SiteFlag, TextPart
from pyctl.verify.livetext import Text, read_memory, read_text
from pyctl.verify.remote import livetext

BASE = 0xFFFFFFFF81000000
JUMP, JUMP_INT3, INT3, REFUSED = (
    MethodCode.JUMP,
    MethodCode.JUMP_INT3,
    MethodCode.INT3,
    MethodCode.REFUSED,
)
COPY, RIP, JCC, JMP, LOOP, CALL, CALL_INDIRECT, END = RelocationCode
Decode = Callable[[Text], Decoded]


@dataclass(frozen=True)
class Row:
    """An instruction, and what the kernel should say of it."""

    code: str
    kind: RelocationCode
    method: MethodCode
    dcr_len: int = 0
    nr_insns: int = 0
    disp: int = 0
    traps: int = 0


FUNCTION: dict[int, Row] = {
    0x00: Row("4889c3", COPY, JUMP, 6, 2),  # mov %rax,%rbx
    0x03: Row("4811c8", COPY, JUMP_INT3, 7, 3, traps=1 << 4),  # adc %rcx,%rax
    0x06: Row("90", COPY, JUMP_INT3, 7, 3, traps=1 << 1),
    0x07: Row("4889c3", COPY, JUMP, 6, 2),
    0x0A: Row("4811c8", COPY, JUMP, 5, 2),
    0x0D: Row("75f8", JCC, JUMP, 15, 3, disp=-8),  # jne 7
    0x0F: Row("e3f6", LOOP, JUMP, 13, 2, disp=-10),  # jrcxz 7
    0x11: Row("48c7050010000005000000", RIP, JUMP, 11, 1, disp=0x1000),  # movq $5,0x1000(%rip)
    0x1C: Row("ff1500200000", CALL_INDIRECT, JUMP, 6, 1, disp=0x2000),  # call *0x2000(%rip)
    0x22: Row("e8d9ffffff", CALL, JUMP, 5, 1, disp=-39),  # call 0
    0x27: Row("e900000000", JMP, JUMP, 5, 1),  # jmp 2c
    0x2C: Row("90", COPY, INT3, 1, 1),
    0x2D: Row("ffd0", CALL_INDIRECT, INT3, 2, 1),  # call *%rax
    0x2F: Row("ebcf", JMP, JUMP, 7, 1, disp=-49),  # jmp 0
    0x31: Row("6690", COPY, REFUSED),  # padding, two kinds of nop
    0x33: Row("0f1f00", COPY, REFUSED),
    0x36: Row("c3", END, JUMP, 5, 1),  # ret, int3s
}
INT3S = 4
CODE = b"".join(bytes.fromhex(row.code) for row in FUNCTION.values()) + b"\xcc" * INT3S
TEXT = Text(BASE, CODE, ((BASE, "function"),))


def part(changes: dict[int, Row | None] | None = None) -> TextPart:
    """The kernel's records, some of them changed, added or left out."""
    rows = {**FUNCTION, **(changes or {})}
    records = [
        (at, len(bytes.fromhex(row.code)), row.kind, row.method, 0, row.dcr_len, row.nr_insns, 0,
         row.traps, row.disp)
        for at, row in sorted(rows.items())
        if row is not None
    ]  # fmt: skip
    return TextPart(BASE, len(CODE), np.array(records, SITE))


@pytest.fixture(params=[decode_iced, decode_objdump])
def decode(request: pytest.FixtureRequest) -> Decode:
    chosen: Decode = request.param
    return chosen


def test_a_decoder_sees_what_is_there(decode: Decode) -> None:
    seen = decode(TEXT)
    assert seen.offset.tolist() == list(FUNCTION)
    assert seen.length.tolist() == [len(bytes.fromhex(row.code)) for row in FUNCTION.values()]
    assert seen.kind.tolist() == [row.kind for row in FUNCTION.values()]
    assert seen.disp.tolist() == [row.disp for row in FUNCTION.values()]
    assert (seen.targets - np.uint64(BASE)).tolist() == [0, 7, 0x2C]
    assert seen.offset[seen.nop].tolist() == [6, 0x2C, 0x31, 0x33]


def test_decoders_agree_on_odd_instructions(decode: Decode) -> None:
    odd = {
        "cf": OTHER, "48cf": OTHER, "0f0b": OTHER, "0f05": OTHER, "cd80": OTHER, "0f01d9": OTHER,
        "c7f800000000": OTHER, "ff28": OTHER, "f4": COPY, "c5f877": COPY, "f3c3": END,
        "3eff20": END, "2e7500": JCC, "f2e900000000": JMP, "67e300": LOOP, "e000": LOOP,
        "f390": COPY, "f3a4": COPY, "f00fb10f": COPY, "2ee800000000": CALL, "3effd0": CALL_INDIRECT,
        "c20800": END, "ff2500000000": END, "f3480fb805aabbccdd": RIP,
    }  # fmt: skip
    code = b"".join(bytes.fromhex(text) for text in odd)
    seen = decode(Text(BASE, code, ()))
    assert seen.length.tolist() == [len(text) // 2 for text in odd]
    assert dict(zip(odd, seen.kind.tolist(), strict=True)) == odd


def test_a_decoder_begins_anew_at_each_symbol(decode: Decode) -> None:
    code = bytes.fromhex("e8909090c3cccc37b801000000")
    symbols = ((BASE + 4, "inner"), (BASE + 8, "behind"))
    seen = decode(Text(BASE, code, symbols))
    assert 4 in seen.offset.tolist()
    assert seen.offset.tolist()[-1] == 8
    assert 7 in seen.bad


def test_right_records_pass(decode: Decode) -> None:
    assert audit([part()], [decode(TEXT)]) == []


#: What is compared, at which offset, and the changed records.
WRONG: dict[str, tuple[str, int, dict[int, Row | None]]] = {
    "a boundary too many": ("boundary", 1, {1: Row("89c3", COPY, REFUSED)}),
    "a boundary inside an instruction": ("boundary", 0x12, {0x12: Row("c7", COPY, REFUSED)}),
    "a boundary left out": ("boundary", 0x0A, {0x0A: None}),
    "a length": ("length", 0x22, {0x22: replace(FUNCTION[0x22], code="e8d9ff")}),
    "a kind": ("relocation", 0x0F, {0x0F: replace(FUNCTION[0x0F], kind=JCC)}),
    "a copied rip": ("relocation", 0x11, {0x11: replace(FUNCTION[0x11], kind=COPY)}),
    "a rip displacement": ("displacement", 0x11, {0x11: replace(FUNCTION[0x11], disp=0x1001)}),
    "a branch": ("displacement", 0x0D, {0x0D: replace(FUNCTION[0x0D], disp=-7)}),
    "a branch of 0": ("displacement", 0x2F, {0x2F: replace(FUNCTION[0x2F], disp=0)}),
    "DCR bytes": ("DCR bytes", 0x0A, {0x0A: replace(FUNCTION[0x0A], dcr_len=6)}),
    "DCR bytes, with padding": ("DCR bytes", 0x36, {0x36: replace(FUNCTION[0x36], dcr_len=4)}),
    "DCR bytes of an int3": ("DCR bytes", 0x2D, {0x2D: replace(FUNCTION[0x2D], dcr_len=5)}),
    "DCR instructions": ("DCR instructions", 0x0D, {0x0D: replace(FUNCTION[0x0D], nr_insns=4)}),
    "DCR instructions, with padding": (
        "DCR instructions", 0x2F, {0x2F: replace(FUNCTION[0x2F], nr_insns=2)},
    ),
    "DCR instructions of an int3": (
        "DCR instructions", 0x2C, {0x2C: replace(FUNCTION[0x2C], nr_insns=2)},
    ),
    "a call in a DCR": ("DCR", 0x2C, {0x2C: Row("90", COPY, JUMP, 5, 3)}),
    "a branch into a jump": ("branch", 0x06, {0x06: replace(FUNCTION[0x06], method=JUMP)}),
    "no trap for a branch": ("branch", 0x03, {0x03: replace(FUNCTION[0x03], traps=0)}),
    "a trap beside the branch": ("branch", 0x03, {0x03: replace(FUNCTION[0x03], traps=1 << 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_is_told(name: str, decode: Decode) -> None:
    what, offset, changes = WRONG[name]
    found = audit([part(changes)], [decode(TEXT)])
    assert [(each.what, each.address - BASE) for each in found] == [(what, offset)]
    assert found[0].symbol == f"function+{offset:#x}"
    assert found[0].decoder == decode(TEXT).decoder
    assert found[0].decoder in str(found[0])


@pytest.mark.parametrize(
    ("traps", "dcr_len", "nr_insns", "what"),
    [
        (1 << 2 | 1 << 4, 7, 3, []),
        (1 << 2, 7, 3, ["DCR"]),  # nothing at the return address
        (1 << 4, 7, 3, ["DCR"]),  # nothing behind the ret
        (1 << 2 | 1 << 4, 5, 2, ["DCR bytes", "DCR instructions"]),
    ],
)
def test_control_that_comes_in_behind_a_call_or_a_return(
    traps: int, dcr_len: int, nr_insns: int, what: list[str], decode: Decode
) -> None:
    """call *%rax; ret; an int3; mov %rax,%rbx"""
    code = bytes.fromhex("ffd0c3cc4889c3")
    part = TextPart(
        BASE,
        len(code),
        np.array(
            [
                (0, 2, CALL_INDIRECT, JUMP_INT3, 0, dcr_len, nr_insns, 0, traps, 0),
                (2, 1, END, REFUSED, 0, 0, 0, 0, 0, 0),
                (4, 3, COPY, REFUSED, 0, 0, 0, 0, 0, 0),
            ],
            SITE,
        ),
    )
    found = audit([part], [decode(Text(BASE, code, ()))])
    assert [each.what for each in found] == what


def test_a_probe_at_an_ftrace_site_is_one_behind_it(decode: Decode) -> None:
    """endbr64; the site; a mov that takes a jump"""
    rows = ("f30f1efa", "0f1f440000", "48c7c005000000")
    code = b"".join(map(bytes.fromhex, rows))

    def found(method: MethodCode, dcr_len: int) -> list[str]:
        part = TextPart(
            BASE,
            len(code),
            np.array(
                [
                    (0, 4, COPY, JUMP, 0, 0, 0, SiteFlag.FTRACE, 0, 0),
                    (4, 5, COPY, method, 0, dcr_len, 0, SiteFlag.FTRACE, 0, 0),
                    (9, 7, COPY, JUMP, 0, 7, 1, 0, 0, 0),
                ],
                SITE,
            ),
        )
        return [str(each.what) for each in audit([part], [decode(Text(BASE, code, ()))])]

    assert found(JUMP, 0) == []
    assert found(INT3, 0) == ["ftrace"]
    assert found(JUMP, 5) == ["ftrace"]


def test_a_jump_is_not_wanted_where_the_text_ends(decode: Decode) -> None:
    code = CODE[:-INT3S] + b"\xcc" * 3
    text = Text(BASE, code, TEXT.symbols)
    right = part()
    found = audit([TextPart(BASE, len(code), right.sites)], [decode(text)])
    assert [(each.what, each.address - BASE) for each in found] == [("DCR", 0x36)]


def test_branches_between_texts_count(decode: Decode) -> None:
    """jmp to function+0x1, from a module."""
    start = 0xFFFFFFFFC0000000
    goal = BASE + 3 - (start + 5)
    module = Text(start, b"\xe9" + goal.to_bytes(4, "little", signed=True), ())
    jmp = (0, 5, JMP, JUMP, 0, 5, 1, 0, 0, goal)
    parts = [part(), TextPart(start, 5, np.array([jmp], SITE))]
    found = audit(parts, [decode(TEXT), decode(module)])
    assert [(each.what, each.address - BASE) for each in found] == [("branch", 0)]


def test_memory_is_fetched_in_one_go() -> None:
    symbols = [(BASE, "one"), (BASE + 2, "two"), (BASE + 0x100, "three")]

    def answer(contents: bytes, names: list[tuple[int, str]]) -> RecordingTransport:
        packed = zlib.compress(json.dumps(names).encode() + b"\n" + contents)
        return RecordingTransport(results={("python3",): (0, packed)})

    ranges = [(BASE + 0x100, 2), (BASE, 4)]
    host = answer(b"\n\1abcd", symbols)
    texts = read_text(host, ranges)
    assert texts == [
        Text(BASE + 0x100, b"\n\1", ((BASE + 0x100, "three"),)),
        Text(BASE, b"abcd", ((BASE, "one"), (BASE + 2, "two"))),
    ]
    assert len(host.asked("run")) == 1
    assert texts[1].describe(BASE + 3) == "two+0x1"
    assert texts[1].at(BASE + 1, 2) == b"bc"
    assert read_memory(answer(b"\n\1abcd", []), ranges) == [b"\n\1", b"abcd"]
    with pytest.raises(ProtocolError):
        read_memory(answer(b"short", []), ranges)
    with pytest.raises(ProtocolError):
        read_memory(RecordingTransport(results={("python3",): (0, b"?")}), ranges)
    with pytest.raises(OracleError):
        read_memory(RecordingTransport(results={("python3",): (1, b"")}), ranges)


def test_symbols_in_ranges() -> None:
    lines = ["10 T a", "1f t b\t[mod]", "20 T c", "30 D d", "33 D e"]
    assert livetext.symbols_in([[0x30, 3], [0x10, 16]], lines) == [
        (0x10, "a"),
        (0x1F, "b"),
        (0x30, "d"),
    ]
