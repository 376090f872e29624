"""The emulator passes a detour that splits hits by task if it is right, and names what is wrong
with others. All bytes are written by hand."""

from __future__ import annotations

import re
import struct

import pytest

from pyctl.options import Options
from pyctl.verify.emulate import STATUS, Site, Verdict, emulate
from pyctl.verify.emulate_handlers import Entries
from pyctl.verify.emulate_tasks import ByTask

IA = 0xFFFFFFFF81234FFB
DETOUR = 0xFFFFFFFFC0400010
ENTRY = 0xFFFFFFFFC0500020
MAP_HIT, RESCHED = 0xFFFFFFFFC0502000, 0xFFFFFFFFC0502100
MAP = 0xFFFF888012345600
COUNT, PREEMPTION = 0x1F040, 0x1FB40
STATES = 60
#: setb %cl; adc %rax,%rbx: CF is read, then nobody reads flags.
DCR = bytes.fromhex("0f92c14811c3")
#: mov %rax,%rbx; test %rax,%rax
DEAD_DCR = bytes.fromhex("4889c34885c0")
CALM = bytes.fromhex("0f01cafc")  # clac; cld
PUSHES = bytes.fromhex("565251504150415141524153")
POPS = bytes.fromhex("415b415a4159415858595a5e")
OPTIONS = Options(by="pid")


def le(value: int) -> bytes:
    return struct.pack("<i", value)


def call(at: int, target: int) -> bytes:
    return b"\xe8" + le(target - at - 5)


def entries(
    clear: bytes = CALM,
    pops: bytes = POPS,
    off: bytes = b"\x65\xff\x04\x25",
    on: bytes = b"\x65\xff\x0c\x25",
    function: int = MAP_HIT,
) -> Entries:
    """djp_map_entry, or one like it."""
    code = clear + PUSHES + off + le(PREEMPTION)
    code += call(ENTRY + len(code), function) + on + le(PREEMPTION)
    code += bytes([0x74, len(pops) + 1]) + pops + b"\xc3"
    code += call(ENTRY + len(code), RESCHED)
    code += bytes([0xEB, 256 - 7 - 1 - len(pops)])
    return Entries(ENTRY, code, {ENTRY: "djp_map_entry"}, 0, RESCHED, MAP_HIT)


def site(
    *,
    dcr: bytes = DCR,
    dead: int = STATUS & ~1,
    calm: bool = False,
    keep: bool = True,
    restore: bytes = b"\x5f",
    given: int = MAP,
) -> Site:
    code = b"\x9c" if keep else b""
    code += bytes.fromhex("6548ff0425") + le(COUNT)
    code += b"\x57\x48\xbf" + struct.pack("<Q", given)
    code += call(DETOUR + len(code), ENTRY) + restore
    code += b"\x9d" if keep else b""
    first = DETOUR + len(code)
    code += dcr
    code += b"\xe9" + le(IA + len(dcr) - (DETOUR + len(code)) - 5)
    live = (b"\xe9" + le(DETOUR - IA - 5)).ljust(len(dcr), b"\x90")
    return Site(IA, dcr, live, DETOUR, code, {0: first, 3: first + 3}, dead=dead, calm=calm)


def run(made: Site, by: Entries) -> tuple[Verdict, ByTask]:
    action = ByTask(made, OPTIONS, by)
    return emulate(made, seed=3, states=STATES, action=action), action


@pytest.mark.parametrize(
    ("made", "by"),
    [
        (site(), entries()),
        (site(calm=True), entries(clear=b"")),
        (site(dcr=DEAD_DCR, dead=STATUS, calm=True, keep=False), entries(clear=b"")),
    ],
)
def test_what_is_right_passes(made: Site, by: Entries) -> None:
    verdict, action = run(made, by)
    assert verdict.same, verdict.differences
    assert action.hits == action.arrivals == STATES


@pytest.mark.parametrize(
    ("made", "by", "words"),
    [
        (site(keep=False), entries(), "rcx is"),
        (site(), entries(clear=b""), "DF or AC set"),
        (site(dcr=DEAD_DCR, dead=STATUS, keep=False), entries(), "AC is|DF is"),
        (site(), entries(pops=POPS.replace(b"\x59", b"\x58", 1)), "is 0x"),
        (site(), entries(off=b"\x65\xff\x0c\x25", on=b"\x65\xff\x04\x25"), "preemption count"),
        (site(), entries(function=RESCHED), "not the function"),
        (site(restore=b"\x5e"), entries(), "rdi is|rsi is"),
    ],
)
def test_what_is_wrong_is_named(made: Site, by: Entries, words: str) -> None:
    verdict, _action = run(made, by)
    assert any(re.search(words, each) for each in verdict.differences), verdict.differences


def test_the_map_is_what_is_handed_over() -> None:
    made = site()
    action = ByTask(site(given=MAP + 8), OPTIONS, entries())
    verdict = emulate(made, seed=3, states=STATES, action=action)
    assert any("rdi is" in each for each in verdict.differences), verdict.differences
