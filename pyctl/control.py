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

from pyctl.errors import (
    ControlError,
    NotLoadedError,
    ProtocolError,
    RefusedError,
    RemoteOSError,
    UsageError,
)
from pyctl.reasons import Reason, parse_reason
from pyctl.transport import Transport

DEBUGFS = "/sys/kernel/debug/djprobes"
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
        Reason.SYMBOL_NOT_FOUND,
        Reason.SYMBOL_AMBIGUOUS,
        Reason.NO_MEMORY,
        Reason.LOCKED_DOWN,
    }
)


@dataclass(frozen=True)
class ProbeStatus:
    """A line of ``probes``. ``address`` is the insertion address; ``hits`` and ``missed``
    are sums over all CPUs."""

    name: str
    target: str
    address: int
    state: str
    method: str
    action: str
    hits: int
    missed: int


@dataclass(frozen=True)
class Location:
    """An address in kernel text, and ``symbol+0xOFF`` when the kernel told it."""

    address: int
    symbol: str | None = None

    def __str__(self) -> str:
        return f"{self.address:#x} {self.symbol}" if self.symbol else f"{self.address:#x}"


@dataclass(frozen=True)
class Relocation:
    """A displaced instruction that is changed: ``offset`` bytes into the region, and how."""

    offset: int
    kind: str


@dataclass(frozen=True)
class Explanation:
    """The answer of ``explain``: can a jump stand at ``target``, and if not, why.

    ``address`` is where the probe would go; ``ftrace`` the ftrace site it would stand
    behind; ``dcr`` the bytes that the jump would displace; ``reason`` is ``Reason.OK`` when
    nothing is in the way. What the kernel gave as ``-`` is None.
    """

    target: str
    address: int | None
    symbol: str | None
    verdict: str
    method: str | None
    reason: Reason | str
    message: str | None
    hint: str | None
    offending: Location | None
    dcr: bytes
    relocations: tuple[Relocation, ...]
    ftrace: int | None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether a jump can stand there."""
        return self.verdict == "jump"


@dataclass(frozen=True)
class Stats:
    """The file ``stats``; see docs/debugfs.md for each key. Times are in nanoseconds,
    ``detour_bytes_*`` in bytes. ``extra`` has the keys that this version does not know."""

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
    extra: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """The file ``features``: ``symbols`` says which kernel symbols were found, ``values``
    has all other keys (``yes``/``no`` as bool, numbers as int)."""

    symbols: Mapping[str, bool]
    values: Mapping[str, bool | int | str]


@dataclass(frozen=True)
class Strategies:
    """The file ``strategy``: what there is, and which is chosen."""

    current: str
    available: tuple[str, ...]


def parse_probes(text: str) -> list[ProbeStatus]:
    """Parse the file ``probes``; columns beyond the eighth are skipped."""
    result = []
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        try:
            name, target, address, state, method, action, hits, missed = columns[:8]
            status = ProbeStatus(
                name, target, int(address, 16), state, method, action, int(hits), int(missed)
            )
        except ValueError as error:
            raise ProtocolError(
                f"probes: line {number} has not the columns of version 1: {line!r}"
            ) from error
        result.append(status)
    return result


def parse_pairs(text: str, file: str, separator: str = ":") -> dict[str, str]:
    """Parse ``key: value`` lines (or ``key value`` with ``separator=" "``)."""
    pairs = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, found, value = line.partition(separator)
        if not found:
            raise ProtocolError(f"{file}: line {number} is not a key and a value: {line!r}")
        pairs[key.strip()] = value.strip()
    return pairs


def parse_location(text: str) -> Location | None:
    """Parse ``0xADDR symbol+0xOFF``; None for ``-``."""
    if text in {"", "-"}:
        return None
    address, _, symbol = text.partition(" ")
    return Location(_number(address, "an address"), symbol.strip() or None)


def parse_explanation(text: str) -> Explanation:
    """Parse what ``explain`` answers."""
    pairs = parse_pairs(text, "explain")
    missing = {"target", "verdict", "reason"} - pairs.keys()
    if missing:
        raise ProtocolError(f"explain: no {', '.join(sorted(missing))} in {text!r}")

    def take(key: str) -> str | None:
        value = pairs.pop(key, "-")
        return None if value in {"-", ""} else value

    address, ftrace = take("address"), take("ftrace")
    try:
        dcr = bytes.fromhex(take("dcr") or "")
    except ValueError as error:
        raise ProtocolError(f"explain: dcr is not hexadecimal bytes: {text!r}") from error
    return Explanation(
        target=take("target") or "",
        address=_number(address, "explain: an address") if address else None,
        symbol=take("symbol"),
        verdict=take("verdict") or "",
        method=take("method"),
        reason=parse_reason(take("reason") or ""),
        message=take("message"),
        hint=take("hint"),
        offending=parse_location(take("offending") or "-"),
        dcr=dcr,
        relocations=_relocations(take("relocations")),
        ftrace=_number(ftrace, "explain: an address") if ftrace else None,
        extra=pairs,
    )


def parse_stats(text: str) -> Stats:
    """Parse ``stats``; a key of version 1 that is missing is an error."""
    pairs = parse_pairs(text, "stats", " ")
    known = [item.name for item in fields(Stats) if item.name != "extra"]
    missing = [name for name in known if name not in pairs]
    if missing:
        raise ProtocolError(f"stats: the kernel does not report {', '.join(missing)}")
    values: dict[str, Any] = {name: _number(pairs.pop(name), f"stats: {name}") for name in known}
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
            number = int(rest) if rest.isdigit() else rest
            values[words[0]] = number if plain is None else plain
    return Features(symbols, values)


def parse_strategies(text: str) -> Strategies:
    """Parse ``strategy``: names, the current one in brackets."""
    words = text.split()
    current = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    if len(current) != 1:
        raise ProtocolError(f"strategy: not exactly one name in brackets: {text!r}")
    return Strategies(current[0], tuple(word.strip("[]") for word in words))


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

    def submit(self, commands: Sequence[str]) -> None:
        """Give commands to ``control`` in one write, so as one batch: all or nothing.

        Raises ControlError, or its subclass RefusedError when an address was refused.
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
        self._write("control", text)

    def probes(self) -> list[ProbeStatus]:
        """All probes there are, whoever made them."""
        return parse_probes(self._read("probes"))

    def explain(self, target: str) -> Explanation:
        """Ask whether a jump can stand at ``target``. ControlError if it can't be resolved."""
        text = f"{check_target(target)}\n"
        try:
            answer = self._transport.transact(f"{self._root}/explain", text.encode())
        except RemoteOSError as error:
            raise self._refusal(error, "explain", text) from error
        return parse_explanation(answer.decode(errors="replace"))

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

    def _read(self, file: str) -> str:
        try:
            return self._transport.read(f"{self._root}/{file}").decode(errors="replace")
        except RemoteOSError as error:
            unreachable = self._unreachable(error)
            if unreachable is None:
                raise
            raise unreachable from error

    def _write(self, file: str, text: str) -> None:
        try:
            self._transport.write(f"{self._root}/{file}", text.encode())
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
            return NotLoadedError(
                f"{host}: djprobes is not loaded (there is no {self._root})",
                hint="load it with `djp load` or Guest.load(); "
                "if it is loaded, mount debugfs at /sys/kernel/debug",
            )
        return None


def _number(text: str, what: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise ProtocolError(f"{what} is not a number: {text!r}") from error


def _relocations(text: str | None) -> tuple[Relocation, ...]:
    if text is None or text == "none":
        return ()
    result = []
    for word in text.replace(",", " ").split():
        offset, _, kind = word.partition(":")
        result.append(Relocation(_number(offset.lstrip("+"), "explain: a relocation"), kind))
    return tuple(result)
