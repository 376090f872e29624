"""The oracle of live flags: on code written by hand, and it tells a wrong claim."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest

from pyctl.verify.flow import NOP5, Function, KernelFlow, ftrace_site
from pyctl.verify.judgements import SITE, MethodCode, SiteFlag, TextPart
from pyctl.verify.liveness import ALL, NOT_CARRY, Flag, Liveness, judge
from pyctl.verify.livetext import Text

START = 0xFFFFFFFF81000000
NONE = Flag(0)
CF = Flag.CF
RET, NOP = "c3", "90"
CMP, JE, JB, ADC = "4839c8", "7400", "7200", "4811c8"
ENDBR = "f30f1efa"


def oracle(
    *functions: tuple[str, Sequence[str]],
    traced: Sequence[str] = (),
    jumps: Sequence[tuple[int, int]] = (),
    fixups: Sequence[tuple[int, int]] = (),
    warnings: Sequence[int] = (),
    calls: Sequence[int] = (),
) -> tuple[Liveness, list[int]]:
    """Functions one behind the other, each a name and its instructions in hexadecimal. Also
    the address of each instruction. The tables have numbers of instructions."""
    data, symbols, addresses = b"", [], []
    for name, code in functions:
        symbols.append((START + len(data), name))
        for each in code:
            addresses.append(START + len(data))
            data += bytes.fromhex(each)
    text = Text(START, data, tuple(symbols))

    def at(number: int) -> int:
        return addresses[number]

    flow = KernelFlow(
        jumps=[(at(a), at(b)) for a, b in jumps],
        fixups=[(at(a), at(b)) for a, b in fixups],
        warnings=[at(number) for number in warnings],
        calls=[at(number) for number in calls],
        traced=frozenset((name, "") for name in traced),
        functions=[Function(address, name) for address, name in symbols],
    )
    return Liveness([text], flow), addresses


def flags(*functions: tuple[str, Sequence[str]], **tables: Sequence[object]) -> list[Flag]:
    """The live flags at each instruction."""
    made, addresses = oracle(*functions, **tables)  # type: ignore[arg-type]
    return [Flag(bits) for bits in made.at(np.array(addresses, np.uint64)).tolist()]


def test_a_comparison_ends_what_comes_before() -> None:
    # nop; cmp; je +0; xor %eax,%eax; ret
    assert flags(("asm", [NOP, CMP, JE, "31c0", RET])) == [NONE, NONE, Flag.ZF, NONE, ALL]


def test_an_increment_leaves_the_carry() -> None:
    # inc %eax; adc: CF lives through the increment, nothing else does
    assert flags(("asm", ["ffc0", ADC, CMP, RET])) == [CF, CF, NONE, ALL]


def test_where_the_unknown_begins() -> None:
    for code in ("c3", "ffe0", "ffd0", "0f05", "e900001000", "e800001000", "cd80"):
        assert flags(("asm", [NOP, code])) == [ALL, ALL], code
    assert flags(("asm", [NOP])) == [ALL], "the end of the text"


def test_a_compiled_function_passes_no_flags() -> None:
    body = [NOP5.hex(), NOP, RET]
    assert flags(("c", body), traced=["c"]) == [NONE] * 3
    assert flags(("c", body)) == [ALL] * 3
    assert flags(("c", [ENDBR, *body]), traced=["c"]) == [NONE] * 4
    # It reads a flag before it writes one: that is its own affair.
    assert flags(("c", [NOP5.hex(), ADC, RET]), traced=["c"]) == [NONE] * 3
    # In the list, but no such site: another function of that name.
    assert flags(("c", [NOP, NOP, RET]), traced=["c"]) == [ALL] * 3


def test_calls_and_tail_calls() -> None:
    call = "e8" + struct.pack("<i", 1).hex()  # over the ret
    assert flags(("asm", [call, RET]), ("c", [NOP5.hex(), RET]), traced=["c"])[0] == NONE
    assert flags(("asm", [call, RET]), ("leaf", [ADC, CMP, RET]))[0] == CF
    assert flags(("asm", [call, RET]), ("leaf", [NOP, RET]))[0] == ALL
    jump = "e9" + struct.pack("<i", 0).hex()
    assert flags(("asm", [jump]), ("c", [NOP5.hex(), RET]), traced=["c"])[0] == NONE


def test_the_cold_part_of_a_compiled_function() -> None:
    hot = ("f", [NOP5.hex(), RET])
    assert flags(hot, ("f.cold", [NOP, RET]), traced=["f"])[2:] == [NONE, NONE]
    assert flags(hot, ("g.cold", [NOP, RET]), traced=["f"])[2:] == [ALL, ALL]


def test_a_jump_to_the_return_thunk_is_a_return() -> None:
    jump = "e9" + struct.pack("<i", 0).hex()
    thunk = ("__x86_return_thunk", [RET])
    assert flags(("c", [NOP5.hex(), NOP, jump]), thunk, traced=["c"])[:3] == [NONE] * 3
    assert flags(("asm", [NOP, jump]), thunk)[:2] == [ALL] * 2


@pytest.mark.parametrize(
    "code",
    [
        "48d3e0",  # shl %cl,%rax
        "48d3c8",  # ror %cl,%rax
        "480fa5c1",  # shld %cl,%rax,%rcx
        "48c1e000",  # shl $0,%rax
        "48c1e040",  # shl $64,%rax: nothing
        "f3a6",  # repe cmpsb
        "f2ae",  # repne scasb
        "c4e2f9f7c0",  # shlx
        "88c8",
        "0fc8",
    ],
)  # fmt: skip
def test_what_may_do_nothing_kills_nothing(code: str) -> None:
    assert flags(("asm", [code, ADC, CMP, RET]))[0] == CF
    assert flags(("asm", [code, RET]))[0] == ALL


def test_what_kills_which() -> None:
    rest = {
        "48c1e005": NONE,  # shl $5: AF undefined
        "0fa3c0": Flag.ZF,  # bt leaves ZF
        "480fc70f": NOT_CARRY & ~Flag.ZF | CF,  # cmpxchg16b: ZF alone
        "f9": NOT_CARRY,  # stc
        "0fbcc0": NONE,  # bsf
        "9d": NONE,  # popfq
        "9e": Flag.OF,  # sahf
        "9c": ALL,  # pushfq
        "9f": ALL,  # lahf reads five, and passes OF
        "19c0": CF,  # sbb %eax,%eax
        "f5": ALL,  # cmc reads CF
        "48d1d0": ALL & ~Flag.OF,  # rcl reads CF, writes CF and OF
        "0f90c0": ALL,  # seto
    }
    assert {code: flags(("asm", [code, RET]))[0] for code in rest} == rest


def test_branches_join() -> None:
    # je over the cmp, to a setb: CF is read on one way
    assert flags(("asm", ["7403", CMP, "0f92c0", CMP, RET])) == [
        Flag.ZF | CF, NONE, CF, NONE, ALL,
    ]  # fmt: skip
    # dec %ecx; jne back: a loop, with a setb in front of it
    assert flags(("asm", ["0f92c0", "ffc9", "75f9", CMP, RET])) == [CF, CF, CF | Flag.ZF, NONE, ALL]


def test_what_the_kernels_tables_add() -> None:
    body = [NOP, CMP, RET, ADC, CMP, RET]
    assert flags(("asm", body))[0] == NONE
    assert flags(("asm", body), fixups=[(0, 3)])[0] == CF
    assert flags(("asm", body), jumps=[(0, 3)])[0] == CF
    # A label that is on: a jump now, and nothing later.
    on = ["eb04", ADC, RET, CMP, RET]
    assert flags(("asm", on))[0] == NONE
    assert flags(("asm", on), jumps=[(0, 3)])[0] == CF
    trap = ["0f0b", ADC, CMP, RET]
    assert flags(("asm", trap))[0] == NONE
    assert flags(("asm", trap), warnings=[0])[0] == CF
    # A call of compiled code, that may be patched to do nothing.
    caller = ("asm", ["e8" + struct.pack("<i", 7).hex(), ADC, CMP, RET])
    compiled = ("c", [NOP5.hex(), RET])
    assert flags(caller, compiled, traced=["c"])[0] == NONE
    assert flags(caller, compiled, traced=["c"], calls=[0])[0] == CF


def part(addresses: Sequence[int], said: Sequence[int]) -> TextPart:
    """Records that say this of the flags."""
    sites = np.zeros(len(addresses), SITE)
    sites["offset"] = [address - START for address in addresses]
    sites["method"] = MethodCode.JUMP
    sites["flags"] = said
    return TextPart(START, 0x1000, sites)


def test_every_wrong_claim_is_told() -> None:
    made, addresses = oracle(("asm", ["ffc0", ADC, CMP, JE, RET]))
    right = [SiteFlag.FLAGS_DEAD_BUT_CARRY, SiteFlag.FLAGS_DEAD_BUT_CARRY, 96, 0, 0]
    judged = judge([part(addresses, right)], made)
    assert judged.wrong == ()
    assert (judged.sites, judged.claimed, judged.carry_claimed) == (5, 3, 1)
    assert (judged.dead, judged.carry_dead) == (3, 1)
    assert (judged.precision, judged.carry_precision) == (1.0, 1.0)
    cautious = judge([part(addresses, [0, 0, 96, 0, 0])], made)
    assert cautious.wrong == ()
    assert cautious.precision == 1 / 3

    for number, flag, bits in (
        (0, SiteFlag.CARRY_DEAD, CF),
        (1, SiteFlag.CARRY_DEAD, CF),
        (3, SiteFlag.FLAGS_DEAD_BUT_CARRY, NOT_CARRY),
        (4, SiteFlag.CARRY_DEAD, CF),
    ):
        said = list(right)
        said[number] |= flag
        (wrong,) = judge([part(addresses, said)], made).wrong
        assert (wrong.address, wrong.flags) == (addresses[number], bits)
        assert "asm+" in str(wrong)
    said = [*right[:3], SiteFlag.FLAGS_DEAD_BUT_CARRY, 0]
    (wrong,) = judge([part(addresses, said)], made).wrong
    assert wrong.path == "asm+0x8 -> asm+0xa -> the unknown"


def test_only_sites_that_have_a_region_count() -> None:
    made, addresses = oracle(("asm", [RET]))
    refused = part(addresses, [96])
    refused.sites["method"] = MethodCode.REFUSED
    behind = part(addresses, [96 | SiteFlag.FTRACE])
    assert [judge([each], made).sites for each in (refused, behind)] == [0, 0]


def test_an_ftrace_site_is_seen_by_its_bytes() -> None:
    text = Text(START, bytes.fromhex(ENDBR) + NOP5 + b"\xe8\0\0\0\0" + b"\x90" * 9, ())
    assert ftrace_site([text], START) == START + 4
    assert ftrace_site([text], START + 4) == START + 4
    assert ftrace_site([text], START + 9) == START + 9
    assert ftrace_site([text], START + 14) is None
    assert ftrace_site([text], START + 0x100) is None
