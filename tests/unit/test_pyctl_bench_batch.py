"""The bench of batches: its cases, rows, table and document, without a guest."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import fields

import numpy as np
import pytest
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
from pyctl.bench.batch_table import document, factor, seconds
from pyctl.bench.sites import entry_sites
from pyctl.cli import bench_batch as command
from pyctl.cli import main
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
