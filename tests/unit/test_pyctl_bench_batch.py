"""The bench of batches: its cases, rows, table and document, without a guest."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from pyctl.bench.batch import (
    ALL,
    BatchCase,
    BatchRow,
    Place,
    Way,
    compared,
    default_cases,
    make_row,
)
from pyctl.bench.batch_table import factor, seconds, table
from pyctl.bench.remote.batch import Batch
from pyctl.bench.sites import entry_sites, function_sites
from pyctl.cli import bench_batch as command
from pyctl.cli import main
from pyctl.cli.bench_output import document
from pyctl.symbols import text_symbols
from pyctl.transport import RecordingTransport
from pyctl.transport.base import Completed
from pyctl.verify.judgements import SITE, Judgements, MethodCode, SiteFlag, TextPart

ASKED = {"method", "probes", "register_s", "live_s", "remove_s", "stop_us_max"}


def row(method: Way = Way.COUNT, place: Place = Place.MIDDLE, probes: int = 100) -> BatchRow:
    return BatchRow(method, "ours", place, False, probes)


def answer(**facts: object) -> dict:
    plain = {
        **{"register_s": 0.01, "live_s": 0.03, "remove_s": 0.02, "reclaim_s": 0.001},
        **{"stop_ns": 2300, "deferred": 0, "text_bytes": 5000, "data_bytes": 9000},
    }
    return {**plain, **facts}


def test_a_row_is_the_median_of_its_rounds() -> None:
    slow = answer(register_s=0.07, stop_ns=4600)
    made = make_row(row(), [answer(), answer(register_s=0.03), slow])
    assert (made.register_s, made.live_s, made.remove_s) == (0.03, 0.03, 0.02)
    assert (made.each_us, made.remove_each_us, made.spread_us) == (600, 200, 600)
    assert (made.stop_us_max, made.rounds) == (4.6, 3)
    assert (made.text_bytes, made.data_bytes) == (50, 90)


def test_sites_that_are_late_leave_no_time() -> None:
    made = make_row(row(), [answer(), answer(live_s=None, deferred=7)])
    assert (made.live_s, made.each_us, made.deferred) == (None, None, 7)
    assert made.note == "not all became jumps in time"


def test_a_switch_is_told_as_off_and_on() -> None:
    made = make_row(row(Way.SWITCH_FLAG), [answer(off_s=[3e-6, 1e-6, 2e-6], on_s=[5e-6] * 3)])
    assert (made.remove_s, made.live_s, made.rounds) == (2e-6, 5e-6, 3)


def test_rows_are_compared_with_kprobes_at_such_places() -> None:
    ours = make_row(row(), [answer()])
    theirs = make_row(row(Way.KPROBE), [answer(register_s=11.97, remove_s=2.0)])
    entry = make_row(row(place=Place.ENTRY), [answer()])
    first, second, third = compared([ours, theirs, entry])
    assert (first.ratio, first.remove_ratio) == (0.00333, 0.01)
    assert (second.ratio, third.ratio) == (1.0, None)


def test_as_many_of_mainlines_only_when_asked_for() -> None:
    def most(cases: Sequence[BatchCase]) -> int:
        return max(case.probes for case in cases if case.method is Way.KPROBE)

    assert most(default_cases()) == 1000
    assert most(default_cases(slow=True)) == 10_000
    assert any(case.probes == ALL and case.load for case in default_cases())


def test_cases_can_be_chosen() -> None:
    cases = command.chosen_cases("count,ftrace", small=5, big=9, entries=False, slow=False)
    assert {case.method for case in cases} == {Way.COUNT, Way.FTRACE}
    assert {case.probes for case in cases} == {5, 9}


def test_entries_are_those_where_a_probe_can_stand() -> None:
    sites = np.zeros(4, SITE)
    sites["offset"] = [0, 16, 32, 48]
    sites["flags"] = [SiteFlag.FTRACE, 0, SiteFlag.FTRACE, SiteFlag.FTRACE]
    sites["method"] = [MethodCode.JUMP, MethodCode.JUMP, MethodCode.REFUSED, MethodCode.INT3]
    found = entry_sites(Judgements((TextPart(0x1000, 64, sites),)))
    assert sorted(found) == [0x1000, 0x1030]


#: offset, length, flags, method and bytes of the region of each instruction. 0: a function with
#: an ftrace site; 0x20: one behind an endbr64; 0x40: one without a site.
TEXT = [
    (0x00, 5, SiteFlag.FTRACE, MethodCode.JUMP, 0),
    (0x05, 1, 0, MethodCode.JUMP, 5),
    (0x20, 4, SiteFlag.FTRACE, MethodCode.INT3, 0),
    (0x24, 5, SiteFlag.FTRACE, MethodCode.INT3, 0),
    (0x29, 3, 0, MethodCode.INT3, 3),
    (0x2C, 3, 0, MethodCode.JUMP, 5),
    (0x40, 2, 0, MethodCode.JUMP_INT3, 6),
    (0x46, 1, 0, MethodCode.JUMP, 5),
    (0x50, 1, SiteFlag.PADDING, MethodCode.JUMP, 0),
    (0x60, 1, 0, MethodCode.KPROBE, 1),
    (0x70, 1, 0, MethodCode.REFUSED, 0),
]


def text_part(start: int = 0x1000) -> TextPart:
    sites = np.zeros(len(TEXT), SITE)
    for name, column in zip(
        ("offset", "length", "flags", "method", "dcr_len"), zip(*TEXT, strict=True), strict=True
    ):
        sites[name] = column
    return TextPart(start, 0x80, sites)


def functions(*offsets: int) -> tuple[list[int], list[int]]:
    """Insertion addresses for text symbols at these; and those of them behind ftrace sites."""
    found = function_sites(
        Judgements((text_part(),)), [0xFFF] + [0x1000 + offset for offset in offsets]
    )
    return sorted(one - 0x1000 for one in found.addresses), sorted(
        one - 0x1000 for one in found.traced
    )


def test_functions_are_probed_behind_their_ftrace_site_or_where_they_begin() -> None:
    assert functions(0x00, 0x20, 0x24, 0x40) == ([0x05, 0x29, 0x40], [0x05, 0x29])


@pytest.mark.parametrize("offset", [0x50, 0x60, 0x70])
def test_a_function_is_left_out_where_nothing_of_ours_can_stand(offset: int) -> None:
    assert functions(offset, 0x46)[0] == [0x05, 0x29, 0x46]


def test_of_two_entries_one_in_the_bytes_of_the_other_the_first_is_probed() -> None:
    """The region at 0x40 ends right before 0x46, or behind it."""
    sites = text_part().sites.copy()
    sites["dcr_len"][6] = 7
    overlapping = Judgements((TextPart(0x1000, 0x80, sites),))
    symbols = [0x1040, 0x1046]
    assert {0x1040, 0x1046} <= set(function_sites(Judgements((text_part(),)), symbols).addresses)
    found = set(function_sites(overlapping, symbols).addresses)
    assert found & {0x1040, 0x1046} == {0x1040}


def test_functions_of_modules_are_found_in_the_same_random_order() -> None:
    parts = tuple(text_part(0x1000 * (n + 1)) for n in range(20))
    found = function_sites(Judgements(parts), [0x5040]).addresses
    assert len(found) == 2 * 20 + 1
    assert list(found) != sorted(found)
    assert found == function_sites(Judgements(parts), {0x5040}).addresses


def test_text_symbols_are_read_by_the_host() -> None:
    """A shorter kallsyms, and the host's own awk."""
    lines = (
        b"ffffffff81000000 T _stext\nffffffff82000000 D data\nffffffff81000010 t f.cold\n"
        b"ffffffffc0000000 t g\t[m]\nffffffff81000020 W weak\nffffffff83000000 V v\n"
    )

    class Host(RecordingTransport):
        def run(self, argv: Sequence[str], **_options: object) -> Completed:
            assert argv[-1] == "/proc/kallsyms"
            done = subprocess.run(argv[:-1], input=lines, capture_output=True, check=True)
            return Completed(tuple(argv), 0, done.stdout, b"")

    assert text_symbols(Host()) == {
        0xFFFFFFFF81000000,
        0xFFFFFFFF81000010,
        0xFFFFFFFFC0000000,
        0xFFFFFFFF81000020,
    }


def test_all_functions_are_probed_with_and_without_load() -> None:
    cases = [case for case in default_cases() if case.place is Place.FUNCTION]
    assert [(case.method, case.probes, case.load) for case in cases] == [
        (Way.COUNT, ALL, False),
        (Way.COUNT, ALL, True),
    ]


def test_functions_are_beside_nothing_of_mainlines_and_their_note_is_kept() -> None:
    noted = replace(row(place=Place.FUNCTION), note="by method")
    base = make_row(row(Way.KPROBE_FTRACE, Place.ENTRY), [answer()])
    made, _ = compared([make_row(noted, [answer()]), base])
    assert (made.ratio, made.remove_ratio, made.note) == (None, None, "by method")
    assert make_row(noted, [answer(live_s=None)]).note == "not all became jumps in time"
    out = io.StringIO()
    Console(width=200, file=out).print(table([made]))
    shown = out.getvalue()
    assert "mainline has nothing that puts probes at all of them at once" in shown
    assert "djprobes, count: by method" in shown


def test_the_script_tells_how_many_are_of_each_method(tmp_path: Path) -> None:
    """NAME SYMBOL ADDRESS STATE METHOD and more."""
    rows = [
        "b_0 f+0x5 0x05 jump jump count 3 0 ok - - 0",
        "b_1 g 0x40 jump jump+int3 count 0 0 branch-target - - 0",
        "b_2 m:h 0x60 jump jump count 0 0 ok - - 0",
    ]
    (tmp_path / "probes").write_text("\n".join(rows) + "\n")
    assert Batch(str(tmp_path), "", "").methods() == {"jump": 2, "jump+int3": 1}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (2.5, "2.50 s"), (0.0123, "12.3 ms"), (4e-6, "4.0 us")],
)
def test_times_for_people(value: float | None, shown: str) -> None:
    assert seconds(value) == shown


def test_ratios_for_people() -> None:
    assert [factor(one) for one in (None, 0.0025, 0.7, 3.0)] == ["-", "1/400", "0.70", "3.00"]


def measured(_cases: object, **_options: object) -> Generator[BatchRow, None, None]:
    yield make_row(row(), [answer()])
    yield make_row(row(Way.KPROBE), [answer(register_s=11.97)])
    yield make_row(row(Way.SWITCH_TEXT), [answer(off_s=[3e-6], on_s=[5e-6])])
    yield BatchRow(Way.FPROBE, "peer", Place.ENTRY, False, 10, note="not offered: so it is")


def test_the_command_shows_peers_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_batch", measured)
    shown = CliRunner().invoke(main.app, ["bench", "batch"])
    assert shown.exit_code == 0, shown.output
    assert "1/300" in shown.stdout
    assert "not offered: so it is" in shown.stdout
    told = CliRunner().invoke(main.app, ["bench", "batch", "--json"])
    rows = json.loads(told.stdout)
    assert [one["method"] for one in rows] == ["count", "kprobe", "switch-text", "fprobe"]
    assert list(rows[0]) == [item.name for item in fields(BatchRow)]
    assert rows[0].keys() >= ASKED
    assert rows == document(compared(list(measured(None))))
