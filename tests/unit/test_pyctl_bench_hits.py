"""The benches of hits: methods, rows, tables and documents, without a guest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from pyctl.bench.hits import HitRow, Run, compared, parse_points, parse_run
from pyctl.bench.methods import METHODS, OPTPROBE, Kind, Method
from pyctl.bench.native.assemble import Captured, Piece, assemble, straight, targets
from pyctl.bench.native.measure import make_rows, parse_times, run_here
from pyctl.cli import bench_hits as command
from pyctl.cli import main
from pyctl.cli.bench_output import document
from pyctl.errors import OracleError, ProtocolError, UsageError

ASKED = {"method", "kind", "extra_instructions", "ratio", "hits", "calls"}


def row(name: str, extra: float | None, **facts: object) -> HitRow:
    method = next(one for one in METHODS if one.name == name)
    hits = None if extra is None else 100
    made = HitRow(name, method.kind, method.what, extra, None, hits, 100, hits, 0)
    return replace(made, **facts)


def test_methods_have_names_of_their_own_and_peers_are_among_them() -> None:
    names = [method.name for method in METHODS]
    assert len(names) == len(set(names))
    peers = {method.name for method in METHODS if method.kind is Kind.PEER}
    assert {OPTPROBE, "kprobe", "kprobe-stepped", "kprobe-ftrace", "ftrace", "fprobe"} <= peers
    assert {"bpf-fentry", "ftrace-direct"} <= peers


def test_a_run_is_told_by_the_rounds_behind_the_first() -> None:
    run = parse_run("dead 300 0 9999 1100 1300\n", 100)
    assert run == Run(300, 0, (11.0, 13.0))
    assert (run.middle, run.spread) == (12.0, 2.0)
    with pytest.raises(ProtocolError, match="no two rounds"):
        parse_run("dead 100 0 9999\n", 100)


def test_points() -> None:
    text = "dead 0xffffffffc0001003 e9 01 02\nlive 0xffffffffc0001043 48 8d 40\n"
    assert parse_points(text) == {
        "dead": (0xFFFFFFFFC0001003, b"\xe9\x01\x02"),
        "live": (0xFFFFFFFFC0001043, b"\x48\x8d\x40"),
    }


def test_rows_are_compared_with_the_optprobe() -> None:
    rows = compared([row("count", 3), row(OPTPROBE, 102), row("fprobe", None)])
    assert [one.ratio for one in rows] == [0.029, 1.0, None]
    assert compared([row("count", 3)])[0].ratio is None


def test_the_document_has_what_was_asked_for() -> None:
    [found] = document([row("count", 3)])
    assert list(found) == [item.name for item in fields(HitRow)]
    assert found.keys() >= ASKED
    assert found["kind"] == "ours"


def measured(**_options: object) -> Generator[HitRow, None, None]:
    yield row("count", 3)
    yield row(OPTPROBE, 102)
    yield row("fprobe", None, note="not offered: this kernel was built without it")


def test_the_command_shows_peers_side_by_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "run_hits", measured)
    picture, saved = tmp_path / "a" / "hits.svg", tmp_path / "b" / "hits.json"
    argv = ["bench", "hits", "--svg", str(picture), "--save", str(saved)]
    shown = CliRunner().invoke(main.app, argv)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert any(line.split()[:2] == ["count", "ours"] for line in lines)
    assert any(line.split()[:2] == [OPTPROBE, "mainline"] for line in lines)
    assert "fprobe: not offered: this kernel was built without it" in lines
    ElementTree.fromstring(picture.read_text())
    assert "http" not in picture.read_text().replace("http://www.w3.org", "").replace(
        "https://www.textualize.io", ""
    )
    assert [one["ratio"] for one in json.loads(saved.read_text())] == [0.029, 1.0, None]


def test_the_command_prints_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_hits", measured)
    told = CliRunner().invoke(main.app, ["bench", "hits", "--json"])
    assert [one["method"] for one in json.loads(told.stdout)] == ["count", OPTPROBE, "fprobe"]


def test_methods_can_be_chosen() -> None:
    chosen = [method.name for method in command.chosen_methods("handler, count")]
    assert chosen == ["count", "handler", OPTPROBE]
    with pytest.raises(UsageError, match="'quick' is no method"):
        command.chosen_methods("quick")


# --- the detours of a guest, here -------------------------------------------------------

FUNCTION = 0xFFFFFFFFC0001000
DETOUR = 0xFFFFFFFFC0100000
ENTRY = 0xFFFFFFFFC0200000
THUNK = 0xFFFFFFFFC0300000
#: mov %rdi,%rax; lea 1(%rax),%rax twice; add $1,%rax; ret
PLAIN = bytes.fromhex("48 89 f8 48 8d 40 01 48 8d 40 01 48 83 c0 01 c3")
REGION = PLAIN[3:11]


def rel32(opcode: int, at: int, to: int) -> bytes:
    return bytes([opcode]) + (to - at - 5).to_bytes(4, "little", signed=True)


def probed() -> tuple[Piece, Piece]:
    jump = PLAIN[:3] + rel32(0xE9, FUNCTION + 3, DETOUR)
    return Piece(FUNCTION, jump), Piece(FUNCTION + 11, PLAIN[11:], gap=3)


def detour(action: bytes) -> Piece:
    code = action + REGION
    return Piece(DETOUR, code + rel32(0xE9, DETOUR + len(code), FUNCTION + 11))


def increment(address: int) -> bytes:
    return bytes.fromhex("65 48 ff 04 25") + address.to_bytes(4, "little")


def cases() -> tuple[Captured, Captured, Captured]:
    far = bytes.fromhex("50 48 b8") + (0x7CDF7482200C40).to_bytes(8, "little")
    far += bytes.fromhex("65 48 ff 00 58")
    return (
        Captured("dead", (Piece(FUNCTION, PLAIN),)),
        Captured("count", (*probed(), detour(increment(0x2345678)))),
        Captured("far", (*probed(), detour(b"\x9c" + far + b"\x9d"))),
    )


def handled() -> Captured:
    """As kmod/x86/entry.S has it: half of a pt_regs, the other half there, and the handler."""
    before = (
        bytes.fromhex("54 ff 34 24 9c") + increment(0x30) + bytes.fromhex("6a 10 68 03 10 00 c0")
    )
    call = rel32(0xE8, DETOUR + len(before), ENTRY)
    after = bytes.fromhex("48 8d 64 24 28")
    # push %rax, 15 times; mov %rsp,%rsi; pushq %gs:; incl %gs:; cmpq $0,%gs:; jne
    frame = b"\x50" * 15 + bytes.fromhex("48 89 e6 65 ff 34 25 80 00 03 00")
    frame += bytes.fromhex("65 ff 04 25 80 00 03 00 65 48 83 3c 25 90 00 03 00 00 75 40")
    # mov 0x78(%rsi),%rax; mov -34(%rax),%rax; mov 88(%rax),%rdi; mov %rsp,%gs:
    frame += bytes.fromhex("48 8b 46 78 48 8b 40 de 48 8b 78 58 65 48 89 24 25 90 00 03 00")
    frame += bytes.fromhex("48 8b 47 18")  # mov 24(%rdi),%rax
    frame += rel32(0xE8, ENTRY + len(frame), THUNK)
    # movq $0,%gs:; decl %gs:; jz; add $8,%rsp; pop %rax, 15 times; ret
    frame += bytes.fromhex("65 48 c7 04 25 90 00 03 00 00 00 00 00 65 ff 0c 25 80 00 03 00 74 40")
    frame += bytes.fromhex("48 83 c4 08") + b"\x58" * 15 + b"\xc3"
    pieces = (*probed(), detour(before + call + after), Piece(ENTRY, frame))
    return Captured("handler", pieces)


def test_control_is_followed_to_where_it_goes_away() -> None:
    assert straight(Piece(FUNCTION, PLAIN + b"\xcc" * 8))[-1].next_ip == FUNCTION + len(PLAIN)
    assert targets(detour(increment(0))) == {FUNCTION + 11}
    with pytest.raises(OracleError, match="does not end"):
        straight(Piece(FUNCTION, PLAIN[:-1]))


def test_what_can_not_run_outside_is_refused() -> None:
    data = Piece(FUNCTION, bytes.fromhex("48 8b 05 00 10 00 00 c3"))
    with pytest.raises(OracleError, match="refers to data"):
        assemble([Captured("data", (data,))], {})
    with pytest.raises(OracleError, match="no equivalent of schedule"):
        assemble([handled()], {THUNK: "schedule"})


def test_a_far_away_return_is_a_return() -> None:
    thunk = 0xFFFFFFFF81000000
    code = rel32(0xE9, FUNCTION, thunk)
    assert "\tret" in assemble(
        [Captured("thunk", (Piece(FUNCTION, code),))], {thunk: "__x86_return_thunk"}
    )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_detours_run_here() -> None:
    text = assemble([*cases(), handled()], {THUNK: "__x86_indirect_thunk_rax"})
    times = run_here(text, 3)
    assert times.keys() == {"dead", "count", "far", "handler"}
    assert all(len(ticks) == 3 for ticks in times.values())


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_a_detour_that_computes_something_else_is_told() -> None:
    wrong = detour(increment(0))
    broken = replace(wrong, code=wrong.code.replace(REGION, REGION[:7] + b"\x02"))
    with pytest.raises(OracleError, match="wrong results"):
        run_here(assemble([Captured("broken", (*probed(), broken))], {}), 2)


def method(name: str) -> Method:
    return next(one for one in METHODS if one.name == name)


def test_ticks_are_what_a_hit_adds() -> None:
    dead, count, _far = cases()
    optprobe = replace(count, name=OPTPROBE)
    times = parse_times("dead 0 10.0 11.0 10.0\ncount 0 12.0 14.0 13.0\noptprobe 0 40 41 40\n")
    first, last = make_rows([method("count"), method(OPTPROBE)], [dead, count, optprobe], times)
    assert (first.ticks, first.spread, first.ratio) == (3.0, 1.0, 0.1)
    assert (last.ticks, last.ratio) == (30.0, 1.0)
    assert first.detour_bytes == 9 + len(REGION) + 5
    with pytest.raises(OracleError, match="2 wrong"):
        parse_times("dead 2 10.0\n")
