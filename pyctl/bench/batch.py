"""What it costs to put many probes in, to make them live, and to take them out; ours and the
kernel's own, in one guest."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any

from pyctl.bench.methods import Kind
from pyctl.bench.sites import Entries, choose_sites, entry_sites, function_sites
from pyctl.control import DEBUGFS
from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.symbols import text_symbols
from pyctl.transport import Process, Transport
from pyctl.transport.base import Closing
from pyctl.verify.kerneltext import KernelText
from pyctl.verify.testmodules import DEBUG
from pyctl.workloads import Busy
from pyctl.workloads.base import start_script

if TYPE_CHECKING:
    from pyctl.verify.judgements import Judgements

SCRIPT = "pyctl.bench.remote.batch"
SHARED = ("pyctl.bench.remote.rounds",)
#: Seconds, before scaling, for the sites to become jumps, and for a whole row.
LIVE_SECONDS = 300.0
ROW_SECONDS = 3600.0
#: As often is what takes seconds done again, unless it takes longer than that.
ROUNDS = 3
LONG_SECONDS = 20.0
#: How often one probe is switched off and on.
SWITCHES = 9
#: All that there are.
ALL = 0

Progress = Callable[[str], None]


class Way(StrEnum):
    """How they are put in. Mainline's kprobes: with the optimiser on, as kernels are set; or
    off while they are registered, and let loose afterwards."""

    COUNT = "count"
    SWITCH_TEXT = "switch-text"
    SWITCH_FLAG = "switch-flag"
    KPROBE = "kprobe"
    KPROBE_LATE = "kprobe-late"
    KPROBE_FTRACE = "kprobe-ftrace"
    FTRACE = "ftrace"
    FPROBE = "fprobe"


OURS = frozenset({Way.COUNT, Way.SWITCH_TEXT, Way.SWITCH_FLAG})
SWITCHED = {Way.SWITCH_TEXT: ("count", "text"), Way.SWITCH_FLAG: ("soft", "flag")}
#: Registered one by one, which takes long.
SLOW = frozenset({Way.KPROBE, Way.KPROBE_LATE, Way.KPROBE_FTRACE})


class Place(StrEnum):
    """Where: instructions inside functions at which ours and mainline's optimiser put a jump;
    the entries of functions, at their ftrace sites; or those of all functions, with or without
    such a site."""

    MIDDLE = "mid-function"
    ENTRY = "entry"
    FUNCTION = "function entries"


#: What each is compared with, at places of its own kind. Nothing of mainline's is for all
#: functions at once.
BASES = {Place.MIDDLE: Way.KPROBE, Place.ENTRY: Way.KPROBE_FTRACE}


@dataclass(frozen=True)
class BatchCase:
    """One row to be measured; ``load``: a process on each CPU computes meanwhile."""

    method: Way
    place: Place
    probes: int
    load: bool = False

    @property
    def rounds(self) -> int:
        """At most."""
        return 1 if self.method in SLOW or self.method in SWITCHED else ROUNDS

    def __str__(self) -> str:
        count = "all" if self.probes == ALL else f"{self.probes:,}"
        return f"{self.method}, {count} {self.place}{', under load' if self.load else ''}"


@dataclass(frozen=True)
class BatchRow:
    """A line of the table; the fields are the keys of its JSON object, in this order.

    Times are the guest's. ``register_s``: from the beginning until all are accepted, and
    fire; ``live_s``: from there until all are what they are to be, jumps; ``remove_s``: until
    all are out of the text and ``reclaim_s`` until their memory is free. ``each_us`` is
    ``register_s`` and ``live_s`` by the number of probes, ``remove_each_us`` the same of
    ``remove_s``; ``ratio`` and ``remove_ratio`` are those by what mainline's kprobes take at
    such places. ``spread_us``: the most ``each_us`` minus the least, of ``rounds``, whose
    medians the others are.

    ``stop_us_max``: the longest time that a CPU was kept from running tasks, of ours.
    ``text_bytes`` and ``data_bytes`` are for each probe: what its code takes (of mainline's,
    whole pages), and what Slab, Percpu and VmallocUsed of /proc/meminfo grew by, without the
    pages of code.

    For ``switch-text`` and ``switch-flag`` one of ``probes`` is switched: ``remove_s`` is off,
    ``live_s`` on again.
    """

    method: str
    kind: str
    place: str
    load: bool
    probes: int
    register_s: float | None = None
    live_s: float | None = None
    remove_s: float | None = None
    reclaim_s: float | None = None
    each_us: float | None = None
    remove_each_us: float | None = None
    spread_us: float | None = None
    rounds: int = 0
    ratio: float | None = None
    remove_ratio: float | None = None
    stop_us_max: float | None = None
    deferred: int | None = None
    text_bytes: float | None = None
    data_bytes: float | None = None
    text_restored: bool | None = None
    note: str | None = None


def default_cases(*, slow: bool = False, small: int = 1000, big: int = 10_000) -> list[BatchCase]:
    """All of them; with ``slow`` as many of mainline's kprobes as there are of ours."""
    mid, entry, function = Place.MIDDLE, Place.ENTRY, Place.FUNCTION
    return [
        BatchCase(Way.COUNT, mid, small),
        BatchCase(Way.KPROBE, mid, small),
        BatchCase(Way.KPROBE_LATE, mid, small),
        BatchCase(Way.COUNT, mid, big),
        *([BatchCase(Way.KPROBE, mid, big), BatchCase(Way.KPROBE_LATE, mid, big)] if slow else []),
        BatchCase(Way.SWITCH_TEXT, mid, big),
        BatchCase(Way.SWITCH_FLAG, mid, big),
        BatchCase(Way.COUNT, entry, small),
        BatchCase(Way.KPROBE_FTRACE, entry, small),
        BatchCase(Way.COUNT, entry, big),
        BatchCase(Way.FTRACE, entry, big),
        BatchCase(Way.FPROBE, entry, big),
        BatchCase(Way.COUNT, entry, ALL),
        BatchCase(Way.FTRACE, entry, ALL),
        BatchCase(Way.FPROBE, entry, ALL),
        BatchCase(Way.COUNT, entry, ALL, load=True),
        BatchCase(Way.FTRACE, entry, ALL, load=True),
        BatchCase(Way.COUNT, function, ALL),
        BatchCase(Way.COUNT, function, ALL, load=True),
    ]


def run_batch(
    cases: Sequence[BatchCase],
    *,
    boot: str = "bookworm-cloud",
    icount: bool = True,
    progress: Progress,
) -> Generator[BatchRow, None, None]:
    """Measure them in a throw-away guest; close the generator (or use it up) and it is gone.
    TextChangedError if kernel text is not as it was when all are out again. The ratios are
    not in the rows yet: see :func:`compared`."""
    # numpy comes with the extra `dev`; only this needs it
    from pyctl.verify.judgements import read_judgements  # noqa: PLC0415

    progress(f"booting {boot}")
    with Guest.boot(boot, progress=progress, icount=icount) as guest:
        progress("loading djprobes and its test modules")
        guest.load()
        for name in ("djp_peer", "djp_bench"):
            guest.load_extra(name, source=SOURCE)
        progress("judging every instruction")
        sites = Sites(guest.transport, read_judgements(guest.transport), cases)
        progress("keeping a copy of all kernel text")
        with BatchBench(guest.transport, sites, progress) as bench:
            for case in cases:
                progress(str(case))
                yield bench.row(case)


def compared(rows: Sequence[BatchRow]) -> list[BatchRow]:
    """The same rows, with what each is of mainline's kprobes at such places."""
    bases = {
        place: next((row for row in rows if row.method == way and row.place == place), None)
        for place, way in BASES.items()
    }
    return [_compare(row, bases.get(Place(row.place))) for row in rows]


class Sites:
    """The addresses of every case. The same ones in every run on the same kernel; fewer are
    the beginning of more."""

    def __init__(
        self, transport: Transport, judgements: Judgements, cases: Sequence[BatchCase]
    ) -> None:
        most = max((c.probes for c in cases if c.place is Place.MIDDLE), default=0)
        self._found: Mapping[Place, tuple[int, ...]] = {
            Place.MIDDLE: choose_sites(transport, most, judgements) if most else (),
            Place.ENTRY: entry_sites(judgements),
            Place.FUNCTION: (functions := _functions(transport, judgements, cases)).addresses,
        }
        self._traced = functions.traced

    def drop(self, place: Place, addresses: Sequence[int]) -> None:
        """Leave these out from now on."""
        gone = set(addresses)
        kept = tuple(one for one in self._found[place] if one not in gone)
        self._found = {**self._found, place: kept}

    def traced(self, case: BatchCase) -> int:
        """How many of its addresses, of functions' entries, are behind an ftrace site."""
        return len(self._traced.intersection(self.of(case)))

    def of(self, case: BatchCase) -> tuple[int, ...]:
        """Its addresses."""
        found = self._found[case.place]
        if len(found) < case.probes:
            raise OracleError(f"there are only {len(found)} places for {case}")
        return found[: case.probes] if case.probes != ALL else found


class BatchBench(Closing):
    """The script in the guest, and a copy of kernel text."""

    def __init__(self, transport: Transport, sites: Sites, progress: Progress) -> None:
        self._transport = transport
        self._sites = sites
        self._progress = progress
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._text = stack.enter_context(KernelText(transport))
            self._text.save()
            folders = (DEBUGFS, f"{DEBUG}/djp_peer", f"{DEBUG}/djp_bench")
            self._process: Process = stack.enter_context(
                start_script(transport, "djp-batch", SCRIPT, SHARED, *folders)
            )
            self._stack = stack.pop_all()

    def row(self, case: BatchCase) -> BatchRow:
        """Rounds of one case: in, live, out, and text as it was."""
        kind = Kind.OURS if case.method in OURS else Kind.PEER
        row = BatchRow(case.method, kind, case.place, case.load, len(self._sites.of(case)))
        answers: list[dict[str, Any]] = []
        with _load(self._transport, on=case.load):
            for number in range(case.rounds):
                if number and _seconds(answers[0]) > LONG_SECONDS:
                    break
                tally = case.place is Place.FUNCTION and not number
                answer = self._round(case, self._sites.of(case), tally=tally)
                if answer.get("errno") == errno.EOPNOTSUPP:
                    return replace(row, note="not offered: this kernel was built without it")
                self._refuse(case, answer)
                answers.append(answer)
                if refused := answer.get("refused"):
                    self._progress(f"{case}: {len(refused)} were refused")
                    self._sites.drop(case.place, refused)
                    row = replace(row, probes=row.probes - len(refused))
        if case.place is Place.FUNCTION:
            row = replace(row, note=_reach(self._sites.traced(case), answers[0]["methods"]))
        self._progress(f"{case}: comparing kernel text")
        restored = self._text.diff().check().clean
        return replace(make_row(row, answers), text_restored=restored)

    def close(self) -> None:
        """End it."""
        self._stack.close()

    def _round(
        self, case: BatchCase, addresses: Sequence[int], *, tally: bool = False
    ) -> dict[str, Any]:
        words, what = SWITCHED.get(case.method, (str(case.method), ""))
        request = {"method": words, "addresses": list(addresses), "seconds": LIVE_SECONDS}
        answer = self._ask({**request, "tally": tally})
        switched: dict[str, Any] = {}
        if what and "error" not in answer:
            switched = self._ask({"switch": what, "times": SWITCHES})
        out = self._ask({"remove": LIVE_SECONDS})
        stops = [one["stop_ns"] for one in (answer, out) if one.get("stop_ns")]
        return {**out, **answer, **switched, "stop_ns": max(stops, default=None)}

    def _refuse(self, case: BatchCase, answer: Mapping[str, Any]) -> None:
        if "error" in answer:
            raise OracleError(f"{self._transport.host}: {case}: {answer['error']}")

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._process.send_line(json.dumps(request))
        line = self._process.read_line(ROW_SECONDS)
        if line is None:
            raise OracleError(
                f"{self._transport.host}: the measuring script ended\n{self._process.stderr_tail()}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_row(row: BatchRow, answers: Sequence[Mapping[str, Any]]) -> BatchRow:
    """A row from the answers of its rounds, one or more."""
    if "off_s" in answers[0]:
        return replace(
            row,
            live_s=round(median(answers[0]["on_s"]), 9),
            remove_s=round(median(answers[0]["off_s"]), 9),
            spread_us=round(1e6 * (max(answers[0]["on_s"]) - min(answers[0]["on_s"])), 3),
            rounds=len(answers[0]["on_s"]),
            note=f"one of {row.probes:,} is switched off (remove_s) and on (live_s)",
        )
    each = [1e6 * _seconds(answer) / row.probes for answer in answers]
    late = any(answer["live_s"] is None for answer in answers)
    remove_s = _median(answers, "remove_s")
    stops = [answer["stop_ns"] for answer in answers if answer.get("stop_ns")]
    return replace(
        row,
        register_s=_median(answers, "register_s"),
        live_s=None if late else _median(answers, "live_s"),
        remove_s=remove_s,
        reclaim_s=_median(answers, "reclaim_s"),
        each_us=None if late else round(median(each), 3),
        remove_each_us=None if remove_s is None else round(1e6 * remove_s / row.probes, 3),
        spread_us=round(max(each) - min(each), 3),
        rounds=len(answers),
        stop_us_max=round(max(stops) / 1e3, 1) if stops else None,
        deferred=max(answer["deferred"] for answer in answers),
        text_bytes=round(median(a["text_bytes"] for a in answers) / row.probes, 1),
        data_bytes=round(median(a["data_bytes"] for a in answers) / row.probes, 1),
        note="not all became jumps in time" if late else row.note,
    )


def _seconds(answer: Mapping[str, Any]) -> float:
    return float(answer["register_s"]) + float(answer["live_s"] or 0)


def _median(answers: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [answer[key] for answer in answers if answer.get(key) is not None]
    return round(median(values), 6) if values else None


def _functions(transport: Transport, judgements: Judgements, cases: Sequence[BatchCase]) -> Entries:
    if not any(case.place is Place.FUNCTION for case in cases):
        return Entries((), frozenset())
    return function_sites(judgements, text_symbols(transport))


def _reach(traced: int, methods: Mapping[str, int]) -> str:
    """What is to be said of probes at functions' entries."""
    counts = ", ".join(f"{methods[name]:,} {name}" for name in sorted(methods))
    return (
        f"by method: {counts}; mainline's ftrace and fprobe reach only the {traced:,} "
        "that have an ftrace site"
    )


def _compare(row: BatchRow, base: BatchRow | None) -> BatchRow:
    if base is None or not base.each_us or not base.remove_each_us:
        return row
    ratio = None if row.each_us is None else float(f"{row.each_us / base.each_us:.3g}")
    removed = row.remove_each_us
    return replace(
        row,
        ratio=ratio,
        remove_ratio=None if removed is None else float(f"{removed / base.remove_each_us:.3g}"),
    )


@contextlib.contextmanager
def _load(transport: Transport, *, on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    with Busy().background(transport):
        yield
