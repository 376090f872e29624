"""The census: its file, its sums, its tables and its picture, without a kernel."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from pyctl.census import CensusPart, CensusReader, parse_census
from pyctl.cli import census as command
from pyctl.cli import main
from pyctl.control import DEBUGFS
from pyctl.errors import NotLoadedError, ProtocolError, RemoteCommandError
from pyctl.guest import Guest
from pyctl.methods import Method
from pyctl.probes import Probes
from pyctl.reasons import Reason
from pyctl.testing import CENSUS, FakeDjprobes
from pyctl.transport import ScriptedProcess


def test_all_of_it() -> None:
    census = parse_census(CENSUS)
    assert (census.kernel, census.sites, census.padding) == ("6.1.0-fake", 1100, 12)
    assert list(census.methods.values()) == [1030, 40, 10, 15, 5]
    assert census.reasons[Reason.BRANCH_TARGET] == 48
    assert census.cells[Method.KPROBE, Reason.EXTABLE] == 15
    assert census.peers == {"kprobe": 1090, "optprobe": 580}
    assert (census.seconds, census.probeable) == (1.5, 1095)
    kernel, veth = census.parts
    assert (kernel.name, kernel.size, kernel.sites, kernel.padding) == ("kernel", 5500, 1000, 10)
    assert veth.methods[Method.JUMP_INT3] == 10
    assert veth.peers["optprobe"] == 50


def test_what_is_newer_is_skipped() -> None:
    more = CENSUS.replace("ns 15", "flavour mint\nns 15").replace("990 530\n", "990 530 77\n")
    more = more.replace("extable 17", "of-tomorrow 17").replace("extable", "of-tomorrow")
    census = parse_census(more)
    assert census.reasons["of-tomorrow"] == 17


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sites 1100", "sites 1101", "the methods add up to 1100, not to 1101"),
        ("reason ok 1030", "reason ok 1029", "the reasons add up to 1099"),
        ("cell kprobe extable 15", "cell kprobe extable 14", "the cells by method"),
        ("cell int3 branch-target 8\ncell int3 extable 2", "cell int3 extable 10", "by reason"),
        ("part veth 500 100 2", "part veth 500 99 2", "the parts' sites"),
        ("part veth 500 100 2", "part veth 500 100 3", "the parts' padding"),
        ("90 10 0 0 0 100 50", "91 9 0 0 0 100 50", "the parts' jump add"),
        ("90 10 0 0 0 100 50", "90 10 0 0 0 100 51", "the parts' optprobe"),
        ("padding 12\n", "", "without padding"),
        ("method refused 5\n", "", "without method refused"),
        ("peer kprobe 1090\n", "", "without peer kprobe"),
        ("kernel 6.1.0-fake\n", "", "without kernel"),
        ("ns 1500000000\n", "", "without ns"),
        ("method jump 1030", "method jumpp 1030", "'method jumpp 1030'"),
        ("method jump 1030", "method jump many", "'method jump many'"),
        ("part veth 500", "part veth", "'part veth 100"),
        ("100 50\n", "2000 50\n", "the parts' kprobe"),
    ],
)
def test_what_can_not_be(old: str, new: str, words: str) -> None:
    assert old in CENSUS
    with pytest.raises(ProtocolError, match=words):
        parse_census(CENSUS.replace(old, new))


def test_more_optprobes_than_kprobes() -> None:
    wrong = CENSUS.replace("peer optprobe 580", "peer optprobe 1095").replace("990 530", "990 1045")
    with pytest.raises(ProtocolError, match="mainline's numbers"):
        parse_census(wrong)


def test_a_census_that_was_cut_off() -> None:
    with pytest.raises(ProtocolError, match="without sites"):
        parse_census(CENSUS[:40])


def test_progress_is_told_while_it_runs() -> None:
    heard: list[tuple[int, int]] = []
    reader = CensusReader(lambda done, total: heard.append((done, total)))
    lines = CENSUS.splitlines()
    reader.feed(lines[0])
    assert heard == [(0, 6000)]
    for line in lines[1:]:
        reader.feed(line)
    assert heard == [(0, 6000), (3000, 6000), (6000, 6000)]
    assert reader.finish().sites == 1100


def test_it_is_read_as_it_comes() -> None:
    """The first line has to be heard before the kernel has said the second."""
    kernel = FakeDjprobes({})
    heard: list[int] = []

    class Slow(ScriptedProcess):
        def read_line(self, timeout: float | None = None) -> str | None:
            assert len(heard) == min(3, len(lines) - left())
            return super().read_line(timeout)

    lines = CENSUS.splitlines()
    process = Slow(first=lines)
    process.ended = True

    def left() -> int:
        return len(process._lines)

    kernel.processes["cat", f"{DEBUGFS}/census"] = lambda: process
    counted = Guest("fake", kernel).census(progress=lambda done, _total: heard.append(done))
    assert counted.sites == 1100
    assert kernel.asked("read") == []


def test_no_module_and_no_file() -> None:
    with pytest.raises(NotLoadedError, match="djp load"):
        Probes(FakeDjprobes({}, loaded=False)).census()
    kernel = FakeDjprobes({})
    broken = ScriptedProcess(status=1)
    broken.ended = True
    kernel.processes["cat", f"{DEBUGFS}/census"] = lambda: broken
    with pytest.raises(RemoteCommandError, match="status 1"):
        Probes(kernel).census()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    fake = FakeDjprobes({})
    monkeypatch.setattr(Guest, "local", lambda: Guest("fake", fake))
    monkeypatch.delenv("DJP_ON", raising=False)
    return fake


def djp(*argv: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main.app, ["census", *argv])
    assert result.exit_code == status, result.output
    return result


def test_the_document(kernel: FakeDjprobes) -> None:
    told = json.loads(djp("--json").stdout)
    assert list(told)[:6] == ["sites", "methods", "reasons", "peers", "kernel", "seconds"]
    assert list(told["methods"]) == ["jump", "jump+int3", "int3", "kprobe", "refused"]
    for table in ("methods", "reasons"):
        assert sum(told[table].values()) == told["sites"] == 1100
    assert told["peers"] == {"kprobe": 1090, "optprobe": 580}
    assert {"method": "int3", "reason": "extable", "sites": 2} in told["cells"]
    assert told["parts"][1]["bytes"] == 500
    assert told["parts"][1]["methods"]["jump+int3"] == 10


def test_the_tables(kernel: FakeDjprobes) -> None:
    result = djp()
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "jump 1,030 93.64 % 94.06 % 580 52.73 % optprobe" in lines
    assert "any jump 1,070 97.27 % 97.72 % 580 52.73 %" in lines
    assert "kprobe 15 1.36 % 1.37 % 510 46.36 % kprobe" in lines
    assert "any probe 1,095 99.55 % 100.00 % 1,090 99.09 %" in lines
    assert "refused 5 0.45 % 10 0.91 %" in lines
    assert any(line.endswith("48 4.36 % 40 8 - -") for line in lines)
    assert "blacklist kprobes' blacklist or noinstr code 5 0.45 % - - - 5" in lines
    assert "veth 500 100 90.00 % 10.00 % 0.00 % 0.00 % 0.00 % 50.00 %" in lines
    (ours,) = [line for line in lines if line.startswith("djprobes █")]
    assert (ours.count("█"), ours.count("▓")) == (94, 4)
    assert "50 %" in result.stderr


def test_the_picture_is_the_output_and_fetches_nothing(
    kernel: FakeDjprobes, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "census.svg"
    shown = djp("--picture", str(file)).stdout
    drawn = "".join(ElementTree.parse(file).getroot().itertext()).replace("\xa0", " ")
    for line in shown.splitlines():
        for part in line.split():
            assert part in drawn
    assert "url(http" not in file.read_text()


def test_a_wrong_census_is_an_error_document(kernel: FakeDjprobes) -> None:
    kernel.census = CENSUS.replace("sites 1100", "sites 1101")
    told = json.loads(djp("--json", status=1).stdout)
    assert told["error"]["type"] == "ProtocolError"


def test_booting_a_guest_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDjprobes({})
    asked: list[str] = []

    def boot(name: str, **_options: object) -> Guest:
        asked.append(name)
        return Guest(name, fake)

    monkeypatch.setattr(Guest, "boot", boot)
    assert json.loads(djp("--boot", "some-guest", "--json").stdout)["sites"] == 1100
    assert asked == ["some-guest"]
    assert fake.closed
    assert "two hosts" in djp("--boot", "some-guest", "--on", "root@h", status=1).stderr


def part(name: str, sites: int) -> CensusPart:
    methods = dict.fromkeys(Method, 0) | {Method.JUMP: sites}
    return CensusPart(name, 4 * sites, sites, 1, methods, {"kprobe": sites, "optprobe": 0})


def test_small_parts_are_folded() -> None:
    parts = [part(f"m{n}", n) for n in range(1, 21)]
    folded = command.fold(parts, 5)
    assert [one.name for one in folded] == ["m20", "m19", "m18", "m17", "16 more modules"]
    assert sum(one.sites for one in folded) == sum(one.sites for one in parts)
    assert folded[-1].methods[Method.JUMP] == folded[-1].sites == sum(range(1, 17))
    assert folded[-1].peers == {"kprobe": 136, "optprobe": 0}
    assert command.fold(parts[:5], 5) == parts[4::-1]
