"""The answer of ``explain``: how an address could be probed, and if not by a jump, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pyctl.errors import ProtocolError
from pyctl.methods import Method, State, parse_method, parse_state
from pyctl.parsing import Location, parse_location, parse_number, parse_pairs
from pyctl.reasons import Reason, parse_reason


@dataclass(frozen=True)
class Relocation:
    """A displaced instruction that is changed: ``offset`` bytes into the region, and how."""

    offset: int
    kind: str


@dataclass(frozen=True)
class Source:
    """What makes an offending byte offend: its ``kind`` (``branch``, ``fixup``, ...), and
    where it is."""

    kind: str
    location: Location | None

    def __str__(self) -> str:
        return f"{self.kind} {self.location}" if self.location else self.kind


@dataclass(frozen=True)
class Detour:
    """A detour: its address and its bytes."""

    address: int
    code: bytes


@dataclass(frozen=True)
class Entry:
    """Where the displaced instruction at ``offset`` bytes into the region begins in the
    detour."""

    offset: int
    address: int


class Flags(StrEnum):
    """Who may read the CPU's status flags before they are written again, so whether a detour
    has to save them."""

    #: Nobody, on any path.
    DEAD = "dead"
    #: Only the carry flag may be read: a count leaves it alone, a comparison does not.
    CARRY = "carry"
    LIVE = "live"


@dataclass(frozen=True)
class Explanation:
    """The answer of ``explain``: how ``target`` could be probed, and if not by a jump, why.

    ``address`` is where the probe would go; ``ftrace`` the ftrace site it would stand
    behind; ``verdict`` is ``jump``, ``fallback`` or ``refused``. ``reason`` says why it is
    no plain jump; it is ``Reason.OK`` when nothing is in the way. ``dcr`` are the bytes that
    would be displaced, ``detour`` where to and as what, ``entries`` which instruction goes
    where. ``source`` is what makes ``offending`` offend. ``traps`` are the offsets of int3s
    among the jump's bytes, and ``text`` is what is written over the first bytes. ``state``
    is that of the probe that is there. ``flags`` says whether the flags are dead at
    ``address``, and ``flags_by`` who was found first that may read one, or where the search
    was given up. What the kernel gave as ``-``, or an older one did not tell, is None.
    """

    target: str
    address: int | None
    symbol: str | None
    verdict: str
    method: Method | str | None
    reason: Reason | str
    message: str | None
    hint: str | None
    offending: Location | None
    dcr: bytes
    relocations: tuple[Relocation, ...]
    ftrace: int | None
    source: Source | None = None
    state: State | str | None = None
    traps: tuple[int, ...] = ()
    text: str | None = None
    detour: Detour | None = None
    entries: tuple[Entry, ...] = ()
    flags: Flags | str | None = None
    flags_by: Location | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether a jump can stand there, with int3s among its bytes or without."""
        return self.verdict == "jump"

    @property
    def probeable(self) -> bool:
        """Whether a probe can stand there, by whatever method."""
        return self.verdict in {"jump", "fallback"}


def parse_explanation(text: str) -> Explanation:
    """Parse what ``explain`` answers."""
    pairs = parse_pairs(text, "explain")
    missing = {"target", "verdict", "reason"} - pairs.keys()
    if missing:
        raise ProtocolError(f"explain: no {', '.join(sorted(missing))} in {text!r}")

    def take(key: str) -> str | None:
        value = pairs.pop(key, "-")
        return None if value in {"-", ""} else value

    address, ftrace, method, state = take("address"), take("ftrace"), take("method"), take("state")
    return Explanation(
        target=take("target") or "",
        address=parse_number(address, "explain: an address") if address else None,
        symbol=take("symbol"),
        verdict=take("verdict") or "",
        method=parse_method(method) if method else None,
        reason=parse_reason(take("reason") or ""),
        message=take("message"),
        hint=take("hint"),
        offending=parse_location(take("offending") or "-"),
        dcr=_bytes(take("dcr") or ""),
        relocations=tuple(
            Relocation(offset, kind) for offset, kind in _offsets(take("relocations"))
        ),
        ftrace=parse_number(ftrace, "explain: an address") if ftrace else None,
        source=_source(take("source")),
        state=parse_state(state) if state else None,
        traps=tuple(offset for offset, _ in _offsets(take("traps"))),
        text=take("text"),
        detour=_detour(take("detour")),
        entries=tuple(
            Entry(offset, parse_number(where, "explain: an entry"))
            for offset, where in _offsets(take("entries"))
        ),
        flags=_flags(take("flags")),
        flags_by=parse_location(take("flags_by") or "-"),
        extra=pairs,
    )


def _offsets(text: str | None) -> list[tuple[int, str]]:
    """``+OFF`` or ``+OFF:WORD``, any number of them; nothing for ``none``."""
    if text is None or text == "none":
        return []
    words = (word.partition(":") for word in text.split())
    return [
        (parse_number(offset.removeprefix("+"), "explain: an offset"), more)
        for offset, _, more in words
    ]


def _source(text: str | None) -> Source | None:
    if text is None:
        return None
    kind, _, where = text.partition(" ")
    return Source(kind, parse_location(where.strip()))


def _flags(text: str | None) -> Flags | str | None:
    """None where nothing is displaced; the text itself when a newer module sent it."""
    if text == "-":
        return None
    return Flags(text) if text in set(Flags) else text


def _detour(text: str | None) -> Detour | None:
    if text is None:
        return None
    address, _, code = text.partition(" ")
    return Detour(parse_number(address, "explain: a detour"), _bytes(code))


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ProtocolError(f"explain: these are not hexadecimal bytes: {text!r}") from error
