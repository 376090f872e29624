"""The emulator as an oracle for rule 1: it passes right detours and names what is wrong with
others. All bytes are written by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from pyctl.errors import UsageError
from pyctl.verify.emulate import Site, emulate

IA = 0xFFFFFFFF81234FFB  # the DCR goes over the end of a page
DETOUR = 0xFFFFFFFFC0400010
CALLEE = 0xFFFFFFFF81300000
PUSHFQ, POPFQ = b"\x9c", b"\x9d"


def rel32(at: int, length: int, target: int) -> bytes:
    """The displacement of an instruction of ``length`` bytes at ``at``."""
    return struct.pack("<i", target - at - length)


def count(add: bytes = bytes.fromhex("6548ff0425")) -> bytes:
    """incq %gs:0x1f040, unless told otherwise."""
    return add + struct.pack("<i", 0x1F040)


#: Some code for an address: most depends on where it is.
Code = Callable[[int], bytes]


def fixed(text: str) -> Code:
    """The same bytes at each address."""
    return lambda _at: bytes.fromhex(text)


def jump(target: int) -> Code:
    """jmp target."""
    return lambda at: b"\xe9" + rel32(at, 5, target)


def jcc(condition: int, target: int) -> Code:
    """jcc target."""
    return lambda at: bytes([0x0F, 0x80 | condition]) + rel32(at, 6, target)


def push(value: int) -> Code:
    """push $value."""
    return lambda _at: b"\x68" + struct.pack("<i", value - (1 << 64))


def then(*parts: Code) -> Code:
    """One behind the other."""

    def code(at: int) -> bytes:
        out = b""
        for part in parts:
            out += part(at + len(out))
        return out

    return code


@dataclass(frozen=True)
class Case:
    """The displaced instructions: as they are, and as they should be in the detour."""

    original: Sequence[Code]
    displaced: Sequence[Code]
    returns: bool = True
    traps: tuple[int, ...] = ()
    method: str = "jump"


def site(
    case: Case,
    *,
    action: bytes = PUSHFQ + count() + POPFQ,
    displaced: Mapping[int, Code] | None = None,
    back: int | None = None,
    live: bytes | None = None,
    entries: Mapping[int, int] | None = None,
) -> Site:
    """A site; the arguments replace something by something wrong. ``displaced`` is by the
    number of the instruction, ``entries`` says where in the detour, by offset."""
    patch = bytearray(b"\xcc" if case.method == "int3" else jump(DETOUR)(IA))
    for trap in case.traps:
        patch[trap] = 0xCC
    detour = IA + 5 + struct.unpack_from("<i", patch, 1)[0] if len(patch) > 1 else DETOUR
    original, offsets = b"", []
    for code in case.original:
        offsets.append(len(original))
        original += code(IA + len(original))
    code, found = action, {}
    for number, (offset, right) in enumerate(zip(offsets, case.displaced, strict=True)):
        found[offset] = detour + len(code)
        code += (displaced or {}).get(number, right)(detour + len(code))
    if case.returns:
        code += jump(back or IA + len(original))(detour + len(code))
    return Site(
        address=IA,
        original=original,
        live=live or bytes(patch) + original[len(patch) :],
        detour=detour,
        code=code,
        entries={**found, **{offset: detour + at for offset, at in (entries or {}).items()}},
        traps=case.traps,
    )


NOP3 = fixed("0f1f00")
MOVE = fixed("4889c3")  # mov %rax,%rbx
STORE = fixed("48895c2408")  # mov %rbx,8(%rsp)
DIV = fixed("48f7f1")  # div %rcx
ADC = fixed("4811c8")  # adc %rcx,%rax
SHR = fixed("48d1e8")  # shr %rax
RIP = 0xFFFFFFFF82345678


def load(at: int, target: int = RIP) -> bytes:
    """mov target(%rip),%rdx"""
    return bytes.fromhex("488b15") + rel32(at, 7, target)


def rip_call(opcode: int) -> Code:
    """call or jmp *RIP(%rip)"""
    return lambda at: bytes([0xFF, opcode]) + rel32(at, 6, RIP)


CASES = {
    "copy": Case([MOVE, ADC], [MOVE, ADC]),
    "store": Case([STORE], [STORE]),
    "rip": Case([load], [load]),
    # je +0x20
    "jcc": Case([NOP3, fixed("7420")], [NOP3, jcc(4, IA + 0x25)]),
    "jmp": Case([fixed("4811c8"), fixed("eb20")], [ADC, jump(IA + 0x25)], returns=False),
    # loop, jrcxz
    "loop": Case(
        [fixed("4811c8"), fixed("e220")],
        [ADC, then(fixed("e202eb05"), jump(IA + 0x25))],
    ),
    "jrcxz": Case(
        [fixed("4811c8"), fixed("e320")],
        [ADC, then(fixed("e302eb05"), jump(IA + 0x25))],
    ),
    "call": Case(
        [lambda at: b"\xe8" + rel32(at, 5, CALLEE)],
        [then(push(IA + 5), jump(CALLEE))],
        returns=False,
    ),
    "call-indirect": Case(
        [ADC, fixed("ffd0")],  # call *%rax
        [ADC, then(push(IA + 5), fixed("ffe0"))],
        returns=False,
    ),
    "call-indirect-rip": Case(
        [rip_call(0x15)], [then(push(IA + 6), rip_call(0x25))], returns=False
    ),
    "end": Case([ADC, fixed("c3cc")], [ADC, fixed("c3")], returns=False),
    "end-indirect": Case([ADC, fixed("ffe2")], [ADC, fixed("ffe2")], returns=False),
    # dec %ecx; jne back to the probe: a new arrival
    "again": Case([fixed("ffc9"), fixed("75fc90")], [fixed("ffc9"), jcc(5, IA)]),
    # adc; jmp to the probe itself
    "self": Case([ADC, fixed("ebfb")], [ADC, jump(IA)], returns=False),
    "rep": Case([fixed("f348a5"), ADC], [fixed("f348a5"), ADC]),  # rep movsq
    "division": Case([DIV, ADC], [DIV, ADC]),
    # xor %ecx,%ecx; div %rcx
    "division by zero": Case([fixed("31c9"), DIV], [fixed("31c9"), DIV]),
    "flags": Case([fixed("9c58"), ADC], [fixed("9c58"), ADC]),  # pushfq; pop %rax
    "push": Case([fixed("5051"), ADC], [fixed("5051"), ADC]),
    "popf": Case([fixed("9d")], [fixed("9d")], method="int3"),
    # lock addl $0,-4(%rsp): the flags depend on the dead stack
    "barrier": Case([fixed("f0834424fc00")], [fixed("f0834424fc00")]),
    "stac": Case([fixed("0f01cb"), ADC], [fixed("0f01cb"), ADC]),
    "out": Case([fixed("ef"), fixed("ed"), ADC], [fixed("ef"), fixed("ed"), ADC]),
    "sse": Case([fixed("660fefc8"), ADC], [fixed("660fefc8"), ADC]),  # pxor %xmm0,%xmm1
    # incq %gs:0x1f048
    "percpu": Case([fixed("6548ff042548f00100")], [fixed("6548ff042548f00100")]),
    "int3": Case([MOVE], [MOVE], method="int3"),
    # dec %ecx; shr %rax (branched to); jne to the shr
    "trap": Case(
        [fixed("ffc9"), SHR, fixed("75fb")],
        [fixed("ffc9"), SHR, jcc(5, IA + 2)],
        traps=(2,),
    ),
    # the same, branched to from elsewhere
    "outer trap": Case([fixed("ffc9"), SHR], [fixed("ffc9"), SHR], traps=(2,)),
}


#: Another way to count: push %rax; movabs $slot,%rax; incq %gs:(%rax); pop %rax.
FAR = bytes.fromhex("5048b8") + struct.pack("<q", 0x7CDF74822007D8) + bytes.fromhex("6548ff0058")


@pytest.mark.parametrize("name", CASES)
def test_a_right_detour_passes(name: str) -> None:
    verdict = emulate(site(CASES[name]), seed=1, states=20)
    assert verdict.differences == ()
    assert verdict.same
    assert verdict.runs == 20 * (1 + len(CASES[name].traps))
    assert verdict == emulate(site(CASES[name]), seed=1, states=20)
    assert emulate(site(CASES[name], action=PUSHFQ + FAR + POPFQ), seed=1).same


WRONG: dict[str, tuple[str, Site]] = {
    "no pushfq, popfq": ("is 0, not 1", site(CASES["store"], action=count())),
    "no popfq": ("rsp is", site(CASES["copy"], action=PUSHFQ + count())),
    "counts by 2": (
        "the counter goes up by 2, not by 1",
        site(CASES["copy"], action=PUSHFQ + count(bytes.fromhex("6548830425"))[:9] + b"\x02\x9d"),
    ),
    "counts twice": (
        "the counter goes up by 2, not by 1",
        site(CASES["copy"], action=PUSHFQ + count() * 2 + POPFQ),
    ),
    "does not count": (
        "the detour has no counter",
        site(CASES["copy"], action=PUSHFQ + POPFQ),
    ),
    "counts in 32 bits": (
        "the detour has no counter",
        site(CASES["percpu"], action=PUSHFQ + count(bytes.fromhex("65ff0425")) + POPFQ),
    ),
    "clobbers a register": (
        "r11 is",
        site(CASES["copy"], action=PUSHFQ + count() + bytes.fromhex("49ffc3") + POPFQ),
    ),
    "clobbers a vector register": (
        "xmm1 is",
        site(CASES["copy"], displaced={0: then(MOVE, fixed("660fefc8"))}),
    ),
    "writes memory": (
        "writes 8 bytes at",
        site(CASES["copy"], displaced={0: then(MOVE, fixed("488903"))}),
    ),
    "writes deep below the stack": (
        "writes 8 bytes at",
        site(CASES["copy"], displaced={0: then(MOVE, fixed("48895c24e8"))}),
    ),
    "does not write": ("does not write 8 bytes", site(CASES["store"], displaced={0: MOVE})),
    "writes something else": (
        "writes ",
        site(CASES["store"], displaced={0: fixed("48894c2408")}),
    ),
    "a wrong rip displacement": (
        "rdx is",
        site(CASES["rip"], displaced={0: lambda at: load(at, RIP + 1)}),
    ),
    "a copied rip displacement": (
        "rdx is",
        site(CASES["rip"], displaced={0: lambda _at: load(IA)}),
    ),
    "an inverted jcc": ("goes on at", site(CASES["jcc"], displaced={1: jcc(5, IA + 0x25)})),
    "a wrong branch target": ("goes on at", site(CASES["jcc"], displaced={1: jcc(4, IA + 0x26)})),
    "a wrong jump": ("goes on at", site(CASES["jmp"], displaced={1: jump(IA + 5)})),
    "loop for jrcxz": (
        "goes on at",
        site(CASES["loop"], displaced={1: CASES["jrcxz"].displaced[1]}),
    ),
    "a wrong return address": (
        "writes ",
        site(CASES["call"], displaced={0: then(push(IA + 6), jump(CALLEE))}),
    ),
    "the detour's return address": (
        "writes ",
        site(CASES["call"], displaced={0: lambda at: b"\xe8" + rel32(at, 5, CALLEE)}),
    ),
    "no return address": ("rsp is", site(CASES["call"], displaced={0: jump(CALLEE)})),
    "a wrong register": (
        "goes on at",
        site(CASES["call-indirect"], displaced={1: then(push(IA + 5), fixed("ffe1"))}),
    ),
    "back to the wrong place": ("goes on at", site(CASES["copy"], back=IA + 7)),
    "an instruction left out": ("rax is", site(CASES["copy"], displaced={1: fixed("90")})),
    "an instruction twice": ("rax is", site(CASES["copy"], displaced={1: then(ADC, ADC)})),
    "a division too early": (
        "ends with #DE at the count, but ends with #DE at +0x2 without the probe",
        site(
            CASES["division by zero"],
            action=PUSHFQ + bytes.fromhex("31c948f7f1") + count() + POPFQ,
        ),
    ),
    "a division left out": (
        "but ends with #DE at +0x2 without the probe",
        site(CASES["division by zero"], displaced={1: NOP3}),
    ),
    "output left out": ("to ports", site(CASES["out"], displaced={0: fixed("90")})),
    "an unknown instruction": (
        "an instruction that does not exist",
        site(CASES["copy"], displaced={1: fixed("0f0b" "c5f877")}),
    ),
    "never back": ("the detour does not end", site(CASES["copy"], displaced={1: fixed("ebfe")})),
    "a jump elsewhere": (
        "goes on at",
        site(CASES["copy"], live=jump(DETOUR + 0x100)(IA) + b"\xc8"),
    ),
    "no int3 for a branch target": (
        "into the bytes of the jump",
        site(replace(CASES["trap"], traps=())),
    ),
    "a trap without an entry": (
        "into the bytes of the jump",
        site(
            Case([fixed("ffc9"), SHR, fixed("75fc")], [fixed("ffc9"), SHR, jcc(5, IA + 3)],
                 traps=(3,))
        ),
    ),
    "a trap with a wrong entry": (
        "from +0x2: ",
        site(CASES["outer trap"], entries={2: 11}),
    ),
    "a trap that counts": (
        "goes up by 1, not by 0",
        site(CASES["outer trap"], entries={2: 0}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_detour_is_told(name: str) -> None:
    words, wrong = WRONG[name]
    verdict = emulate(wrong, seed=2, states=20)
    assert not verdict.same
    assert any(words in text for text in verdict.differences), verdict


#: ZF SF OF PF AF as in rflags: what an increment changes.
INC_FLAGS = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11
TEST = fixed("4885c0")  # test %rax,%rax
SETB = fixed("0f92c1")  # setb %cl


def test_flags_that_nobody_reads_need_not_be_saved() -> None:
    dead = Case([TEST, SETB], [TEST, SETB])
    assert not emulate(site(CASES["store"], action=count()), seed=4, states=20).same
    bare = replace(site(CASES["store"], action=count()), dead=INC_FLAGS)
    assert emulate(bare, seed=4, states=20).same, "an increment leaves CF alone"
    assert emulate(site(dead, action=count()), seed=4, states=20).same, "written in the DCR"
    # addq $1 changes CF, which adc reads
    add = bytes.fromhex("6548830425") + count()[5:] + b"\x01"
    wrong = replace(site(CASES["copy"], action=add), dead=INC_FLAGS)
    assert not emulate(wrong, seed=4, states=20).same
    assert emulate(replace(wrong, dead=INC_FLAGS | 1), seed=4, states=20).same


def test_what_is_done_to_a_dead_flag_is_compared_all_the_same() -> None:
    setz = fixed("0f94c1")
    wrong = site(Case([TEST, setz], [TEST, setz]), action=count(), displaced={0: fixed("4885c9")})
    assert not emulate(replace(wrong, dead=INC_FLAGS), seed=5, states=20).same


def test_what_can_not_be_emulated_is_said() -> None:
    for code, name in (("c5f877", "vzeroupper"), ("0f31", "rdtsc"), ("0fc7f0", "rdrand")):
        verdict = emulate(site(Case([fixed(code), ADC], [fixed(code), ADC])), seed=3)
        assert not verdict.same
        assert (verdict.not_emulated or "").lower() == name


def test_what_is_no_site() -> None:
    with pytest.raises(UsageError):
        Site(IA, b"\x90" * 5, b"\xe9" * 4, DETOUR, b"", {0: DETOUR})
    with pytest.raises(UsageError):
        Site(IA, b"\x90" * 5, b"\xe9" * 5, DETOUR, b"", {})
