"""The soak's parts that need no guest, and its command."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pyctl.cli import main
from pyctl.cli import soak as command
from pyctl.errors import WorkloadError
from pyctl.guest import Guest
from pyctl.testing import FakeDjprobes
from pyctl.transport import LocalTransport
from pyctl.verify.chaos import Commits, Mortal, Storm, Suspend
from pyctl.verify.kerneltext import TextDiff
from pyctl.verify.remote.commits import ORACLES
from pyctl.verify.soak import Soaked, Trouble, make_workload, make_writer, slice_of

TEXT = TextDiff(1000, 0, {}, (), 0)
DONE = Soaked(
    commits=1234,
    seconds=60.0,
    probes=5000,
    oracle_hits=99,
    pool_hits=70,
    late=1,
    busy=0,
    trouble={"hotplug": {"offline": 3, "online": 3, "busy": 0}},
    threads_calls=77,
    threads_hits=77,
    threads_wrong=0,
    partial=2,
    max_stop_ns=1_500_000,
    text=TEXT,
    left=0,
)
LINE = "soak_{} {}+0x5 0x10 jump jump count {} 0 ok 0x20+30\n"


def test_all_has_to_be_right() -> None:
    assert DONE.passed
    for wrong in (
        {"threads_hits": 76},
        {"threads_wrong": 1},
        {"left": 1},
        {"text": replace(TEXT, unaccounted_bytes=1)},
        {"trouble": {"hotplug": {"offline": 0, "online": 0}}},
    ):
        assert not replace(DONE, **wrong).passed


def test_writers_share_no_function_that_is_counted_exactly() -> None:
    one, other = make_writer("soak", 0, (), 7), make_writer("other", 1, (), 7)
    assert set(one.oracles) | set(other.oracles) == set(ORACLES)
    assert not set(one.oracles) & set(other.oracles)
    assert one.parameters()["name"] == "soak"
    assert one.seed != other.seed


def test_there_is_something_for_each_trouble() -> None:
    kinds = [make_workload(kind, ("f",), 0) for kind in Trouble]
    assert len({kind.name for kind in kinds}) == len(Trouble)


def test_slices_mix_everything() -> None:
    kinds = tuple(Trouble)
    slices = [slice_of(kinds, number, random.Random(number)) for number in range(160)]
    assert slices[0] == slices[16] == kinds
    sizes = Counter(len(one) for one in slices)
    assert set(sizes) == {1, 2, len(kinds)}
    assert sizes[len(kinds)] == 10
    assert {kind for one in slices if len(one) == 1 for kind in one} == set(kinds)
    assert slice_of((Trouble.HOGS,), 5, random.Random(0)) == (Trouble.HOGS,)
    assert slice_of((), 5, random.Random(0)) == ()


def test_a_storm_counts_its_processes() -> None:
    done = Storm(width=3).run(LocalTransport(), operations=20)
    assert done.operations == {"fork": 20}


def test_the_killed_are_counted(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_text("")
    done = Mortal(control=str(control), ms=20).run(LocalTransport(), operations=5)
    assert done.operations == {"killed": 5}


def test_a_writer_that_dies_by_itself_is_an_error(tmp_path: Path) -> None:
    missing = Mortal(control=str(tmp_path / "no" / "control"), ms=2000)
    with pytest.raises(WorkloadError):
        missing.run(LocalTransport(), operations=1)


def test_no_suspend_without_the_device(tmp_path: Path) -> None:
    work = Suspend(refusals=str(tmp_path / "refusals"))
    with pytest.raises(WorkloadError, match="would be a suspend"):
        work.run(LocalTransport(), operations=1)


def files(root: Path, hits: int) -> None:
    """A folder of files that take every write, and tell of one call of every function."""
    root.joinpath("control").write_text("")
    root.joinpath("explain").write_text("\n" * 20 + "\nverdict: jump\n")
    root.joinpath("last_error").write_text("")
    root.joinpath("probes").write_text("".join(LINE.format(n, "f", hits) for n in range(9)))


def test_a_wrong_count_ends_it(tmp_path: Path) -> None:
    files(tmp_path, 10_000)
    work = Commits(root=str(tmp_path), oracles=("__x64_sys_getsid",), seed=1)
    with pytest.raises(WorkloadError, match=r"getsid: 10000 hits in state jump, \d+ calls"):
        work.run(LocalTransport(), operations=50)


def test_a_probe_that_has_gone_ends_it(tmp_path: Path) -> None:
    files(tmp_path, 0)
    tmp_path.joinpath("probes").write_text("")
    work = Commits(root=str(tmp_path), oracles=("__x64_sys_getsid",), seed=1)
    with pytest.raises(WorkloadError, match="soak_0 at __x64_sys_getsid has gone"):
        work.run(LocalTransport(), operations=1)


@pytest.fixture
def soaked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    asked: list[dict] = []

    def run(_guest: Guest, **options: object) -> Soaked:
        asked.append(options)
        options["progress"](600, 1234)
        return DONE if options["commits"] == 1234 else replace(DONE, left=1)

    monkeypatch.setattr(command, "soak", run)
    monkeypatch.setattr(Guest, "boot", lambda name, **_options: Guest(name, FakeDjprobes({})))
    return asked


def djp(*argv: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main.app, ["soak", *argv])
    assert result.exit_code == status, result.output
    return result


def test_the_command(soaked: list[dict]) -> None:
    shown = djp("--commits", "1234", "--trouble", "hogs,kill", "--seed", "5")
    assert soaked[0]["trouble"] == [Trouble.HOGS, Trouble.KILL]
    assert (soaked[0]["seed"], soaked[0]["strategy"]) == (5, "auto")
    assert "1,234 in 60 s" in shown.stdout
    assert "40 %" in shown.stderr
    told = json.loads(djp("--commits", "1234", "--json").stdout)
    assert (told["passed"], told["oracle_hits"]) == (True, 99)
    assert soaked[1]["trouble"] == list(Trouble)


def test_a_failure_has_a_status(soaked: list[dict]) -> None:
    assert json.loads(djp("--commits", "1", "--json", status=1).stdout)["passed"] is False
    assert "there are hotplug" in djp("--trouble", "rain", status=1).stderr
