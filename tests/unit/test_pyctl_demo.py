"""The demo's judgement and its output, without a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from pyctl.cli import demo as command
from pyctl.cli import main
from pyctl.control import Stats
from pyctl.demo import Ending, Loaded, Part, Setting, passed
from pyctl.methods import Method
from pyctl.probes import CommitResult, Probes
from pyctl.reasons import Reason
from pyctl.testing import FakeDjprobes
from pyctl.transport import RecordingTransport
from pyctl.verify.bulk import BulkResult, Targets
from pyctl.verify.functrace import FunctionTracer
from pyctl.verify.jumps import Committed, StillInBypassError, commit_all
from pyctl.verify.kerneltext import Change, TextDiff
from pyctl.verify.paths import PathResult, PathRun
from pyctl.verify.remote.targets import candidates

GOOD = PathResult(
    phase="jump",
    kind="syscall",
    function="f",
    target="f+0x5",
    state="jump",
    method="jump",
    opcode=0xE9,
    djprobe=2000,
    bcc=2000,
    third=2000,
    witness="preads made",
    missed=0,
)
STATS = Stats(**dict.fromkeys([name for name in Stats.__annotations__ if name != "extra"], 0))
COMMITTED = Committed(CommitResult(5, 0, 1_490_000, 164_000_000, 0.2, STATS), 0.2, 0)
SAME = TextDiff(14_687_986, 3, {"jump-label": 3}, (), 0)
OURS = TextDiff(14_687_986, 4983, {}, (Change(1, b"\x55", b"\xe9", "f+0x5"),), 4983)
BULK = BulkResult(
    count=1000,
    targets=Targets(("f",), 1150, 3.0),
    add_seconds=9.2,
    committed=COMMITTED,
    in_place=OURS,
    fired=990,
    hits=420_324,
    load={"pread": 7},
    live_seconds=5.0,
    remove_seconds=1.1,
    restored=SAME,
    max_stop_ns=3_000_000,
    left=0,
)
PARTS: tuple[Part, ...] = (
    Setting("bookworm-cloud", "6.1.0-56-cloud-amd64", "QEMU 10", "tcg", "no KVM", 2, 14, 1.6),
    Loaded(16.0, "freezer", 347_557),
    PathRun("bypass", (replace(GOOD, phase="bypass", state="bypass", opcode=0xCC),), 0.0, 12.0),
    COMMITTED,
    PathRun("jump", (GOOD,), 0.1, 14.3),
    BULK,
    Ending(13, (), 105.0),
)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `djp demo` over parts that are given and not found out."""

    def run(*argv: str, parts: tuple[Part, ...] = PARTS) -> Result:
        def told(*_args: object, **_more: object) -> Generator[Part, None, None]:
            yield from parts

        monkeypatch.setattr(command, "run_demo", told)
        return CliRunner().invoke(main.app, ["demo", *argv])

    return run


@pytest.mark.parametrize(
    "change",
    [
        {"djprobe": 1999},  # close is not equal
        {"bcc": 2001},
        {"third": 1999},
        {"djprobe": 0, "bcc": 0, "third": 0},  # nothing was shown at all
        {"djprobe": 0, "bcc": 0},  # two that agree may both be blind
        {"missed": 1},
        {"state": "bypass"},
        {"opcode": 0xCC},  # the state says jump, memory says int3
    ],
)
def test_what_a_path_must_not_be(change: dict[str, object]) -> None:
    assert GOOD.passed
    bad = replace(GOOD, **change)
    assert not bad.passed
    assert not PathRun("jump", (GOOD, bad), 0.0, 1.0).passed


@pytest.mark.parametrize(
    "change",
    [
        {"left": 1},
        {"fired": 500},
        {"restored": OURS},
        {"in_place": SAME},  # a compare that does not see 1,000 jumps proves nothing
    ],
)
def test_what_a_bulk_must_not_be(change: dict[str, object]) -> None:
    assert BULK.passed
    assert not replace(BULK, **change).passed


def test_it_tells_all_and_ends_well(demo: Callable[..., Result]) -> None:
    result = demo()
    assert result.exit_code == 0, result.output
    for words in (
        "6.1.0-56-cloud-amd64",
        "emulated",
        "f+0x5",
        "preads made",
        "2,000",
        "1.5 ms",
        "4,983 bytes differ",
        "3 jump-label",
        "unaccounted: 0",
        "clean",
        "Every count equal",
    ):
        assert words in result.stdout, words


@pytest.mark.parametrize(
    ("index", "bad", "words"),
    [
        (4, PathRun("jump", (replace(GOOD, bcc=1999),), 0.0, 1.0), "NO"),
        (5, replace(BULK, restored=OURS), "unaccounted: 4983"),
        (6, Ending(0, ("WARNING: CPU: 0 PID: 1",), 99.0), "NOT CLEAN: WARNING"),
    ],
)
def test_it_ends_with_1_when_something_is_wrong(
    demo: Callable[..., Result], index: int, bad: Part, words: str
) -> None:
    assert not passed(bad)
    parts = (*PARTS[:index], bad, *PARTS[index + 1 :])
    result = demo(parts=parts)
    assert result.exit_code == 1
    assert words in result.stdout
    assert "Every count equal" not in result.stdout
    told = demo("--json", parts=parts)
    assert told.exit_code == 1
    assert json.loads(told.stdout)["passed"] is False


def test_json_is_one_document(demo: Callable[..., Result]) -> None:
    told = json.loads(demo("--json").stdout)
    assert list(told) == [
        "passed",
        "machine",
        "module",
        "bypass",
        "commit",
        "jump",
        "bulk",
        "end",
    ]
    assert told["passed"] is True
    assert told["jump"]["results"][0]["equal"] is True
    assert told["bulk"]["restored"]["accounted"] == {"jump-label": 3}


def test_the_picture_is_the_output_and_fetches_nothing(
    demo: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "demo.svg"
    shown = demo("--picture", str(file)).stdout
    root = ElementTree.parse(file).getroot()
    drawn = "".join(root.itertext()).replace("\xa0", " ")
    for line in shown.splitlines():
        for part in line.split():
            assert part in drawn
    assert "url(http" not in file.read_text()
    assert "@import" not in file.read_text()


def test_targets_are_plain_and_unique() -> None:
    lines = ["a", "b.part.0", "dup", "c [veth]", "dup", "d", "", "d [dummy]", "e"]
    assert sorted(candidates(lines, [])) == ["a", "e"]
    many = [f"f{n}" for n in range(100)]
    assert sorted(candidates(many, [])) == sorted(many)
    assert candidates(many, [])[1] != "f1", "neighbours come late"
    wanted = candidates(many, ["f7", "gone", "f3"])
    assert wanted[:2] == ["f7", "f3"]
    assert sorted(wanted) == sorted(many)


def test_the_tracer_records_only_during_and_leaves_nothing_on() -> None:
    host = RecordingTransport()
    root = "/sys/kernel/tracing/"
    for name in ("tracing_on", "buffer_size_kb", "current_tracer", "trace"):
        host.files[root + name] = b""
    host.results["awk",] = (0, b"vfs_read\nksys_read\n")
    seen: list[bytes] = []
    with FunctionTracer(host) as tracer:
        found = tracer.during(lambda: seen.append(host.read(root + "tracing_on")))
        assert host.read(root + "tracing_on").strip() == b"0"
    assert seen == [b"1"]
    assert found == {"vfs_read", "ksys_read"}
    assert host.read(root + "current_tracer") == b"nop"


def test_commit_all_waits_for_all_and_names_those_that_stay() -> None:
    with Probes(FakeDjprobes({"a": 0x1000, "b": 0x2000})) as probes:
        made = probes.add_many(["a", "b"])
        done = commit_all(probes, [probe.name for probe in made])
        assert (done.first.patched, done.retries) == (2, 0)
    with Probes(FakeDjprobes({"a": 0x1000, "b": 0x2000}, deferring=["p_b_0"])) as probes:
        made = probes.add_many(["a", "b"])
        with pytest.raises(StillInBypassError, match=r"1 of 2 .*: b\+0x5"):
            commit_all(probes, [probe.name for probe in made], seconds=0.01)
        commit_all(probes, [made[0].name])
    methods = {"b": (Method.INT3, Reason.EXTABLE), "c": (Method.KPROBE, Reason.EXTABLE)}
    with Probes(FakeDjprobes({"a": 0x1000, "b": 0x2000, "c": 0x3000}, methods=methods)) as probes:
        made = probes.add_many(["a", "b", "c"])
        done = commit_all(probes, [probe.name for probe in made], seconds=0.01)
        assert done.first.patched == 1  # the others wait for nothing
