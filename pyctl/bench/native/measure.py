"""What a hit costs on this machine's processor: detours as a guest's kernel has made them,
relocated into a process and called there. They can't be measured where they are: under
emulation time says nothing."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import median

from pyctl.bench.hits import HitBench
from pyctl.bench.methods import METHODS, OPTPROBE, Method
from pyctl.bench.native.assemble import Captured, Piece, assemble, straight, targets
from pyctl.errors import OracleError, ProtocolError
from pyctl.guest import Guest
from pyctl.symbols import symbolize
from pyctl.verify.livetext import read_memory

PACKAGE = "pyctl.bench.native"
SOURCES = ("harness.c", "callbacks.c", "native.h")
#: Those with a jump in a function of djp_bench's own.
NAMES = (
    "count", "count-carry", "count-live", "handler", "handler-reads", "handler-live", OPTPROBE,
)  # fmt: skip
#: kmod/x86/entry.S
ENTRIES = frozenset(
    f"djp_{kind}_entry{calm}" for kind in ("handler", "reader") for calm in ("", "_calm")
)
#: As many bytes as a detour, or the function that it calls, may have.
PIECE_BYTES = 512
FUNCTION_BYTES = 64
#: In the middle of djp_bench's functions, see kmod/test/bench_text.S: bytes from their
#: beginning, behind an ftrace site if there is one.
POINT = 3
BEHIND_SITE = 8
#: Medians that a value is the median of, rounds of each, and calls in a round.
REPETITIONS = 9
ROUNDS = 2000
CALLS = 100
COMPILE_SECONDS = 60.0
RUN_SECONDS = 300.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class NativeRow:
    """A line of the table; the fields are the keys of its JSON object, in this order.

    ``ticks``: of the TSC, that a hit adds to a call; ``spread``: the most minus the least of
    the repetitions. ``ratio``: that, divided by optprobe's. ``detour_bytes``: of code, without
    what it calls. ``processor``: which one.
    """

    method: str
    kind: str
    what: str
    ticks: float
    ratio: float | None
    spread: float
    detour_bytes: int
    processor: str


def run_native(
    *, boot: str = "bookworm-cloud", repetitions: int = REPETITIONS, progress: Progress
) -> list[NativeRow]:
    """Fetch the detours from a throw-away guest, and run them here."""
    methods = [method for method in METHODS if method.name in NAMES]
    progress(f"booting {boot}")
    with Guest.boot(boot, progress=progress, icount=True, smp=1) as guest:
        progress("loading djprobes and djp_bench")
        guest.load()
        bench = HitBench(guest)
        captured, symbols = capture(guest, bench, methods, progress)
    progress("running them on this machine")
    times = run_here(assemble(captured, symbols), repetitions)
    return make_rows(methods, captured, times)


def capture(
    guest: Guest, bench: HitBench, methods: Sequence[Method], progress: Progress
) -> tuple[list[Captured], dict[int, str]]:
    """The functions without a probe, then one case for each method; and the names of what
    they call."""
    transport = guest.transport
    cases = []
    called: set[int] = set()
    for function in sorted({method.function for method in methods}):
        start = bench.points()[function][0] - point(function)
        [code] = read_memory(transport, [(start, FUNCTION_BYTES)])
        cases.append(Captured(function, (Piece(start, code),)))
        called |= targets(cases[-1].pieces[0])
    for method in methods:
        progress(f"fetching the detour of {method.name}")
        with bench.attached(method):
            bench.check_text(method)
            at_point = point(method.function)
            start = bench.points()[method.function][0] - at_point
            [code] = read_memory(transport, [(start, FUNCTION_BYTES)])
            plain = next(case for case in cases if case.name == method.function).pieces[0]
            detour_at = _jump(start, code, at_point)
            [detour] = read_memory(transport, [(detour_at, PIECE_BYTES)])
            pieces = [Piece(start, code), Piece(detour_at, detour)]
            others = targets(pieces[1]) - set(range(start, start + FUNCTION_BYTES))
            names = {at: str(name) for at, name in symbolize(transport, others).items()}
            for at in others:
                if names.get(at, "").rpartition(":")[2] in ENTRIES:
                    [entry] = read_memory(transport, [(at, PIECE_BYTES)])
                    pieces.append(Piece(at, entry))
                    called |= targets(pieces[-1])
            called |= others
            cases.append(
                Captured(method.name, (*_function(pieces[0], plain, at_point), *pieces[1:]))
            )
    found = symbolize(transport, called)
    return cases, {at: symbol.name for at, symbol in found.items() if not symbol.offset}


def point(function: str) -> int:
    """Where it is probed, in bytes from its beginning."""
    return BEHIND_SITE if function == "calm" else POINT


def _jump(start: int, code: bytes, at: int) -> int:
    """Where the jump at the probe's place goes."""
    rel = int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
    return start + at + 5 + rel


def _function(probed: Piece, plain: Piece, at: int) -> tuple[Piece, Piece]:
    """The probed function: up to the jump, and what the detour comes back to."""
    body = straight(plain)
    behind = next(one.ip for one in body if one.ip >= probed.address + at + 5)
    rest = behind - probed.address
    return (
        Piece(probed.address, probed.code[: at + 5]),
        Piece(behind, plain.code[rest:], gap=rest - at - 5),
    )


def run_here(detours: str, repetitions: int) -> dict[str, tuple[float, ...]]:
    """Compile and run; ticks of a call of each case, a value for each repetition."""
    with tempfile.TemporaryDirectory(prefix="djp-native-") as name:
        folder = Path(name)
        for source in SOURCES:
            text = resources.files(PACKAGE).joinpath(source).read_text()
            (folder / source).write_text(text)
        (folder / "detours.S").write_text(detours)
        common = ["gcc", "-O2", "-Wall", "-Werror", "-fno-pie", "-fcf-protection=none"]
        kernel = [*common, "-mgeneral-regs-only", "-mno-red-zone", "-c", "callbacks.c"]
        _run(kernel, folder, COMPILE_SECONDS)
        objects = ["harness.c", "detours.S", "callbacks.o"]
        _run([*common, "-no-pie", "-o", "harness", *objects], folder, COMPILE_SECONDS)
        arguments = [str(repetitions), str(ROUNDS), str(CALLS)]
        return parse_times(_run([str(folder / "harness"), *arguments], folder, RUN_SECONDS))


def parse_times(text: str) -> dict[str, tuple[float, ...]]:
    """What the harness printed."""
    found = {}
    for line in text.splitlines():
        name, wrong, *ticks = line.split()
        if wrong != "0":
            raise OracleError(f"{name} on this machine: {wrong} wrong results")
        try:
            found[name] = tuple(float(number) for number in ticks)
        except ValueError as error:
            raise ProtocolError(f"harness: {line!r}") from error
    return found


def make_rows(
    methods: Sequence[Method],
    cases: Sequence[Captured],
    times: dict[str, tuple[float, ...]],
) -> list[NativeRow]:
    """What each adds to the function that it is in."""
    sizes = {case.name: case.pieces for case in cases}
    rows = []
    for method in methods:
        added = [
            one - bare for one, bare in zip(times[method.name], times[method.function], strict=True)
        ]
        body = straight(sizes[method.name][2])
        rows.append(
            NativeRow(
                method=method.name,
                kind=method.kind,
                what=method.what,
                ticks=round(median(added), 1),
                ratio=None,
                spread=round(max(added) - min(added), 1),
                detour_bytes=body[-1].next_ip - body[0].ip,
                processor=processor(),
            )
        )
    base = next((row.ticks for row in rows if row.method == OPTPROBE), None)
    return [replace(row, ratio=round(row.ticks / base, 3)) if base else row for row in rows]


def processor() -> str:
    """The name of this machine's."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _run(argv: Sequence[str], folder: Path, seconds: float) -> str:
    try:
        done = subprocess.run(
            argv, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError as error:
        raise OracleError(
            f"there is no {argv[0]} on this machine", hint="`make bootstrap` installs it"
        ) from error
    if done.returncode:
        raise OracleError(f"{argv[0]} failed ({done.returncode})\n{done.stderr}")
    return done.stdout
