"""``djp bench rate`` without a guest."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pyctl.bench.methods import METHODS, OPTPROBE
from pyctl.bench.rate import RateRow, compared, parse_round
from pyctl.bench.rate_table import table
from pyctl.cli import bench_rate as command
from pyctl.cli import main
from pyctl.cli.bench_output import document
from pyctl.errors import ProtocolError

ROWS = (
    RateRow("count", "ours", "the flags are dead", 2, 7_000_000, 1000, 0.8, None, 64, 64, 64),
    RateRow(OPTPROBE, "peer", "a jump", 2, 1_000_000, 500, 0.2, None, 64, 64, 64),
    RateRow("fprobe", "peer", "kprobe.multi", note="not offered"),
)


def measured(**_options: object) -> Generator[RateRow, None, None]:
    yield from ROWS


def test_a_round_is_parsed() -> None:
    found = parse_round("dead 2 64000 0 8000000\n")
    assert (found.cpus, found.calls, found.wrong) == (2, 64000, 0)
    assert found.per_second == 8e6


@pytest.mark.parametrize("text", ["", "dead", "dead 2 64000 0", "dead 2 64000 0 0", "a b c d e"])
def test_what_is_no_round_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_round(text)


def test_rates_are_compared_by_what_is_left_of_the_bare_function() -> None:
    count, optprobe, fprobe = compared(ROWS)
    assert (count.ratio, optprobe.ratio, fprobe.ratio) == (4.0, 1.0, None)


def test_the_table_has_the_fastest_first_and_what_is_missing_last() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table(compared(reversed_rows())))
    text = shown.get()
    assert text.index("count ") < text.rindex(OPTPROBE) < text.index("fprobe: not offered")
    assert "7.00" in text
    assert "on 2 CPUs" in text


def reversed_rows() -> list[RateRow]:
    return list(reversed(ROWS))


def test_the_command_prints_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_rate", measured)
    told = CliRunner().invoke(main.app, ["bench", "rate", "--json"])
    answer = json.loads(told.stdout)
    assert [one["method"] for one in answer] == ["count", OPTPROBE, "fprobe"]
    assert answer == document(compared(ROWS))


def test_calls_of_a_round_can_be_sampled() -> None:
    sampled = next(method for method in METHODS if method.name == "count-sample")
    assert sampled.expected(command.CALLS) * 16 == command.CALLS
