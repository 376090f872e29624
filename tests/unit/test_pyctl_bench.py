"""The bench of quiescence: its cells, rows, table, picture and document, without a guest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from pyctl.bench import quiesce
from pyctl.bench.picture import scale
from pyctl.bench.quiesce import Bed, Lab, Step, make_row
from pyctl.bench.remote.rounds import Crowd
from pyctl.bench.rows import (
    KPROBES,
    PROBES,
    SOUND,
    STRATEGIES,
    Case,
    Cell,
    Row,
    Verdict,
    default_cells,
    ordered,
    product_cells,
)
from pyctl.bench.sites import APART, spread
from pyctl.cli import bench as command
from pyctl.cli import main
from pyctl.cli.bench_output import document
from pyctl.control import DEBUGFS
from pyctl.errors import UsageError
from pyctl.guest import Guest
from pyctl.testing import FakeDjprobes
from pyctl.verify.preemption import FILE as PREEMPT
from pyctl.verify.preemption import Preemption

KEYS = [
    *("strategy", "preempt", "case", "probes", "verdict"),
    *("stop_us_median", "stop_us_max", "live_ms", "deferred", "blocker"),
]
BLOCKED = "jump 0x10 f+0x5 {} 0x12 f+0x7 {}\n"


def cell(strategy: str = "freezer", probes: int = 100, case: Case = Case.IDLE) -> Cell:
    return Cell(strategy, Preemption.FULL, case, probes)


def answer(**facts: object) -> dict:
    return {"stop_ns": 1000, "live_ms": 5.0, "deferred": 0, "blockers": "", **facts}


def test_the_default_run_shows_each_axis_in_forty_rows() -> None:
    cells = default_cells()
    assert len(cells) == len(set(cells)) <= 40
    assert {c.strategy for c in cells} == set(STRATEGIES)
    assert {c.preempt for c in cells} == set(Preemption)
    assert {c.case for c in cells} == set(Case) - {Case.CROWD}, "that is asked for"
    for strategy in SOUND:
        sizes = {c.probes for c in cells if c.strategy == strategy and c.case is Case.IDLE}
        assert sizes == set(PROBES)
    held = {c.strategy for c in cells if c.case is Case.HELD}
    assert held == {*SOUND, KPROBES}
    for model in Preemption:
        assert {c.strategy for c in cells if c.preempt is model} == set(STRATEGIES)


def test_a_choice_is_every_combination() -> None:
    cells = command.chosen_cells("freezer, none", None, "idle,held", "1,2,30")
    assert len(cells) == 12
    assert Counter(c.strategy for c in cells) == {"freezer": 6, "none": 6}
    assert {c.preempt for c in cells} == {Preemption.FULL}
    assert len(command.chosen_cells(None, "none,voluntary,full", None, "1")) == 3 * len(STRATEGIES)
    assert command.chosen_cells(None, None, None, None) == default_cells()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("prayer", None, None, None), "no strategy 'prayer'"),
        ((None, "lazy", None, None), "'lazy' is no preemption"),
        ((None, None, "busy", None), "'busy' is no case"),
        ((None, None, None, "many"), "no number of probes"),
        ((None, None, None, "0"), "0 probes"),
    ],
)
def test_what_can_not_be_chosen(options: tuple[str | None, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        command.chosen_cells(*options)


def test_a_row_sums_its_rounds_up() -> None:
    answers = [
        answer(stop_ns=3000, live_ms=7.0),
        answer(stop_ns=1000, live_ms=9.04, deferred=2, blockers=BLOCKED.format(0, "-")),
        answer(stop_ns=8000, live_ms=8.0, deferred=1, blockers=BLOCKED.format(7, "a b")),
    ]
    row = make_row(cell(), answers)
    assert (row.stop_us_median, row.stop_us_max, row.live_ms) == (3.0, 8.0, 8.0)
    assert (row.deferred, row.blocker) == (2, "a b[7]")
    assert make_row(cell(), [answer(live_ms=None), answer()]).live_ms is None


def test_a_commit_that_found_nothing_to_do_stopped_nobody() -> None:
    row = make_row(cell(), [answer(stop_ns=0), answer(stop_ns=4000), answer(stop_ns=5000)])
    assert (row.stop_us_median, row.stop_us_max) == (4.5, 5.0)


def test_mainline_has_no_stops() -> None:
    row = make_row(cell(KPROBES), [{"live_ms": 140.0, "deferred": 3}])
    assert (row.stop_us_median, row.stop_us_max, row.blocker) == (None, None, None)
    assert (row.live_ms, row.deferred) == (140.0, 3)


def rows() -> list[Row]:
    cells = product_cells(STRATEGIES, Preemption, [Case.HELD, Case.IDLE], [100, 1])
    made = []
    for number, one in enumerate(cells):
        verdict = Verdict.UNSOUND if one.strategy == "none" else Verdict.SOUND
        facts = (one.strategy, one.preempt, one.case, one.probes)
        if one.strategy == "fixup":
            made.append(Row(*facts, Verdict.NOT_OFFERED))
        else:
            made.append(Row(*facts, verdict, 1.5 + number, 2.5 + number, 10.0 * number, 0, None))
    return made


def test_the_document_has_exactly_these_keys() -> None:
    told = json.loads(json.dumps(document(ordered(rows()))))
    assert len(told) == len(rows())
    assert all(list(one) == KEYS for one in told)
    assert {one["verdict"] for one in told} == {"sound", "unsound", "not offered"}
    for one in told:
        if one["verdict"] == "not offered":
            assert [one[key] for key in KEYS[5:]] == [None] * 5
    assert [one["preempt"] for one in told][:1] == ["full"]
    assert (told[0]["case"], told[0]["probes"]) == ("idle", 1)
    assert ordered(ordered(rows())) == ordered(rows()[::-1])


def test_the_scale_is_logarithmic() -> None:
    assert scale([0.1, 1.0, 10.0, 100.0], 60) == [0, 20, 40, 60]
    assert scale([0.0, 0.05], 60) == [0, 0]
    assert scale([], 60) == []


def test_sites_are_apart_and_fewer_are_the_beginning_of_more() -> None:
    addresses = range(0xFFFFFFFF81000000, 0xFFFFFFFF81100000, 3)
    many, few = spread(addresses, 1000), spread(addresses, 10)
    assert many[:10] == few
    near = sorted(many)
    assert min(b - a for a, b in pairwise(near)) > APART
    assert len(spread(addresses, 10**9)) < 10**5


@pytest.fixture
def fake() -> FakeDjprobes:
    kernel = FakeDjprobes({"vfs_read": 0xFFFFFFFF81000000})
    kernel.files[PREEMPT] = "none voluntary (full)\n"
    return kernel


@pytest.mark.parametrize(
    ("one", "gone"),
    [
        (cell("freeze_only"), None),  # not without unsafe=1
        (cell(KPROBES), None),  # no sysctl for it there
        (Cell("freezer", Preemption.NONE, Case.IDLE, 1), PREEMPT),
    ],
)
def test_what_is_not_offered(
    fake: FakeDjprobes, monkeypatch: pytest.MonkeyPatch, one: Cell, gone: str | None
) -> None:
    if gone:
        del fake.files[gone]
    monkeypatch.setattr(Bed, "ready", lambda self, unsafe: Guest("fake", fake))
    lab = Lab("some-guest", 1, lambda _text: None)
    (row,) = lab.measure(one.strategy, one.preempt, [one], 1)
    assert row == Row(one.strategy, one.preempt, one.case, one.probes, Verdict.NOT_OFFERED)
    assert all(entry.what != f"{DEBUGFS}/control" for entry in fake.asked("write"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    asked: list[dict] = []

    def run(cells: tuple[Cell, ...], **options: object) -> Generator[Step, None, None]:
        asked.append({"cells": cells, **options})
        yield Step(10, 84, tuple(rows()[:10]))
        yield Step(84, 84, tuple(rows()[10:]))

    monkeypatch.setattr(command, "run_quiesce", run)
    return asked


def djp(*argv: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main.app, ["bench", "quiesce", *argv])
    assert result.exit_code == status, result.output
    return result


def test_the_command(measured: list[dict], tmp_path: Path) -> None:
    file = tmp_path / "new" / "quiesce.svg"
    shown = djp("--svg", str(file), "--strategies", "freezer", "--rounds", "2")
    assert measured[0]["cells"] == product_cells(
        ["freezer"], [Preemption.FULL], [Case.IDLE], PROBES
    )
    assert (measured[0]["rounds"], measured[0]["boot"]) == (2, "bookworm-cloud")
    assert measured[0]["icount"] is True
    assert "10 of 84 rows" in shown.stderr
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert any(line.startswith("preempt=full, held: kernel threads") for line in lines)
    assert any(line.startswith("kprobes (mainline) 100 ") for line in lines)
    assert any(line.startswith("fixup 1 - - - - not offered") for line in lines)
    drawn = "".join(ElementTree.parse(file).getroot().itertext()).replace("\xa0", " ")
    for line in shown.stdout.splitlines():
        for part in line.split():
            assert part in drawn
    assert "url(http" not in file.read_text()


def test_the_commands_document(measured: list[dict]) -> None:
    told = json.loads(djp("--json").stdout)
    assert told == document(ordered(rows()))
    assert measured[0]["cells"] == default_cells()


def test_errors_are_documents(measured: list[dict]) -> None:
    told = json.loads(djp("--json", "--cases", "party", status=1).stdout)
    assert "there are idle, held, load" in told["error"]["hint"]
    assert measured == []


def test_groups_keep_dangerous_strategies_for_last(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str, int]] = []

    def measure(
        self: Lab, strategy: str, model: Preemption, cells: list[Cell], _rounds: int
    ) -> list[Row]:
        order.append((strategy, model, len(cells)))
        return [Row(c.strategy, c.preempt, c.case, c.probes, Verdict.SOUND) for c in cells]

    monkeypatch.setattr(Lab, "measure", measure)
    steps = list(quiesce.run_quiesce(default_cells(), progress=lambda _text: None))
    assert steps[-1].done == steps[-1].total == len(default_cells())
    assert sum(len(step.rows) for step in steps) == len(default_cells())
    assert [one[0] for one in order[-3:]] == ["none"] * 3
    assert len(order) == len(set(order)) == 3 * len(STRATEGIES)


def test_a_crowd_of_threads_sleeps_until_it_is_sent_away() -> None:
    crowd = Crowd()
    crowd.resize(5)
    first = list(crowd.threads)
    assert len(first) == 5
    assert all(thread.is_alive() for thread in first)
    crowd.resize(2)
    assert not any(thread.is_alive() for thread in first)
    assert [thread.is_alive() for thread in crowd.threads] == [True, True]
    crowd.resize(0)
    assert crowd.threads == []
