"""The benches: instructions are exact, so they are compared exactly; times are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from pyctl import Guest
from pyctl.bench.batch import BatchBench, BatchCase, Place, Sites, Way
from pyctl.bench.hits import HitBench, HitRow
from pyctl.bench.methods import METHODS, OPTPROBE
from pyctl.bench.rate import RateBench
from pyctl.errors import OracleError
from pyctl.module import SOURCE
from pyctl.verify.judgements import Judgements

pytestmark = pytest.mark.vm

#: What a kernel can be built without.
OPTIONAL = {"fprobe", "ftrace-direct", "ftrace-direct-handler"}
#: Instructions of a detour that only counts, with the jump there and the jump back; and
#: what keeps the flags around it, where they live. An increment leaves CF alone.
EXACT = {"count": 3, "count-entry": 3, "count-carry": 3, "count-by-cpu": 3, "count-live": 5}
#: Not again in the second run: to compile it takes a while.
ONCE = {"bpf-fentry"}
CALLS, ROUNDS = 160, 5
RATED = {
    "count", "count-sample", "count-once", "count-by-pid", "handler", "handler-reads", OPTPROBE,
}  # fmt: skip
CPUS = 2
PROBES = 100


@pytest.fixture(scope="module")
def bench() -> Iterator[HitBench]:
    """djp_bench in a guest of one CPU, which counts its instructions."""
    with Guest.boot("bookworm-cloud", icount=True, smp=1) as counted:
        counted.load()
        log = counted.kernel_log()
        yield HitBench(counted, calls=CALLS, rounds=ROUNDS)
        log.check()


@pytest.fixture(scope="module")
def rows(bench: HitBench) -> Mapping[str, HitRow]:
    return {method.name: bench.row(method) for method in METHODS}


def test_every_call_is_a_hit(rows: Mapping[str, HitRow]) -> None:
    assert list(rows) == [method.name for method in METHODS]
    missing = {name for name, row in rows.items() if row.extra_instructions is None}
    assert missing <= OPTIONAL
    for method in METHODS:
        row = rows[method.name]
        if method.name not in missing:
            assert row.calls == CALLS * (ROUNDS + 1), method.name
            assert row.hits == row.expected == method.expected(row.calls), method.name


@pytest.mark.parametrize("name", EXACT)
def test_a_count_is_one_instruction(rows: Mapping[str, HitRow], name: str) -> None:
    assert (rows[name].extra_instructions, rows[name].spread) == (EXACT[name], 0)


@pytest.mark.parametrize("name", ["handler", "handler-entry"])
def test_a_handler_costs_less_than_an_optprobes(rows: Mapping[str, HitRow], name: str) -> None:
    extra, theirs = rows[name].extra_instructions, rows[OPTPROBE].extra_instructions
    assert extra is not None
    assert theirs is not None
    assert extra < theirs


def test_a_second_run_says_the_same(bench: HitBench, rows: Mapping[str, HitRow]) -> None:
    for method in METHODS:
        before = rows[method.name]
        if method.name in ONCE or before.extra_instructions is None or before.spread is None:
            continue
        after = bench.row(method).extra_instructions
        assert after is not None
        assert abs(after - before.extra_instructions) <= before.spread, method.name


def test_a_lost_hit_is_an_error(bench: HitBench) -> None:
    method = next(one for one in METHODS if one.name == "count")
    with pytest.raises(OracleError, match="hits were counted instead of"):
        bench.row(replace(method, expected=lambda calls: calls + 1))


@pytest.fixture(scope="module")
def loaded(guest: Guest) -> None:
    """What the benches put in themselves, in a guest that several of them share."""
    for name in ("djp_peer", "djp_bench"):
        guest.load_extra(name, source=SOURCE)


@pytest.mark.usefixtures("loaded")
def test_events_on_all_cpus_are_all_counted(watched: Guest) -> None:
    """Whatever stands there, at once on each CPU."""
    bench = RateBench(watched, calls=1600, rounds=2)
    for method in METHODS:
        if method.name in RATED:
            row = bench.row(method)
            assert row.cpus == CPUS
            assert row.calls == CPUS * 1600 * 2
            assert row.hits == row.expected == method.expected(row.calls), method.name
    count = next(one for one in METHODS if one.name == "count")
    with pytest.raises(OracleError, match="hits were counted instead of"):
        bench.row(replace(count, expected=lambda calls: calls - 1))


@pytest.mark.usefixtures("loaded")
@pytest.mark.timeout(600)  # judging every instruction counts, if it is the first
def test_a_small_batch(guest: Guest, judgements: Judgements) -> None:
    """Ours and mainline's, in the middle and at entries, those without an
    ftrace site too; text is compared after each."""
    cases = [
        BatchCase(Way.COUNT, Place.MIDDLE, PROBES),
        BatchCase(Way.SWITCH_TEXT, Place.MIDDLE, PROBES),
        BatchCase(Way.SWITCH_FLAG, Place.MIDDLE, PROBES),
        BatchCase(Way.KPROBE_LATE, Place.MIDDLE, PROBES),
        BatchCase(Way.COUNT, Place.ENTRY, PROBES, load=True),
        BatchCase(Way.FTRACE, Place.ENTRY, PROBES),
        BatchCase(Way.COUNT, Place.FUNCTION, PROBES, load=True),
    ]
    sites = Sites(guest.transport, judgements, cases)
    with BatchBench(guest.transport, sites, lambda _text: None) as bench:
        rows = [bench.row(case) for case in cases]
    assert [row.probes for row in rows] == [PROBES] * len(cases)
    assert all(row.text_restored and row.remove_s for row in rows)
    count, by_text, by_flag, kprobe, _entries, _ftrace, functions = rows
    assert count.each_us is not None
    assert kprobe.each_us is not None
    assert count.each_us < kprobe.each_us
    assert functions.note is not None
    assert functions.note.startswith("by method: ")
    assert count.deferred == 0 or count.live_s
    assert by_text.live_s is not None
    assert by_flag.live_s is not None
    assert by_flag.live_s < by_text.live_s
    assert count.text_bytes is not None
    assert 0 < count.text_bytes < 256
