"""The files of djprobes in debugfs, version 1, read and written exactly as
``docs/debugfs.md`` describes them.

The ``parse_*`` functions turn a file's text into frozen values; :class:`Control` puts them
together with a transport. What a newer module adds at the end of a line, or as another
key, is kept or skipped, never an error.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pyctl.census import Census, CensusReader, Progress
from pyctl.errors import (
    ControlError,
    NotLoadedError,
    ProtocolError,
    RefusedError,
    RemoteCommandError,
    RemoteOSError,
    UsageError,
)
from pyctl.explanation import Explanation, parse_explanation
from pyctl.maps import MapEntry, parse_maps
from pyctl.methods import Method, State, parse_method, parse_state
from pyctl.options import Options, parse_options
from pyctl.parsing import parse_number, parse_pairs
from pyctl.quiescence import (
    Blocker,
    Strategies,
    Tunables,
    parse_blockers,
    parse_strategies,
)
from pyctl.reasons import Reason, parse_reason
from pyctl.transport import Transport
from pyctl.transport.base import Sent

DEBUGFS = "/sys/kernel/debug/djprobes"
PARAMETERS = "/sys/module/djprobes/parameters"
MAX_BATCH = 16 << 20
MAX_NAME = 63

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
#: Reasons that speak of the command, not of the address.
COMMAND_REASONS = frozenset(
    {
        Reason.OK,
        Reason.SYNTAX,
        Reason.TOO_LONG,
        Reason.BAD_NAME,
        Reason.DUPLICATE_NAME,
        Reason.NO_SUCH_PROBE,
        Reason.NOT_SUPPORTED,
        Reason.BAD_OFFSET,
        Reason.BAD_FIELD,
        Reason.BAD_VALUE,
        Reason.SYMBOL_NOT_FOUND,
        Reason.SYMBOL_AMBIGUOUS,
        Reason.NO_MEMORY,
        Reason.LOCKED_DOWN,
        Reason.DETOURS_BUSY,
    }
)


@dataclass(frozen=True)
class Extent:
    """Where code of ours stands: its address and its length in bytes."""

    address: int
    length: int


@dataclass(frozen=True)
class ProbeStatus:
    """A line of ``probes``. ``address`` is the insertion address; ``hits`` and ``missed``
    are sums over all CPUs. ``reason`` says why it is not a plain jump. ``method`` is None
    for a probe whose module has gone, ``detour`` for one that has none now. ``options`` are
    text if a newer module has one that is not known here; ``unreadable`` counts what was no
    hit because a field could not be read."""

    name: str
    target: str
    address: int
    state: State | str
    method: Method | str | None
    action: str
    hits: int
    missed: int
    reason: Reason | str
    detour: Extent | None
    options: Options | str = field(default_factory=Options)
    unreadable: int = 0


@dataclass(frozen=True)
class HitTable:
    """The file ``hits``: those of all probes, in the order of ``probes``, at one moment.
    ``generation`` is another one whenever a probe was added or removed."""

    generation: int
    hits: tuple[int, ...]


@dataclass(frozen=True)
class Stats:
    """The file ``stats``; see docs/debugfs.md for each key. Times are in nanoseconds,
    ``detour_bytes_*`` in bytes. ``extra`` has the keys that this version does not know.

    ``last_stop_ns`` is the longest time that any CPU was kept from running tasks by the last
    commit or in the background since, ``last_commit_ns`` the last ``commit`` from its
    beginning to its return. ``tasks_moved`` counts what strategy ``fixup`` has moved, ever.
    ``counters_near`` are reached by an instruction's own displacement, ``counters_far`` need
    a register; None if an older module does not tell.
    """

    probes: int
    sites: int
    sites_jump: int
    sites_bypass: int
    commits: int
    commits_partial: int
    patched: int
    deferred: int
    retries: int
    last_stop_ns: int
    max_stop_ns: int
    last_quiescence_ns: int
    last_tasks: int
    last_words: int
    detour_bytes_live: int
    detour_bytes_retired: int
    detours_reclaimed: int
    recursion_missed: int
    sites_int3: int
    sites_kprobe: int
    detour_bytes_mapped: int
    detours_retired: int
    tasks_moved: int
    last_commit_ns: int
    counters_near: int | None = None
    counters_far: int | None = None
    extra: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """The file ``features``: ``symbols`` says which kernel symbols were found, ``values``
    has all other keys (``yes``/``no`` as bool, numbers as int)."""

    symbols: Mapping[str, bool]
    values: Mapping[str, bool | int | str]


def parse_probes(text: str) -> list[ProbeStatus]:
    """Parse the file ``probes``. Columns beyond the twelfth are skipped; the last two may be
    missing, as an older kernel module does not have them."""
    result = []
    options: dict[str, Options | str] = {"-": Options()}
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        try:
            name, target, address, state, method, action, hits, missed, reason, detour = columns[
                :10
            ]
            chosen = columns[10] if len(columns) > 10 else "-"
            unreadable = columns[11] if len(columns) > 11 else "0"
            if chosen not in options:
                options[chosen] = parse_options(chosen)
            status = ProbeStatus(
                name=name,
                target=target,
                address=int(address, 16),
                state=parse_state(state),
                method=None if method == "-" else parse_method(method),
                action=action,
                hits=int(hits),
                missed=int(missed),
                reason=parse_reason(reason),
                detour=_extent(detour),
                options=options[chosen],
                unreadable=int(unreadable),
            )
        except ValueError as error:
            raise ProtocolError(
                f"probes: line {number} has not the columns of version 1: {line!r}"
            ) from error
        result.append(status)
    return result


def parse_hits(text: str) -> HitTable:
    """Parse ``hits``."""
    words = text.split()
    try:
        generation, count, *hits = map(int, words)
    except ValueError as error:
        raise ProtocolError(f"hits: not all of it are numbers: {text[:80]!r}") from error
    if count != len(hits):
        raise ProtocolError(f"hits: {len(hits)} numbers, where {count} were announced")
    return HitTable(generation, tuple(hits))


def parse_stats(text: str) -> Stats:
    """Parse ``stats``; a key that was in it from the beginning and is missing is an error."""
    pairs = parse_pairs(text, "stats", " ")
    later = {item.name for item in fields(Stats) if item.default is None}
    known = [
        item.name
        for item in fields(Stats)
        if item.name != "extra" and (item.name in pairs or item.name not in later)
    ]
    missing = [name for name in known if name not in pairs]
    if missing:
        raise ProtocolError(f"stats: the kernel does not report {', '.join(missing)}")
    values: dict[str, Any] = {
        name: parse_number(pairs.pop(name), f"stats: {name}") for name in known
    }
    extra = {key: int(text) if text.isdigit() else text for key, text in pairs.items()}
    return Stats(**values, extra=extra)


def parse_features(text: str) -> Features:
    """Parse ``features``."""
    symbols: dict[str, bool] = {}
    values: dict[str, bool | int | str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "symbol":
            symbols[words[1]] = words[2] == "yes"
        elif words:
            rest = " ".join(words[1:])
            plain = {"yes": True, "no": False}.get(rest)
            number = int(rest) if rest.isdecimal() else rest
            values[words[0]] = number if plain is None else plain
    return Features(symbols, values)


def parse_last_error(text: str, *, errno: int, written: str, file: str = "control") -> ControlError:
    """The exception for a refused write, from what ``last_error`` says about it.

    RefusedError when the reason speaks of an address, else ControlError. An empty or
    unreadable ``last_error`` still gives an exception, with errno and text.
    """
    try:
        pairs = parse_pairs(text, "last_error")
    except ProtocolError:
        pairs = {}

    def take(key: str) -> str | None:
        value = pairs.get(key, "-")
        return None if value in {"-", ""} else value

    def number(key: str) -> int | None:
        value = take(key)
        return int(value) if value and value.isdigit() else None

    code = take("reason")
    about_address = code is not None and code not in COMMAND_REASONS
    return (RefusedError if about_address else ControlError)(
        errno=errno,
        written=written,
        file=file,
        line=number("line"),
        text=take("text"),
        token=take("token"),
        column=number("column"),
        reason=parse_reason(code) if code else None,
        message=take("message"),
        hint=take("hint"),
        offending=take("offending"),
        owner=take("owner"),
    )


def check_name(name: str) -> str:
    """``name`` if a probe can be called so; UsageError otherwise."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a probe can't be called {name!r}",
            hint=f"a letter or _, then letters, digits and _; at most {MAX_NAME} characters",
        )
    return name


def check_target(target: str) -> str:
    """``target`` if it is one word; whether it exists, only the kernel knows."""
    if not target or not target.isprintable() or target.split() != [target] or target[0] == "#":
        raise UsageError(
            f"{target!r} is not a target",
            hint="write [MODULE:]SYMBOL[+OFFSET] or 0xADDRESS, without spaces",
        )
    return target


def check_method(name: str) -> Method:
    """``name`` as a method that can be asked for; UsageError otherwise."""
    offered = [method for method in Method if method is not Method.REFUSED]
    if name not in offered:
        raise UsageError(f"there is no method {name!r}", hint=f"there are {', '.join(offered)}")
    return Method(name)


class Control:
    """The debugfs files of djprobes on one host. Holds nothing but the transport."""

    def __init__(self, transport: Transport, root: str = DEBUGFS) -> None:
        self._transport = transport
        self._root = root

    @property
    def transport(self) -> Transport:
        """The way to the host."""
        return self._transport

    def loaded(self) -> bool:
        """Whether the module's folder is there."""
        return self._transport.exists(self._root)

    def submit(self, commands: Sequence[str], *, sent: Sent | None = None) -> None:
        """Give commands to ``control`` in one write, so as one batch: all or nothing.

        ``sent`` hears how many bytes of it have gone to the host. Raises ControlError, or its
        subclass RefusedError when an address was refused.
        """
        if not commands:
            return
        text = "\n".join(commands) + "\n"
        if len(text.encode()) > MAX_BATCH:
            raise UsageError(
                f"{len(commands)} commands are {len(text.encode())} bytes; "
                f"one write takes at most {MAX_BATCH}",
                hint="split them; each write is a batch of its own",
            )
        self._write("control", text, sent)

    def probes(self) -> list[ProbeStatus]:
        """All probes there are, whoever made them."""
        return parse_probes(self._read("probes"))

    def hits(self) -> HitTable:
        """The hits of all probes, and nothing else."""
        return parse_hits(self._read("hits"))

    def maps(self) -> tuple[MapEntry, ...]:
        """What probes with ``hist=`` or ``by=`` have counted."""
        return parse_maps(self._read("maps"))

    def explain(self, target: str, options: Options | None = None) -> Explanation:
        """Ask how ``target`` could be probed, with these options. ControlError if it can't
        be resolved."""
        words = options.words() if options else ()
        text = f"{' '.join([check_target(target), *words])}\n"
        try:
            answer = self._transport.transact(f"{self._root}/explain", text.encode())
        except RemoteOSError as error:
            raise self._refusal(error, "explain", text) from error
        return parse_explanation(answer.decode(errors="replace"))

    def census(self, progress: Progress | None = None) -> Census:
        """Let the kernel judge every instruction; takes tens of seconds on an emulated guest.
        ``progress`` hears the bytes of text judged, and how many there are."""
        reader = CensusReader(progress)
        with self._transport.spawn(["cat", f"{self._root}/census"]) as process:
            while (line := process.read_line()) is not None:
                reader.feed(line)
            status = process.wait()
            words = process.stderr_tail()
        if status:
            if not self.loaded():
                raise self._not_loaded()
            raise RemoteCommandError(
                process.argv, status, stderr=words.encode(), host=self._transport.host
            )
        return reader.finish()

    def stats(self) -> Stats:
        """The counters of the whole module."""
        return parse_stats(self._read("stats"))

    def features(self) -> Features:
        """What the running kernel offers."""
        return parse_features(self._read("features"))

    def strategies(self) -> Strategies:
        """The quiescence strategies."""
        return parse_strategies(self._read("strategy"))

    def choose_strategy(self, name: str) -> None:
        """Make ``name`` the current strategy."""
        available = self.strategies().available
        if name not in available:
            raise UsageError(
                f"this kernel module has no strategy {name!r}",
                hint=f"it has {', '.join(available)}",
            )
        self._write("strategy", f"{name}\n")

    def blockers(self) -> tuple[Blocker, ...]:
        """What the last proof could not do, and the tasks in the way; at most 64."""
        return parse_blockers(self._read("blockers"))

    def reclaim(self) -> None:
        """Free all retired detours now. ControlError with ``Reason.DETOURS_BUSY`` and the
        task as ``owner`` if some are still in use at the deadline."""
        self.submit(["reclaim"])

    def tunables(self) -> Tunables:
        """The module parameters that can be changed at run time."""
        values = {
            item.name: parse_number(self._read(item.name, PARAMETERS).strip(), item.name)
            for item in fields(Tunables)
        }
        return Tunables(**values)

    def tune(self, wanted: Tunables) -> None:
        """Write those module parameters that are not yet as ``wanted``."""
        for name, value in wanted.changes(self.tunables()).items():
            self._transport.write(f"{PARAMETERS}/{name}", f"{value}\n".encode())

    def _read(self, file: str, folder: str | None = None) -> str:
        try:
            path = f"{folder or self._root}/{file}"
            return self._transport.read(path).decode(errors="replace")
        except RemoteOSError as error:
            unreachable = self._unreachable(error)
            if unreachable is None:
                raise
            raise unreachable from error

    def _write(self, file: str, text: str, sent: Sent | None = None) -> None:
        try:
            self._transport.write(f"{self._root}/{file}", text.encode(), sent=sent)
        except RemoteOSError as error:
            raise self._refusal(error, file, text) from error

    def _refusal(self, error: RemoteOSError, file: str, written: str) -> Exception:
        """What to raise for a failed write: the kernel's own words, if it has any."""
        try:
            words = self._transport.read(f"{self._root}/last_error").decode(errors="replace")
        except RemoteOSError:
            words = ""
        # Only without such words does the errno speak of the file itself: a blacklisted
        # address is EPERM and an unknown symbol ENOENT, too.
        unreachable = None if words.strip() else self._unreachable(error)
        return unreachable or parse_last_error(words, errno=error.errno, written=written, file=file)

    def _unreachable(self, error: RemoteOSError) -> NotLoadedError | None:
        host = self._transport.host
        if error.errno in {errno.EACCES, errno.EPERM}:
            return NotLoadedError(
                f"{host}: {error.path}: {error.strerror}",
                hint="the files of djprobes are for root only, and shut under kernel lockdown",
            )
        if error.errno == errno.ENOENT and not self.loaded():
            return self._not_loaded()
        return None

    def _not_loaded(self) -> NotLoadedError:
        return NotLoadedError(
            f"{self._transport.host}: djprobes is not loaded (there is no {self._root})",
            hint="load it with `djp load` or Guest.load(); "
            "if it is loaded, mount debugfs at /sys/kernel/debug",
        )


def _extent(text: str) -> Extent | None:
    """``0xADDR+LEN``, or ``-``; ValueError for anything else."""
    if text == "-":
        return None
    address, _, length = text.partition("+")
    return Extent(int(address, 16), int(length))
