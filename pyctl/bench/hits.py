"""What a hit costs, in instructions that the guest executes more than without the probe; ours
and the kernel's own, one after the other in one guest that counts them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pyctl.bench.methods import METHODS, OPTPROBE, PROBE, Kind, Method, Way
from pyctl.control import Control
from pyctl.errors import ControlError, OracleError, ProtocolError, RemoteOSError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.parsing import parse_number
from pyctl.reasons import Reason
from pyctl.timing import Deadline, attempts
from pyctl.transport import Transport
from pyctl.verify.bcc import FentryCounter
from pyctl.verify.testmodules import DEBUG, kprobe_optimisation

BENCH = f"{DEBUG}/djp_bench"
#: Calls in a round, with interrupts off, a multiple of every sampling; and rounds. The first
#: of a run is not counted: what comes for the first time may have to make room for itself.
CALLS = 160
ROUNDS = 20
#: How long mainline's optimiser may take to write a jump, or to take it back; in seconds
#: before scaling.
OPTIMISE_SECONDS = 30.0
#: What a kernel module says of an option that it has not got.
UNKNOWN = frozenset({Reason.SYNTAX, Reason.NOT_SUPPORTED})

Progress = Callable[[str], None]


@dataclass(frozen=True)
class HitRow:
    """A line of the table; the fields are the keys of its JSON object, in this order.

    ``extra_instructions``: what a call executes more than without the probe, the median of
    the rounds; ``spread``: the most minus the least. ``ratio``: that, divided by optprobe's.
    ``hits`` are as the probe's owner has counted them, ``expected`` what they have to be
    after so many ``calls``: as many, unless the row says otherwise. None where the kernel
    has not got it; then ``note`` says why.
    """

    method: str
    kind: str
    what: str
    extra_instructions: float | None
    ratio: float | None
    hits: int | None
    calls: int
    expected: int | None
    spread: float | None
    first_byte: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Run:
    """One run of a function: ``ticks`` for each call, a value for each round but the first."""

    calls: int
    wrong: int
    ticks: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.ticks)

    @property
    def spread(self) -> float:
        """The most minus the least."""
        return max(self.ticks) - min(self.ticks)


def parse_run(text: str, calls: int) -> Run:
    """The file ``run``, with ``calls`` calls in each round."""
    words = text.split()
    if len(words) < 5:
        raise ProtocolError(f"run: {text!r} has no two rounds")
    made, wrong, _first, *ticks = [parse_number(word, "run") for word in words[1:]]
    return Run(made, wrong, tuple(number / calls for number in ticks))


def parse_points(text: str) -> dict[str, tuple[int, bytes]]:
    """The file ``points``: function, where it is probed, and the bytes there."""
    found = {}
    for line in text.splitlines():
        name, address, *data = line.split()
        found[name] = (int(address, 16), bytes(int(byte, 16) for byte in data))
    return found


def run_hits(
    *,
    boot: str = "bookworm-cloud",
    methods: Sequence[Method] = METHODS,
    calls: int = CALLS,
    rounds: int = ROUNDS,
    progress: Progress,
) -> Generator[HitRow, None, None]:
    """Measure each method in a throw-away guest with one CPU; close the generator (or use it
    up) and it is gone. The ratios are not in the rows yet: see :func:`compared`."""
    progress(f"booting {boot}")
    with Guest.boot(boot, progress=progress, icount=True, smp=1) as guest:
        progress("loading djprobes and djp_bench")
        guest.load()
        bench = HitBench(guest, calls=calls, rounds=rounds)
        for method in methods:
            progress(f"{method.name}: {method.what}")
            yield bench.row(method)


def compared(rows: Sequence[HitRow]) -> list[HitRow]:
    """The same rows, with what each is of optprobe's."""

    base = next((row.extra_instructions for row in rows if row.method == OPTPROBE), None)
    return [
        replace(row, ratio=round(row.extra_instructions / base, 3))
        if base and row.extra_instructions is not None
        else row
        for row in rows
    ]


class HitBench:
    """djp_bench in one guest, which counts its instructions and has one CPU."""

    def __init__(self, guest: Guest, *, calls: int = CALLS, rounds: int = ROUNDS) -> None:
        self._guest = guest
        self._transport: Transport = guest.transport
        self._control = Control(guest.transport)
        self._calls = calls
        self._rounds = rounds
        self._bare: dict[str, Run] = {}
        if not self._transport.exists(BENCH):
            guest.load_extra("djp_bench", source=SOURCE)

    def row(self, method: Method) -> HitRow:
        """Attach, call, read, take away. OracleError if a hit was lost, or counted twice."""
        bare = self._bare_run(method.function)
        try:
            with self.attached(method) as hits:
                first = self.check_text(method)
                before = hits()
                run = self._run(method.function)
                counted = hits() - before
        except NotOfferedError as error:
            return HitRow(
                method.name, method.kind, method.what, None, None, None, 0, None, None, None,
                str(error),
            )  # fmt: skip
        finally:
            self.wait_for_text(method.function, self._text)
        expected = method.expected(run.calls)
        if run.wrong or counted != expected:
            raise OracleError(
                f"{self._transport.host}: {method.name}: of {run.calls} calls {run.wrong} had a "
                f"wrong result, and {counted} hits were counted instead of {expected}"
            )
        return HitRow(
            method=method.name,
            kind=method.kind,
            what=method.what,
            extra_instructions=_tidy(run.middle - bare.middle),
            ratio=None,
            hits=counted,
            calls=run.calls,
            expected=expected,
            spread=_tidy(run.spread + bare.spread),
            first_byte=f"{first:02x}",
            note=self._note(method),
        )

    def points(self) -> dict[str, tuple[int, bytes]]:
        """Function, where it is probed, and the bytes there."""
        return parse_points(self._transport.read(f"{BENCH}/points").decode())

    def _bare_run(self, function: str) -> Run:
        if function not in self._bare:
            self._bare[function] = self._run(function)
            self._text = self.texts()
        return self._bare[function]

    def _run(self, function: str) -> Run:
        command = f"{function} {self._calls} {self._rounds + 1}\n"
        self._transport.write(f"{BENCH}/run", command.encode())
        return parse_run(self._transport.read(f"{BENCH}/run").decode(), self._calls)

    @contextlib.contextmanager
    def attached(self, method: Method) -> Iterator[Callable[[], int]]:
        ways = {Way.CONTROL: self._by_control, Way.PEER: self._by_peer, Way.BPF: self._by_bpf}
        with (
            kprobe_optimisation(self._transport, on=method.optimise),
            ways[method.way](method) as hits,
        ):
            yield hits

    @contextlib.contextmanager
    def _by_control(self, method: Method) -> Iterator[Callable[[], int]]:
        address = self.points()[method.function][0]
        try:
            self._control.submit([f"p:{PROBE} {address:#x} {method.words}", "commit"])
        except ControlError as error:
            if error.reason in UNKNOWN:
                raise NotOfferedError(f"not offered: {error.message}") from error
            raise
        try:
            if method.then is not None:
                self._control.submit([method.then])
            yield lambda: next(one.hits for one in self._control.probes() if one.name == PROBE)
        finally:
            self._control.submit([f"-:{PROBE}"])

    @contextlib.contextmanager
    def _by_peer(self, method: Method) -> Iterator[Callable[[], int]]:
        file = f"{BENCH}/peer"
        try:
            self._transport.write(file, f"{method.words} {method.function}\n".encode())
        except RemoteOSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise NotOfferedError("not offered: this kernel was built without it") from error
            raise
        try:
            yield lambda: int(self._transport.read(file).split()[1])
        finally:
            self._transport.write(file, b"-\n")

    @contextlib.contextmanager
    def _by_bpf(self, method: Method) -> Iterator[Callable[[], int]]:
        with FentryCounter(self._transport, method.function) as counter:
            counter.attach()
            try:
                yield counter.read
            finally:
                counter.detach()

    def check_text(self, method: Method) -> int:
        """The byte that stands where the probe is; of what is moved behind an ftrace site,
        that there. Mainline's optimiser takes its time."""
        behind = 5 if method.kind is Kind.OURS and method.function == "entry" else 0
        byte = -1
        for _ in attempts(Deadline.after(OPTIMISE_SECONDS)):
            byte = self.points()[method.function][1][behind]
            if byte in method.first:
                return byte
        raise OracleError(
            f"{self._transport.host}: {method.name}: the byte at {method.function} is {byte:02x}"
        )

    def texts(self) -> dict[str, bytes]:
        """The bytes where each function is probed."""
        return {name: data for name, (_at, data) in self.points().items()}

    def wait_for_text(self, function: str, before: Mapping[str, bytes]) -> None:
        """Until there is nothing any more: it is as it was ``before``."""
        for _ in attempts(Deadline.after(OPTIMISE_SECONDS)):
            if self.points()[function][1] == before[function]:
                return
        raise OracleError(
            f"{self._transport.host}: the text of {function} is not what it was before"
        )

    def _note(self, method: Method) -> str | None:
        """What has to be said of a method on this kernel."""
        if method.name == "kprobe":
            lines = self._transport.read(f"{BENCH}/kernel").decode().splitlines()
            if "preemption yes" in lines:
                return "boosting is compiled out with CONFIG_PREEMPTION: single-stepped too"
            return "boosted: it jumps back from its copy"
        return None


class NotOfferedError(Exception):
    """This kernel, or this module, has not got the method."""


def _tidy(value: float) -> float:
    """An int if it is one."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded
