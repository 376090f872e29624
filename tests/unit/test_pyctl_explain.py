"""Region and detour side by side, the names of addresses, and `djp explain`."""

from __future__ import annotations

import io
import json
import re
import struct
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pyctl.cli import explain as command
from pyctl.cli import main
from pyctl.disassembly import Role, compare, compare_on, disassemble, references
from pyctl.errors import ProtocolError, RemoteCommandError
from pyctl.explanation import Detour, Entry, Explanation, Relocation, parse_explanation
from pyctl.guest import Guest
from pyctl.reasons import Reason
from pyctl.remote.symbols import nearest
from pyctl.symbols import Symbol, symbolize
from pyctl.testing import FakeDjprobes
from pyctl.transport import RecordingTransport

BASE = 0xFFFFFFFF81000105
PLACE = 0xFFFFFFFFC0400000
COUNT = bytes.fromhex("9c6548ff0425c0f201009d")


def relative(at: int, length: int, target: int) -> bytes:
    """A 32-bit displacement of an instruction of ``length`` bytes at ``at``."""
    return struct.pack("<i", target - at - length)


def explained(
    region: str, moved: list[bytes], offsets: list[int], relocations: dict[int, str], back: bool
) -> Explanation:
    """What the kernel would say of a region, ``moved`` being what its instructions became."""
    dcr = bytes.fromhex(region)
    entries, code = [], COUNT
    for offset, one in zip(offsets, moved, strict=True):
        entries.append(Entry(offset, PLACE + len(code)))
        code += one
    if back:
        code += b"\xe9" + relative(PLACE + len(code), 5, BASE + len(dcr))
    answer = parse_explanation(
        f"target: f\naddress: {BASE:#x}\nverdict: jump\nmethod: jump\nreason: ok\ndcr: {region}\n"
    )
    return replace(
        answer,
        relocations=tuple(Relocation(*pair) for pair in relocations.items()),
        detour=Detour(PLACE, code),
        entries=tuple(entries),
    )


def columns(answer: Explanation) -> list[tuple[str, str | None, list[str], str | None]]:
    """Role, what was there, what became of it, and how."""
    return [
        (row.role, row.original and row.original.text, [o.text for o in row.moved], row.relocation)
        for row in compare(answer, lambda address: f"<{address - BASE:#x}>").rows
    ]


PUSHES = [b"\x41\x57", b"\x41\x56", b"\x41\x55"]
COUNTING = [
    ("action", None, ["pushf"], None),
    ("action", None, ["incq %gs:0x1f2c0"], None),
    ("action", None, ["popf"], None),
]


def test_copies_and_the_way_back() -> None:
    answer = explained(
        "41 57 41 56 41 55", [b"\x41\x57", b"\x41\x56", b"\x41\x55"], [0, 2, 4], {}, True
    )
    assert columns(answer) == [
        *COUNTING,
        ("displaced", "push %r15", ["push %r15"], None),
        ("displaced", "push %r14", ["push %r14"], None),
        ("displaced", "push %r13", ["push %r13"], None),
        ("back", None, ["jmp <0x6>"], None),
    ]


def test_a_rip_operand_keeps_its_meaning() -> None:
    moved = b"\x48\x8b\x05" + relative(PLACE + len(COUNT), 7, BASE + 0x1007)
    answer = explained("48 8b 05 00 10 00 00", [moved], [0], {0: "rip"}, True)
    _, original, (after,), kind = columns(answer)[3]
    assert original == "mov 0x1000(%rip),%rax  # <0x1007>"
    assert after.endswith("(%rip),%rax  # <0x1007>")
    assert after != original
    assert kind == "rip"


def test_a_branch_as_the_last_one_and_the_way_back() -> None:
    moved = b"\x0f\x84" + relative(PLACE + len(COUNT) + 3, 6, BASE + 0x15)
    answer = explained("48 89 c3 74 10", [b"\x48\x89\xc3", moved], [0, 3], {3: "jcc"}, True)
    assert columns(answer)[3:] == [
        ("displaced", "mov %rax,%rbx", ["mov %rax,%rbx"], None),
        ("displaced", "je <0x15>", ["je <0x15>"], "jcc"),
        ("back", None, ["jmp <0x5>"], None),
    ]


def test_a_call_becomes_two_and_does_not_come_back() -> None:
    """Not even when it calls what is right behind it."""
    at = PLACE + len(COUNT)
    moved = (
        b"\x68"
        + struct.pack("<I", (BASE + 5) & 0xFFFFFFFF)
        + b"\xe9"
        + relative(at + 5, 5, BASE + 5)
    )
    answer = explained("e8 00 00 00 00", [moved], [0], {0: "call"}, False)
    assert columns(answer)[3:] == [
        ("displaced", "call <0x5>", [f"push ${BASE + 5:#x}  # <0x5>", "jmp <0x5>"], "call"),
    ]


def test_a_jump_behind_the_region_is_the_displaced_one() -> None:
    moved = b"\xe9" + relative(PLACE + len(COUNT), 5, BASE + 5)
    answer = explained("e9 00 00 00 00", [moved], [0], {0: "jmp"}, False)
    assert columns(answer)[3:] == [("displaced", "jmp <0x5>", ["jmp <0x5>"], "jmp")]


def test_a_loop_is_three_and_padding_none() -> None:
    at = PLACE + len(COUNT)
    moved = b"\xe3\x02\xeb\x05\xe9" + relative(at + 4, 5, BASE + 7)
    answer = explained("e3 05 c3 cc cc", [moved, b"\xc3"], [0, 2], {0: "loop"}, False)
    rows = columns(answer)[3:]
    assert rows[0][2][2] == "jmp <0x7>"
    assert rows[1:] == [
        ("displaced", "ret", ["ret"], None),
        ("displaced", "int3", [], None),
        ("displaced", "int3", [], None),
    ]


def test_what_is_inside_the_detour_is_named_so() -> None:
    at = PLACE + len(COUNT)
    moved = b"\xe3\x02\xeb\x05\xe9" + relative(at + 4, 5, BASE + 7)
    answer = explained("e3 05 0f 1f 00", [moved, b"\x0f\x1f\x00"], [0, 2], {0: "loop"}, True)
    assert references(answer) == {BASE + 7, BASE + 5}
    row = compare_on(FakeDjprobes({"f": BASE}), answer).rows[3]
    assert row.original is not None
    assert row.original.text == "jrcxz f+0x7"
    texts = [one.text for one in row.moved]
    assert texts == ["jrcxz detour+0xf", "jmp detour+0x14", "jmp f+0x7"]


def test_no_detour_and_no_region() -> None:
    refused = parse_explanation(
        f"target: f\naddress: {BASE:#x}\nverdict: refused\nreason: kprobe\ndcr: 90\n"
    )
    (row,) = compare(refused).rows
    assert (row.original.text, row.moved, row.role) == ("nop", (), Role.DISPLACED)
    assert compare(replace(refused, dcr=b"")).rows == ()
    assert references(replace(refused, dcr=b"")) == set()


def test_an_entry_inside_an_instruction_is_a_fault() -> None:
    answer = explained(
        "41 57 41 56 41 55", [b"\x41\x57", b"\x41\x56", b"\x41\x55"], [0, 2, 4], {}, True
    )
    wrong = (*answer.entries[:2], replace(answer.entries[2], offset=3))
    with pytest.raises(ProtocolError, match=r"begins at \+3"):
        compare(replace(answer, entries=wrong))


@pytest.mark.parametrize(
    ("code", "refers", "text"),
    [
        ("48 c7 c7 00 10 00 81", 0xFFFFFFFF81001000, "mov $0xffffffff81001000,%rdi  # s"),
        ("8b 04 c5 00 10 00 81", 0xFFFFFFFF81001000, "mov -0x7efff000(,%rax,8),%eax  # s"),
        ("48 8b 45 f0", None, "mov -0x10(%rbp),%rax"),
        ("48 83 f8 ff", None, "cmp $0xffffffffffffffff,%rax"),
        ("65 48 8b 04 25 00 c3 01 00", None, "mov %gs:0x1c300,%rax"),
        ("ff e0", None, "jmp *%rax"),
        ("eb fe", BASE, "jmp s"),
        ("06", None, "(bad)"),
    ],
)
def test_what_an_instruction_refers_to(code: str, refers: int | None, text: str) -> None:
    (one,) = disassemble(bytes.fromhex(code), BASE, lambda _address: "s")
    assert (one.refers_to, one.text) == (refers, text)
    assert one.code == bytes.fromhex(code)


KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 T vfs_read
ffffffff81000200 t vfs_write
ffffffffc0001000 t dummy_xmit\t[dummy]
ffffffff82000000 D jiffies
"""


def test_nearest_symbols() -> None:
    asked = [0xFFFFFFFF81000205, 0xFFFFFFFF81000000, 0xFFFFFFFF810001FF, 0xFFFFFFFF82000000]
    asked += [0xFFFFFFFFC0001010, 0xFFFFFFFF80FFFFFF, 0xFFFFFFFF83000000, 0xFFFFFFFF81000000]
    assert nearest(KALLSYMS.splitlines(), asked) == [
        ("vfs_write", 5, None),
        ("_stext", 0, None),
        ("vfs_read", 0xFF, None),
        ("jiffies", 0, None),
        ("dummy_xmit", 0x10, "dummy"),
        None,
        None,  # no symbol ends, but none is 16 MiB long
        ("_stext", 0, None),
    ]
    assert nearest(KALLSYMS.splitlines(), []) == []


def test_symbolize() -> None:
    host = RecordingTransport(results={("python3",): (0, b'[["f", 3, "m"], null]')})
    assert symbolize(host, {2, 1}) == {1: Symbol("f", 3, "m")}
    assert host.log[0].what[-1] == "[1, 2]"
    assert str(Symbol("f", 3, "m")) == "m:f+0x3"
    assert str(Symbol("f")) == "f"
    assert symbolize(host, []) == {}
    assert len(host.log) == 1
    with pytest.raises(RemoteCommandError):
        symbolize(RecordingTransport(), [1])


REAL = f"""\
target: f+5
address: {BASE:#x}
symbol: f+0x5
verdict: jump
method: jump+int3
reason: branch-target
message: something branches into the bytes that the jump would cover
hint: probe the branch's target, or an earlier instruction
offending: {BASE + 2:#x} f+0x7
dcr: 41 57 74 10 e8 10 00 00 00 cc cc
relocations: +2:jcc +4:call
ftrace: 0xffffffff81000100
source: jump-label 0xffffffff81000500 g+0x100
state: bypass
traps: +2
text: e9 f6 cc 3f 3f
detour: {PLACE:#x} {COUNT.hex(" ")} 41 57 0f 84 {relative(PLACE + 13, 6, BASE + 20).hex(" ")} \
68 0e 01 00 81 e9 {relative(PLACE + 24, 5, BASE + 25).hex(" ")}
entries: +0:{PLACE + 11:#x} +2:{PLACE + 13:#x} +4:{PLACE + 19:#x}
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    fake = FakeDjprobes({"f": BASE - 5, "g": 0xFFFFFFFF81000400}, refused={"g": Reason.KPROBE})
    fake.explanations["f+5"] = REAL
    monkeypatch.setattr(Guest, "local", lambda: Guest("fake", fake))
    monkeypatch.delenv("DJP_ON", raising=False)
    return fake


def shown(*argv: str) -> str:
    result = CliRunner().invoke(main.app, ["explain", *argv])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_says_why_and_what_becomes_of_it(kernel: FakeDjprobes) -> None:
    text = shown("f+5")
    for words in (
        "branch-target: something branches into",
        "0xffffffff81000107 f+0x7",
        "a jump label at 0xffffffff81000500 g+0x100",
        "fires through the int3 until a commit",
        "e9 f6 cc 3f 3f",
    ):
        assert words in text, words
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "action +1 incq %gs:0x1f2c0" in lines
    assert "+0 push %r15 +11 push %r15" in lines
    assert "+2 je f+0x19 jcc, int3, in the way +13 je f+0x19" in lines
    assert "+4 call f+0x1e call +19 push $0xffffffff8100010e # f+0xe" in lines
    assert "+24 jmp f+0x1e" in lines
    assert "+9 int3 padding" in lines
    assert len(kernel.asked("run")) == 1  # all names in one round trip


def test_colours_tell_what_was_changed(kernel: FakeDjprobes) -> None:
    answer = parse_explanation(REAL)
    console = Console(file=io.StringIO(), record=True, width=160, force_terminal=True)
    console.print(command.show(answer, compare_on(kernel, answer)))
    shown = console.export_html(inline_styles=True)
    styles: dict[str, str] = {}
    for style, text in re.findall(r'<span style="([^"]*)">([^<]*?) *</span>', shown):
        styles[text] = styles.get(text, "") + style
    assert "color: #800000" in styles["je f+0x19"]  # in the way, on the left,
    assert "color: #808000" in styles["je f+0x19"]  # and relocated, on the right
    assert "color: #808000" in styles["call f+0x1e"]
    assert "color: #808000" in styles["jmp f+0x1e"]
    assert "font-style: italic" in styles["incq %gs:0x1f2c0"]
    assert "push %r15" not in styles  # copied: it looks like text


def test_the_document(kernel: FakeDjprobes) -> None:
    told = json.loads(shown("f+5", "--json"))
    assert list(told)[:6] == ["target", "address", "symbol", "verdict", "method", "reason"]
    assert (told["source"], told["state"]) == ("jump-label 0xffffffff81000500 g+0x100", "bypass")
    assert (told["traps"], told["text"]) == ([2], "e9 f6 cc 3f 3f")
    assert told["relocations"] == [{"offset": 2, "kind": "jcc"}, {"offset": 4, "kind": "call"}]
    region, detour = told["dcr"], told["detour"]
    assert (region["address"], detour["address"]) == (hex(BASE), hex(PLACE))
    for code in (region, detour):
        assert " ".join(one["bytes"] for one in code["instructions"]) == code["bytes"]
    assert region["instructions"][1] == {
        "address": hex(BASE + 2),
        "bytes": "74 10",
        "text": "je f+0x19",
        "offset": 2,
        "relocation": "jcc",
        "moved_to": hex(PLACE + 13),
    }
    assert [one["role"] for one in detour["instructions"]] == ["action"] * 3 + ["displaced"] * 4
    assert [one["displaces"] for one in detour["instructions"]][3:] == [0, 2, 4, 4]


def test_one_that_can_not_be_and_one_that_is(kernel: FakeDjprobes) -> None:
    told = json.loads(shown("g", "--json"))
    assert (told["verdict"], told["method"], told["detour"]) == ("refused", None, None)
    assert told["dcr"]["instructions"][0]["text"] == "push %r15"
    assert "no probe can stand here" in shown("g")
    assert "see /sys/kernel/debug/kprobes/list" in shown("g")
    assert "probe the branch's target" not in shown("f+5")  # no need to
    assert "detour" not in shown("g")
    assert json.loads(shown("f", "--json"))["state"] is None
    CliRunner().invoke(main.app, ["add", "f", "--commit"])
    assert json.loads(shown("f", "--json"))["state"] == "jump"
    assert "the jump is there" in shown("f")
