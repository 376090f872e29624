"""Hits in bulk: the compact file, whose they are, how fast they grow, and what maps tell."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable

import pytest

from pyctl.control import DEBUGFS, Control, HitTable, parse_hits, parse_probes, parse_stats
from pyctl.errors import (
    ControlError,
    NotLoadedError,
    ProtocolError,
    RemoteOSError,
    UsageError,
)
from pyctl.explanation import Flags, parse_explanation
from pyctl.hits import PATIENCE, HitReader, rates_between, watch
from pyctl.maps import MapEntry, MapKind, bucket_of, parse_maps
from pyctl.methods import State
from pyctl.options import Field, Options
from pyctl.parsing import Location
from pyctl.probes import AddPhase, Probes
from pyctl.reasons import Reason
from pyctl.testing import FakeDjprobes

SYMBOLS = {f"f{n}": 0xFFFFFFFF81000000 + 256 * n for n in range(8)}
OLD = "a f+0x5 0x10 jump jump count 1 0 ok 0x20+30"


@pytest.fixture
def kernel() -> FakeDjprobes:
    return FakeDjprobes(SYMBOLS)


class Clock:
    """Time that passes by a half at each look, and when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def reads(kernel: FakeDjprobes, file: str) -> int:
    return sum(entry.what == f"{DEBUGFS}/{file}" for entry in kernel.asked("read"))


def test_names_are_read_once_for_each_generation(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    a, b, c = probes.add_many(["f1", "f2", "f3"], names=["a", "b", "c"])
    kernel.hit("a", 5)
    assert probes.read_hits() == {"a": 5, "b": 0, "c": 0}
    for _ in range(3):
        kernel.hit("c")
        probes.read_hits()
    assert (reads(kernel, "probes"), reads(kernel, "hits")) == (1, 5)
    b.remove()
    kernel.hit("c", 10)
    before = reads(kernel, "probes")
    assert probes.read_hits() == {"a": 5, "c": 13}
    assert probes.hits() == {"a": 5, "c": 13}
    assert reads(kernel, "probes") == before + 1
    Probes(kernel).add("f4", name="d")
    kernel.hit("d", 2)
    assert probes.read_hits() == {"a": 5, "c": 13, "d": 2}
    assert probes.hits() == {"a": 5, "c": 13}
    # The same name at the same place, but another probe of another age.
    probes.control.submit(["-:a", "p:a f1"])
    assert probes.read_hits()["a"] == 0
    assert (a.hits, c.hits) == (0, 13)


def test_a_table_that_changes_under_the_reader(kernel: FakeDjprobes) -> None:
    """Between the hits and the names a probe is removed: no name gets another's hits."""
    probes = Probes(kernel)
    probes.add_many(["f1", "f2", "f3"], names=["a", "b", "c"])
    for name, hits in (("a", 1), ("b", 2), ("c", 3)):
        kernel.hit(name, hits)
    plain, others = kernel.read, Probes(kernel)
    todo: list[Callable[[], object]] = [lambda: others.remove("a"), lambda: others.add("f4")]

    def racing(path: str) -> bytes:
        answer = plain(path)
        if path.endswith("/hits") and todo:
            todo.pop(0)()
        return answer

    kernel.read = racing  # type: ignore[method-assign]
    assert probes.read_hits() == {"b": 2, "c": 3, "p_f4_0": 0}
    assert not todo


def test_a_table_that_never_rests(kernel: FakeDjprobes) -> None:
    """Then the long file has to do: it has the names beside the hits."""
    probes = Probes(kernel)
    probes.add("f1", name="a")
    kernel.hit("a", 9)
    plain = kernel.read

    def racing(path: str) -> bytes:
        kernel.generation += 1
        return plain(path)

    kernel.read = racing  # type: ignore[method-assign]
    assert probes.read_hits() == {"a": 9}
    assert reads(kernel, "probes") == PATIENCE + 1


def test_an_older_module_without_the_file(kernel: FakeDjprobes) -> None:
    del kernel.files[f"{DEBUGFS}/hits"]
    probes = Probes(kernel)
    probes.add("f1", name="a")
    kernel.hit("a", 4)
    for _ in range(3):
        assert probes.read_hits() == probes.hits() == {"a": 4}
    assert reads(kernel, "hits") == 1
    with pytest.raises(NotLoadedError):
        Probes(FakeDjprobes({}, loaded=False)).read_hits()


def test_another_error_is_no_older_module(kernel: FakeDjprobes) -> None:
    def broken() -> str:
        raise RuntimeError("a bug")

    kernel.files[f"{DEBUGFS}/hits"] = broken
    with pytest.raises(RuntimeError):
        Probes(kernel).read_hits()


def test_a_handlers_probes_share_a_name(kernel: FakeDjprobes) -> None:
    kernel.files[f"{DEBUGFS}/probes"] = f"{OLD}\n".replace("a ", "@m:h ", 1) * 2
    kernel.files[f"{DEBUGFS}/hits"] = "7 2\n30\n12\n"
    assert Probes(kernel).read_hits() == {"@m:h": 42}


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("7 0\n", HitTable(7, ())),
        ("7 2\n0\n18446744073709551615\n", HitTable(7, (0, 2**64 - 1))),
        ("7 2\n0\n", None),
        ("7 0\n0\n", None),
        ("7\n", None),
        ("", None),
        ("7 1\nmany\n", None),
    ],
)
def test_the_file_hits(text: str, table: HitTable | None) -> None:
    if table is not None:
        assert parse_hits(text) == table
    else:
        with pytest.raises(ProtocolError, match="hits"):
            parse_hits(text)


def test_hits_that_do_not_fit_the_probes(kernel: FakeDjprobes) -> None:
    kernel.files[f"{DEBUGFS}/hits"] = "7 2\n1\n2\n"
    with pytest.raises(ProtocolError, match="2 probes, where probes has 0"):
        Probes(kernel).read_hits()


def test_rates(kernel: FakeDjprobes) -> None:
    probes, clock = Probes(kernel), Clock()
    probes.add_many(["f1", "f2", "f3"], names=["slow", "fast", "idle"])
    reader = HitReader(Control(kernel), clock=clock)
    kernel.hit("fast", 10)

    def pause(seconds: float) -> None:
        clock.pass_(seconds)
        kernel.hit("fast", 30)
        kernel.hit("slow", 3)

    rounds = watch(reader, interval=1.5, rounds=2, pause=pause)
    first = next(rounds)
    # The first reading has read the names, too: a second more passes until the next one.
    assert [(r.name, r.hits, r.per_second) for r in first.probes] == [
        ("fast", 40, 30 / first.seconds),
        ("slow", 3, 3 / first.seconds),
        ("idle", 0, 0.0),
    ]
    assert first.probes[0].target == "f2+0x5"
    second = next(rounds)
    assert second.seconds == 2.5
    assert second.probes[0].per_second == 12.0
    assert list(rounds) == []


def test_rates_of_what_was_not_there_before(kernel: FakeDjprobes) -> None:
    probes, reader = Probes(kernel), HitReader(Control(kernel), clock=Clock())
    probes.add_many(["f1", "f2"], names=["a", "b"])
    kernel.hit("a", 5)
    before = reader.read()
    probes.control.submit(["-:a", "p:a f1", "p:c f3"])
    kernel.hit("a", 2)
    kernel.hit("b", 2)
    rates = {one.name: one.per_second for one in rates_between(before, reader.read()).probes}
    assert (rates["a"], rates["c"]) == (None, None)
    assert rates["b"] is not None
    assert rates["b"] > 0


def test_columns_of_older_and_newer_modules() -> None:
    (old,) = parse_probes(f"{OLD}\n")
    assert (old.options, old.unreadable) == (Options(), 0)
    (new,) = parse_probes(f"{OLD} soft,if:%di>=5 12 newer\n")
    assert (new.options, new.unreadable) == (Options(condition="%di >= 5", soft=True), 12)
    (spent,) = parse_probes(f"{OLD.replace(' jump jump', ' spent jump')} once 0\n")
    assert spent.state is State.SPENT
    assert parse_probes(f"{OLD} moon=full 0\n")[0].options == "moon=full"
    with pytest.raises(ProtocolError, match="line 1"):
        parse_probes(f"{OLD} - many\n")


def test_stats_of_older_and_newer_modules(kernel: FakeDjprobes) -> None:
    text = kernel._show_stats()
    assert parse_stats(text).counters_near == 0
    lines = [line for line in text.splitlines() if not line.startswith("counters")]
    old = parse_stats("\n".join(lines))
    assert (old.counters_near, old.counters_far, old.extra) == (None, None, {})


def test_options_reach_the_kernel(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        one = probes.add("f1", options=Options(condition="%di >= 5", sample=16), method="int3")
        assert one.options == Options(condition="%di >= 5", sample=16)
        each = [Options(by="pid"), None, Options(soft=True)]
        made = probes.add_many(["f2", "f3", "f4"], options=each)
        assert [probe.options for probe in made] == [Options(by="pid"), Options(), each[2]]
        assert {s.options for s in probes.list()} == {one.options, *filter(None, each), Options()}
        with pytest.raises(UsageError, match="2 targets but options for 1"):
            probes.add_many(["f5", "f6"], options=[Options()])
        with pytest.raises(ControlError) as caught:
            probes.control.submit(["p:x f5 count if %di == 5000000000000000000000"])
        assert (caught.value.reason, caught.value.errno) == (Reason.BAD_VALUE, errno.EINVAL)
        assert type(caught.value) is ControlError  # it is not about the address
    lines = [w.data.decode() for w in kernel.asked("write")]
    assert lines[0] == "p:p_f1_0 f1 count method=int3 if %di >= 5 sample=16\n"
    assert lines[1] == ("p:p_f2_0 f2 count by=pid\np:p_f3_0 f3 count\np:p_f4_0 f4 count soft\n")


def test_one_hit_and_no_more(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        probe = probes.add("f1", options=Options(once=True))
        kernel.hit(probe.name, 3)
        assert (probe.hits, probe.state) == (1, "bypass")
        probes.commit()
        kernel.hit(probe.name)
        assert (probe.hits, probe.state) == (1, State.SPENT)
        probe.enable()
        kernel.hit(probe.name)
        assert (probe.hits, probe.state) == (2, State.BYPASS)


def test_what_can_not_be_read_is_no_hit(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        probe = probes.add("f1", options=Options(condition="+8(%di) == 1"))
        kernel.hit(probe.name, 3, unreadable=True)
        kernel.hit(probe.name, 2)
        assert (probe.hits, probe.unreadable) == (2, 3)


def test_maps(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        probes.add("f1", name="sizes", options=Options(hist="%dx"))
        probes.add("f2", name="names", options=Options(by="comm"))
        for size, count in ((0, 1), (1, 2), (4, 3), (7, 4), (2**64 - 1, 5)):
            kernel.hit("sizes", count, key=size)
        kernel.hit("names", 6, key="a b\n\\c ")
        assert probes.maps() == (
            MapEntry("sizes", MapKind.HIST, 1, "0-0"),
            MapEntry("sizes", MapKind.HIST, 2, "1-1"),
            MapEntry("sizes", MapKind.HIST, 7, "4-7"),
            MapEntry("sizes", MapKind.HIST, 5, "9223372036854775808-18446744073709551615"),
            MapEntry("names", MapKind.COMM, 6, "a b\n\\c "),
        )
        assert sum(entry.count for entry in probes.maps()) == sum(probes.hits().values())
    assert probes.maps() == ()


def test_lines_of_maps() -> None:
    assert parse_maps("a other 3 -\na moon 1 full \n") == (
        MapEntry("a", MapKind.OTHER, 3, "-"),
        MapEntry("a", "moon", 1, "full "),
    )
    # U+0085 and others end a line for Python, not for the kernel.
    assert parse_maps("a comm 3 x\x0b\x85y\n")[0].key == "x\x0b\x85y"
    assert parse_maps("") == ()
    assert MapEntry("a", MapKind.HIST, 1, "4-7").bounds == (4, 7)
    for bad in ("a hist 1\n", "a hist x 1-1\n", "\n"):
        with pytest.raises(ProtocolError, match="maps"):
            parse_maps(bad)


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 7, 8, 2**63 - 1, 2**63, 2**64 - 1])
def test_buckets(value: int) -> None:
    low, high = MapEntry("a", MapKind.HIST, 1, bucket_of(value)).bounds
    assert low <= value <= high
    assert (low, high) in {(0, 0), (1, 1)} or high == 2 * low - 1


def test_flags_in_an_explanation(kernel: FakeDjprobes) -> None:
    text = "target: f\nverdict: jump\nreason: ok\n"
    old = parse_explanation(text)
    assert (old.flags, old.flags_by) == (None, None)
    dead = parse_explanation(f"{text}flags: dead\nflags_by: -\n")
    assert (dead.flags, dead.flags_by, dead.extra) == (Flags.DEAD, None, {})
    live = parse_explanation(f"{text}flags: live\nflags_by: 0x10 f+0x2\n")
    assert (live.flags, live.flags_by) == (Flags.LIVE, Location(16, "f+0x2"))
    assert parse_explanation(f"{text}flags: half\n").flags == "half"
    probes = Probes(kernel)
    assert probes.explain("f1", Options(hist="%di", sample=2)).flags is Flags.LIVE
    assert kernel.asked("transact")[-1].data == b"f1 sample=2 hist=%di\n"
    probes.explain("f1")
    assert kernel.asked("transact")[-1].data == b"f1\n"
    with pytest.raises(RemoteOSError):
        kernel.transact(f"{DEBUGFS}/explain", b"f1 count twice\n")


def test_progress_of_many(kernel: FakeDjprobes) -> None:
    told: list[tuple[AddPhase, int, int]] = []
    with Probes(kernel) as probes:
        made = probes.add_many(
            [f"f1+{n}" for n in range(1, 1001)], progress=lambda *step: told.append(step)
        )
        size = len(kernel.asked("write")[0].data)
        assert told == [
            (AddPhase.SENDING, size, size),
            (AddPhase.APPLYING, 0, 1000),
            (AddPhase.APPLYING, 1000, 1000),
        ]
        told.clear()
        with pytest.raises(ControlError):
            probes.add_many(["f2", "nothing"], progress=lambda *step: told.append(step))
        assert told[-1] == (AddPhase.APPLYING, 0, 2)
        assert len(probes.list()) == len(made)
        assert probes.add_many([], progress=lambda *step: told.append(step)) == []


def test_options_are_plain_data(kernel: FakeDjprobes) -> None:
    from pyctl.cli.output import plain

    options = Options(condition="+8(%di) & 3", hist=Field("si"))
    assert json.loads(json.dumps(plain(options))) == {
        "condition": "+8(%di) & 3",
        "sample": None,
        "hist": "%si",
        "by": None,
        "once": False,
        "soft": False,
    }
