"""The emulator passes right detours of probes with options and names what is wrong with
others. All bytes are written by hand."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from pyctl.options import Options
from pyctl.verify.emulate import Site, Verdict, emulate
from pyctl.verify.emulate_options import Optioned, Slot, find_slots

IA = 0xFFFFFFFF81234FFB
DETOUR = 0xFFFFFFFFC0400010
FIRED = 0xFFFF888004567890
COUNT, SUM, SOFT, HIST = 0x1F040, 0x1F048, 0x1F050, 0x1F058
PUSHFQ, POPFQ = b"\x9c", b"\x9d"
#: test %rax,%rax; adc %rcx,%rax: then nobody reads flags. Or setb %cl, mov: CF is live.
DCR, CF_DCR = bytes.fromhex("4885c04811c8"), bytes.fromhex("0f92c14889c3")
#: All status flags, as in rflags.
STATUS = 0x8D5
CARRY = 1
STATES = 60


def at(disp: int) -> bytes:
    return struct.pack("<i", disp)


def inc(disp: int = COUNT) -> bytes:
    """incq %gs:disp"""
    return bytes.fromhex("6548ff0425") + at(disp)


def skip(condition: int, over: bytes) -> bytes:
    """jcc over some code, and the code."""
    return bytes([0x70 | condition, len(over)]) + over


def soft(rest: bytes, condition: int = 0x4) -> bytes:
    """cmpl $0,%gs:SOFT; je"""
    return bytes.fromhex("65833c25") + at(SOFT) + b"\0" + skip(condition, rest)


def less(rest: bytes, condition: int = 0x2) -> bytes:
    """cmp $5,%edi; jb"""
    return bytes.fromhex("83ff05") + skip(condition, rest)


def sample(every: int, rest: bytes) -> bytes:
    """addl STEP,%gs:SUM; jnc; subl REST,%gs:SUM"""
    step = -(-(1 << 32) // every)
    left = step * every % (1 << 32)
    add = bytes.fromhex("65810425") + at(SUM) + struct.pack("<I", step)
    sub = bytes.fromhex("65812c25") + at(SUM) + struct.pack("<I", left)
    return add + skip(0x3, sub + rest)


def once(rest: bytes) -> bytes:
    """push %rax; movabs $FIRED,%rax; lock btsl $0,(%rax); pop %rax; jc"""
    lock = b"\x50\x48\xb8" + struct.pack("<Q", FIRED) + bytes.fromhex("f00fba280058")
    return lock + skip(0x2, rest)


def hist(first: int = HIST + 8) -> bytes:
    """The power of two of %si:u16."""
    index = bytes.fromhex("6548ff04c5") + at(first) + bytes([0xEB, 9])
    return (
        bytes.fromhex("50400fb7c6")  # push %rax; movzx %si,%eax
        + bytes.fromhex("480fbdc0")  # bsr %rax,%rax
        + skip(0x4, index)
        + inc(HIST)
        + b"\x58"
    )


def site(action: bytes, *, dcr: bytes = DCR, dead: int = STATUS, saves: bool = False) -> Site:
    code = PUSHFQ + action + POPFQ if saves else action
    first = DETOUR + len(code)
    code += dcr
    code += b"\xe9" + at(IA + len(dcr) - DETOUR - len(code) - 5)
    live = b"\xe9" + at(DETOUR - IA - 5) + b"\x90"
    return Site(IA, dcr, live, DETOUR, code, {0: first, 3: first + 3}, dead=dead)


def run(site_: Site, options: Options, seed: int = 1) -> tuple[Verdict, Optioned]:
    action = Optioned(site_, options)
    return emulate(site_, seed=seed, states=STATES, action=action), action


RIGHT = {
    "if": (Options("%di:u32 >= 5"), less(inc())),
    "soft": (Options(soft=True), soft(inc())),
    "once": (Options(once=True), once(inc())),
    "hist": (Options(hist="%si:u16"), inc() + hist()),
    **{
        f"sample={every}": (Options(sample=every), sample(every, inc()))
        for every in (2, 3, 5, 7, 16, 30)
    },
    "all": (
        Options("%di:u32 >= 5", sample=3, hist="%si:u16", soft=True),
        soft(less(sample(3, inc() + hist()))),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_detour_passes(name: str) -> None:
    options, action = RIGHT[name]
    for made in (site(action), site(action, saves=True)):
        verdict, done = run(made, options)
        assert verdict.differences == ()
        assert verdict.same
        assert done.arrivals == STATES
        assert done.hits > 0
        assert done.hits < STATES or options == Options(hist="%si:u16")
        if options.sample and not options.condition:
            assert done.hits == STATES // options.sample


def test_the_condition_holds_in_half_of_the_states() -> None:
    for text in ("%di == 77", "%di:u8 < 3", "%di:s16 <= -4", "%di:s64 > 100", "%di & 0x100"):
        options = Options(text)
        assert options.condition is not None
        _, action = run(site(inc()), options)
        # The detour counts every arrival, so the run ends at the first that does not count.
        assert 0 <= action.hits <= action.arrivals
    _, action = run(site(less(inc())), Options("%di:u32 >= 5"))
    assert STATES / 4 < action.hits < STATES * 3 / 4


CONDITION = Options("%di:u32 >= 5")
#: A detour with one fault, the options that it should have been made for, and what is said.
WRONG: dict[str, tuple[Site, Options, str]] = {
    "counts all": (site(b"\x83\xff\x05" + inc()), CONDITION, "the count goes up by 1, not"),
    "inverted": (site(less(inc(), 0x3)), CONDITION, "the count goes up by"),
    "signed": (site(less(inc(), 0xC)), CONDITION, "the count goes up by 0, not by 1"),
    "off by one": (
        site(bytes.fromhex("83ff06") + skip(0x2, inc())), CONDITION, "the count goes up by 0",
    ),
    "64 bits": (
        site(bytes.fromhex("4883ff05") + skip(0x2, inc())), CONDITION, "the count goes up by",
    ),
    "flags": (site(less(inc()), dcr=CF_DCR, dead=STATUS & ~CARRY), CONDITION, "rcx is"),
    "no flag is dead": (site(less(inc()), dcr=CF_DCR, dead=0), CONDITION, "is"),
    "every fourth": (site(sample(4, inc())), Options(sample=3), "the count goes up by"),
    "too early": (site(sample(2, inc())), Options(sample=3), "the count goes up by 1, not by 0"),
    "counted off too much": (
        site(b"\x90" + sample(3, inc()) + sample(3, b"")),
        Options(sample=3),
        "the count goes up by",
    ),
    "sample before the condition": (
        site(sample(3, less(inc()))), Options("%di:u32 >= 5", sample=3), "is not to be counted",
    ),
    "no switch": (site(inc()), Options(soft=True), "nothing, for soft"),
    "a switch the wrong way": (site(soft(inc(), 0x5)), Options(soft=True), "the count goes"),
    "a switch nobody asked for": (site(soft(inc())), Options(), "too much"),
    "no bit": (site(inc()), Options(once=True), "nothing, for once"),
    "once and again": (site(once(b"") + inc()), Options(once=True), "the count goes up by 1"),
    "another bucket": (
        site(inc() + hist(HIST)), Options(hist="%si:u16"), "which are not its own",
    ),
    "too many bits": (site(inc() + hist()), Options(hist="%si:u8"), "which are not its own"),
    "another register": (site(inc() + hist()), Options(hist="%bx:u16"), "not its own"),
    "a register changed": (site(less(inc()) + b"\x31\xff"), CONDITION, "rdi is 0x0"),
    "no pop": (site(once(inc()).replace(b"\x58", b"\x90")), Options(once=True), "rsp is"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_detour_is_told(what: str) -> None:
    made, options, words = WRONG[what]
    verdict, _ = run(made, options)
    assert not verdict.same
    assert any(words in text for text in verdict.differences), verdict.differences


def test_a_detour_that_keeps_flags_that_are_live() -> None:
    made = site(less(inc()), dcr=CF_DCR, dead=STATUS & ~CARRY, saves=True)
    assert run(made, Options("%di:u32 >= 5"))[0].same
    counting = replace(site(inc(), dcr=CF_DCR), dead=STATUS & ~CARRY)
    assert run(counting, Options())[0].same, "inc leaves CF alone"


def test_what_is_found_in_a_detour() -> None:
    slots = find_slots(site(soft(less(sample(3, inc() + hist())))))
    assert (slots.count, slots.hist) == (Slot(COUNT, 8), Slot(HIST, 8))
    assert (slots.sample, slots.soft) == (Slot(SUM, 4), Slot(SOFT, 4))
    assert slots.once is None
    assert find_slots(site(once(inc()))).once == Slot(FIRED, 4, shared=True)
    far = b"\x50\x48\xb8" + struct.pack("<q", 0x7CDF74822007D8) + bytes.fromhex("6548ff0058")
    assert find_slots(site(far)).count == Slot(0x7CDF74822007D8, 8)
