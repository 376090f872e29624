"""How many events a second there is room for: a probed function is called on all CPUs at once;
ours and the kernel's own ways, one after the other in one guest.

Time of an emulated guest says nothing but by comparison: each method is measured between two
runs of the same function without a probe, in rounds, and what counts are the ratios of medians.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pyctl.bench.hits import BENCH, HitBench, NotOfferedError
from pyctl.bench.methods import METHODS, OPTPROBE, Method
from pyctl.errors import OracleError, ProtocolError
from pyctl.guest import Guest
from pyctl.parsing import parse_number

#: Calls of each CPU in a round, a multiple of every sampling; and rounds, half as many without
#: a probe before and after.
CALLS = 160_000
ROUNDS = 8
RATE = f"{BENCH}/rate"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class RateRow:
    """A line of the table; the fields are the keys of its JSON object, in this order.

    ``events_per_s``: calls of the probed function on all ``cpus`` in a second of the guest, the
    median of the rounds; ``spread``: the most minus the least. ``of_bare``: that, divided by
    what the function without a probe comes to; ``ratio``: divided by optprobe's, each by its
    own bare function. ``hits`` are as the probe's owner has counted them, ``expected`` what
    they have to be after so many ``calls``. None where the kernel has not got it; then
    ``note`` says why.
    """

    method: str
    kind: str
    what: str
    cpus: int | None = None
    events_per_s: int | None = None
    spread: int | None = None
    of_bare: float | None = None
    ratio: float | None = None
    hits: int | None = None
    calls: int = 0
    expected: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class Round:
    """One run on all CPUs: ``calls`` of all together, in ``ns`` nanoseconds."""

    cpus: int
    calls: int
    wrong: int
    ns: int

    @property
    def per_second(self) -> float:
        """Calls."""
        return 1e9 * self.calls / self.ns


def parse_round(text: str) -> Round:
    """The file ``rate``."""
    numbers = [parse_number(word, "rate") for word in text.split()[1:]]
    if len(numbers) != 4 or not numbers[-1]:
        raise ProtocolError(f"rate: {text!r} is no run")
    return Round(*numbers)


def run_rate(
    *,
    boot: str = "bookworm-cloud",
    methods: Sequence[Method] = METHODS,
    calls: int = CALLS,
    rounds: int = ROUNDS,
    progress: Progress,
) -> Generator[RateRow, None, None]:
    """Measure each method in a throw-away guest; close the generator (or use it up) and it is
    gone. The ratios are not in the rows yet: see :func:`compared`."""
    progress(f"booting {boot}")
    with Guest.boot(boot, progress=progress) as guest:
        progress("loading djprobes and djp_bench")
        guest.load()
        bench = RateBench(guest, calls=calls, rounds=rounds)
        for method in methods:
            progress(f"{method.name}: {method.what}")
            yield bench.row(method)


def compared(rows: Sequence[RateRow]) -> list[RateRow]:
    """The same rows, with what each comes to beside optprobe's."""
    base = next((row.of_bare for row in rows if row.method == OPTPROBE), None)
    return [
        replace(row, ratio=float(f"{row.of_bare / base:.3g}")) if base and row.of_bare else row
        for row in rows
    ]


class RateBench:
    """djp_bench in one guest with all its CPUs."""

    def __init__(self, guest: Guest, *, calls: int = CALLS, rounds: int = ROUNDS) -> None:
        self._transport = guest.transport
        self._hits = HitBench(guest)
        self._calls = calls
        self._rounds = rounds

    def row(self, method: Method) -> RateRow:
        """Call without it, attach, call, read, take away, call without it. OracleError if a hit
        was lost, or counted twice."""
        row = RateRow(method.name, method.kind, method.what)
        half = (self._rounds + 1) // 2
        before = self._hits.texts()
        bare = self._run(method, half)
        try:
            with self._hits.attached(method) as hits:
                self._hits.check_text(method)
                start = hits()
                probed = self._run(method, self._rounds)
                counted = hits() - start
        except NotOfferedError as error:
            return replace(row, note=str(error))
        finally:
            self._hits.wait_for_text(method.function, before)
        bare += self._run(method, half)
        calls = sum(each.calls for each in probed)
        expected = method.expected(calls)
        wrong = sum(each.wrong for each in (*bare, *probed))
        if wrong or counted != expected:
            raise OracleError(
                f"{self._transport.host}: {method.name}: of {calls} calls {wrong} had a wrong "
                f"result, and {counted} hits were counted instead of {expected}"
            )
        rates = [each.per_second for each in probed]
        return replace(
            row,
            cpus=probed[0].cpus,
            events_per_s=round(median(rates)),
            spread=round(max(rates) - min(rates)),
            of_bare=float(f"{median(rates) / median(each.per_second for each in bare):.3g}"),
            hits=counted,
            calls=calls,
            expected=expected,
        )

    def _run(self, method: Method, rounds: int) -> list[Round]:
        command = f"{method.function} {self._calls}\n".encode()
        done = []
        for _ in range(rounds):
            self._transport.write(RATE, command)
            done.append(parse_round(self._transport.read(RATE).decode()))
        return done
