"""`djp top`, `djp maps`, options and files for `djp add`, over a fake kernel."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pyctl import hits
from pyctl.cli import main
from pyctl.cli.add import MANY
from pyctl.cli.maps import bar
from pyctl.cli.top import table_of
from pyctl.guest import Guest
from pyctl.hits import Rate, Rates
from pyctl.reasons import Reason
from pyctl.testing import FakeDjprobes

NAMES = ("vfs_read", "vfs_write", "schedule", "bad")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    fake = FakeDjprobes(
        {name: 0xFFFFFFFF81000000 + 0x1000 * n for n, name in enumerate(NAMES)},
        refused={"bad": Reason.BRANCH_TARGET},
    )
    monkeypatch.setattr(Guest, "local", lambda: Guest("fake", fake))
    monkeypatch.delenv("DJP_ON", raising=False)
    return fake


def djp(*argv: str, status: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main.app, list(argv), input=stdin)
    assert result.exit_code == status, result.output
    return result


def document(*argv: str, status: int = 0, stdin: str | None = None) -> dict:
    """stdout has to be exactly one JSON document."""
    return json.loads(djp(*argv, "--json", status=status, stdin=stdin).stdout)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def busy(kernel: FakeDjprobes, monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    """Three probes; while anybody waits, two of them are hit."""
    djp("add", *NAMES[:3])

    def pause(_seconds: float) -> None:
        kernel.hit("p_vfs_read_0", 3)
        kernel.hit("p_schedule_0", 1000)

    monkeypatch.setattr(hits, "_pass", pause)
    return kernel


def test_top_on_no_terminal_is_a_table_a_round(busy: FakeDjprobes) -> None:
    rows = lines(djp("top", "--count", "2").stdout)
    assert rows[0] == rows[5] == "name target hits rate/s"
    assert rows[1].startswith("p_schedule_0 schedule+0x5 1,000 ")
    assert rows[2].startswith("p_vfs_read_0 vfs_read+0x5 3 ")
    assert rows[3].startswith("1 more")
    assert rows[6].startswith("p_schedule_0 schedule+0x5 2,000 ")
    assert len(rows) == 9
    every = lines(djp("top", "--count", "1", "--all").stdout)
    assert every[3] == "p_vfs_write_0 vfs_write+0x5 0 0.0"
    reads = [entry.what for entry in busy.asked("read")]
    assert sum(what.endswith("/hits") for what in reads) == 7  # and names once for each command


def test_top_as_a_document(busy: FakeDjprobes) -> None:
    told = document("top")
    assert [(one["name"], one["hits"]) for one in told["probes"]] == [
        ("p_schedule_0", 1000),
        ("p_vfs_read_0", 3),
        ("p_vfs_write_0", 0),
    ]
    assert told["seconds"] > 0
    first = told["probes"][0]
    assert first["target"] == "schedule+0x5"
    assert first["per_second"] == pytest.approx(1000 / told["seconds"])
    assert document("top", "--count", "3", status=1)["error"]["type"] == "UsageError"


def test_a_small_terminal_shows_the_fastest() -> None:
    rates = Rates(1.0, tuple(Rate(f"p{n}", "f", n, float(n)) for n in range(20, 0, -1)))
    console = Console(file=io.StringIO(), width=80)
    console.print(table_of(rates, height=8))
    shown = lines(console.file.getvalue())  # type: ignore[attr-defined]
    assert [row.split()[0] for row in shown] == ["name", "p20", "p19", "p18", "p17", "p16", "15"]
    assert shown[-1] == f"15 more {sum(range(1, 16))}"


def test_maps_are_drawn(kernel: FakeDjprobes) -> None:
    djp("add", "vfs_read", "--hist", "%dx", "--name", "sizes")
    djp("add", "vfs_write", "--by", "comm", "--name", "names")
    djp("add", "schedule", "--by", "cpu", "--name", "quiet")
    djp("add", "schedule", "--name", "plain")
    for size, count in ((512, 40), (4096, 1), (0, 80)):
        kernel.hit("sizes", count, key=size)
    kernel.hit("names", 3, key="sh")
    kernel.hit("names", 4, key="a\x1b[31mred\n")
    text = djp("maps").stdout
    rows = lines(text)
    assert rows[0] == "sizes vfs_read+0x5 hist=%dx"
    assert rows[1] == "value hits"
    assert rows[2] == f"0-0 80 {'█' * 40}"
    assert rows[3] == "1-1 0"
    assert f"512-1023 40 {'█' * 20}" in rows
    assert "1024-2047 0" in rows
    assert "4096-8191 1 ▌" in rows
    assert f"a\\x1b[31mred\\x0a 4 {'█' * 40}" in rows
    assert rows.index(f"sh 3 {'█' * 30}") == rows.index(f"a\\x1b[31mred\\x0a 4 {'█' * 40}") + 1
    assert rows[-1] == "no hits yet"
    assert "\x1b" not in text
    told = document("maps", "sizes")["maps"]
    assert told[0] == {
        "name": "sizes",
        "kind": "hist",
        "count": 40,
        "key": "512-1023",
        "low": 512,
        "high": 1023,
    }
    assert document("maps", "names")["maps"][1]["key"] == "a\x1b[31mred\n"
    assert "counts by nothing" in djp("maps", "plain", status=1).stderr
    assert "no probe 'nobody'" in djp("maps", "nobody", status=1).stderr
    djp("rm", "--all")
    assert djp("maps").stdout.strip() == "no probe counts by anything"


@pytest.mark.parametrize(
    ("count", "most", "cells"),
    [(0, 9, ""), (9, 9, "████"), (1, 10**6, "▏"), (1, 2, "██"), (5, 8, "██▌"), (0, 0, "")],
)
def test_bars(count: int, most: int, cells: str) -> None:
    assert bar(count, most, 4) == cells


def test_add_takes_options(kernel: FakeDjprobes) -> None:
    argv = ("--if", "+8(%di):u16>=0x5", "--sample", "16", "--hist", "%si:u32", "--soft")
    (row,) = document("add", "vfs_read", *argv)["probes"]
    assert row["options"] == {
        "condition": "+8(%di):u16 >= 5",
        "sample": 16,
        "hist": "%si:u32",
        "by": None,
        "once": False,
        "soft": True,
    }
    assert kernel.asked("write")[0].data.decode() == (
        "p:p_vfs_read_0 vfs_read count soft if +8(%di):u16 >= 5 sample=16 hist=%si:u32\n"
    )
    djp("add", "vfs_write")
    table = lines(djp("ls").stdout)
    assert table[0].endswith("reason options")
    assert table[1].endswith("- soft,if:+8(%di):u16>=5,sample=16,hist=%si:u32")
    assert table[2].endswith("- -")
    kernel.hit("p_vfs_read_0", 1234, unreadable=True)
    table = lines(djp("ls").stdout)
    assert table[0].endswith("options unreadable")
    assert table[1].endswith(" 1,234")
    asked = len(kernel.log)
    error = document("add", "schedule", "--if", "%rdi == 1", status=1)["error"]
    assert (error["reason"], error["token"]) == ("bad-field", "%rdi")
    assert (
        "not offered with sample"
        in djp("add", "schedule", "--once", "--sample", "2", status=1).stderr
    )
    assert len(kernel.log) == asked  # the host was not asked


def test_explain_takes_options_and_shows_flags(kernel: FakeDjprobes) -> None:
    told = document("explain", "vfs_read", "--once")
    assert kernel.asked("transact")[-1].data == b"vfs_read once\n"
    assert (told["flags"], told["flags_by"]) == ("live", "0xffffffff81000005 vfs_read+0x5")
    shown = djp("explain", "vfs_read").stdout
    assert "they are saved: 0xffffffff81000005 vfs_read+0x5 may read them" in shown


def test_targets_from_a_file(kernel: FakeDjprobes, tmp_path: Path) -> None:
    file = tmp_path / "targets"
    file.write_text("# read and write\nvfs_read\n\n  vfs_write  \n")
    told = document("add", "schedule", "--file", f"{file}")["probes"]
    assert {one["name"] for one in told} == {"p_schedule_0", "p_vfs_read_0", "p_vfs_write_0"}
    assert len(kernel.asked("write")) == 1
    told = document("add", "-f", "-", stdin="vfs_read+1\nvfs_read+2\n")["probes"]
    assert [one["name"] for one in told] == ["p_vfs_read_1", "p_vfs_read_2"]
    assert "can't read targets" in djp("add", "-f", f"{tmp_path}/none", status=1).stderr
    assert "say what to probe" in djp("add", status=1).stderr
    assert "say what to probe" in djp("add", "-f", "-", stdin="# nothing\n", status=1).stderr
    before = dict(kernel.table)
    error = document("add", "-f", "-", stdin="vfs_read+3\nbad\n", status=1)["error"]
    assert (error["line"], error["token"]) == (2, "bad")
    assert kernel.table == before


def test_many_show_how_far_they_are(kernel: FakeDjprobes) -> None:
    many = "".join(f"vfs_read+{n}\n" for n in range(1, MANY + 1))
    result = djp("add", "-f", "-", "--commit", stdin=many)
    assert result.stdout == f"{MANY} probes: {MANY} jump\n"
    told = result.stderr.splitlines()
    assert told[0] == f"sending {MANY} probes"
    assert f"the kernel adds {MANY} probes in one step" in told
    assert told[-1].startswith(f"{MANY} sites patched")
    assert len(kernel.asked("write")) == 2
    assert len(document("ls")["probes"]) == MANY
    few = djp("add", "vfs_read", "--name", "one")
    assert "sending" not in few.stderr
    assert "p_vfs_read" not in few.stdout
    # A name that is taken is found by the kernel; then all are sent again, under others.
    again = djp("add", "-f", "-", stdin=many)
    assert again.stdout == f"{MANY} probes: {MANY} jump\n"
    assert again.stderr.count(f"sending {MANY} probes\n") == 2
    assert len(kernel.table) == 2 * MANY + 1
