"""The census: every instruction of the running kernel judged, in the kernel.

``Probes.census()`` asks for it. :class:`CensusReader` takes the file's lines one by one, as
they come, because the kernel tells its progress in the first of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyctl.errors import ProtocolError
from pyctl.methods import Method
from pyctl.reasons import Reason, parse_reason

#: Bytes of text judged, and how many there are.
Progress = Callable[[int, int], None]
PEERS = ("kprobe", "optprobe")


@dataclass(frozen=True)
class CensusPart:
    """The kernel's own text, or a module's: ``size`` in bytes, the rest counts sites."""

    name: str
    size: int
    sites: int
    padding: int
    methods: Mapping[Method, int]
    peers: Mapping[str, int]


@dataclass(frozen=True)
class Census:
    """How each instruction could be probed.

    ``sites`` counts the instructions judged, without the ``padding`` that nothing reaches.
    ``methods`` has all five methods, ``reasons`` those that occur (``ok`` too), ``cells``
    both at once; each adds up to ``sites``. ``peers`` are mainline's rules on the same
    sites: ``kprobe``, those that register_kprobe() accepts, and ``optprobe``, those of them
    that it would make a jump. ``parts`` are the kernel and its modules; ``seconds`` is what
    it took.
    """

    kernel: str
    sites: int
    padding: int
    methods: Mapping[Method, int]
    reasons: Mapping[Reason | str, int]
    cells: Mapping[tuple[Method, Reason | str], int]
    peers: Mapping[str, int]
    parts: tuple[CensusPart, ...]
    seconds: float

    @property
    def probeable(self) -> int:
        """Sites where some probe can stand."""
        return self.sites - self.methods[Method.REFUSED]


class CensusReader:
    """Takes the lines of ``census`` as they come; ``progress`` hears how far the kernel is."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._kernel: str | None = None
        self._numbers: dict[str, int] = {}
        self._methods: dict[Method, int] = {}
        self._reasons: dict[Reason | str, int] = {}
        self._cells: dict[tuple[Method, Reason | str], int] = {}
        self._peers: dict[str, int] = {}
        self._parts: list[CensusPart] = []

    def feed(self, line: str) -> None:
        """One line. One that starts with an unknown word is skipped."""
        try:
            self._take(line.split())
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"census: this line is not of version 1: {line!r}") from error

    def finish(self) -> Census:
        """The census, when all lines were taken. ProtocolError if something is missing, or
        if the tables do not add up."""
        missing = [name for name in ("sites", "padding", "ns") if name not in self._numbers]
        missing += [f"method {method}" for method in Method if method not in self._methods]
        missing += [f"peer {peer}" for peer in PEERS if peer not in self._peers]
        if self._kernel is None:
            missing.append("kernel")
        if missing:
            raise ProtocolError(
                f"census: it ended without {', '.join(missing)}",
                hint="the kernel log may say why the kernel gave it up",
            )
        made = Census(
            kernel=self._kernel or "",
            sites=self._numbers["sites"],
            padding=self._numbers["padding"],
            methods={method: self._methods[method] for method in Method},
            reasons=self._reasons,
            cells=self._cells,
            peers=self._peers,
            parts=tuple(self._parts),
            seconds=self._numbers["ns"] / 1e9,
        )
        _check(made)
        return made

    def _take(self, words: list[str]) -> None:
        match words:
            case ["progress", done, total, *_]:
                if self._progress is not None:
                    self._progress(int(done), int(total))
            case ["kernel", release, *_]:
                self._kernel = release
            case ["sites" | "padding" | "ns" as name, count, *_]:
                self._numbers[name] = int(count)
            case ["method", name, count, *_]:
                self._methods[Method(name)] = int(count)
            case ["reason", code, count, *_]:
                self._reasons[parse_reason(code)] = int(count)
            case ["cell", name, code, count, *_]:
                self._cells[Method(name), parse_reason(code)] = int(count)
            case ["peer", name, count, *_]:
                self._peers[name] = int(count)
            case ["part", name, *numbers]:
                self._parts.append(_part(name, [int(number) for number in numbers]))


def parse_census(text: str) -> Census:
    """Parse the whole of ``census``."""
    reader = CensusReader()
    for line in text.splitlines():
        reader.feed(line)
    return reader.finish()


def _part(name: str, numbers: list[int]) -> CensusPart:
    size, sites, padding = numbers[:3]
    methods = dict(zip(Method, numbers[3:8], strict=True))
    peers = dict(zip(PEERS, numbers[8:10], strict=True))
    return CensusPart(name, size, sites, padding, methods, peers)


def _check(census: Census) -> None:
    """Every total is told in two ways at least; ProtocolError where they differ."""
    by_method: Counter[Method] = Counter()
    by_reason: Counter[Reason | str] = Counter()
    for (method, reason), count in census.cells.items():
        by_method[method] += count
        by_reason[reason] += count
    parts = census.parts
    pairs: list[tuple[str, object, object]] = [
        ("the methods", sum(census.methods.values()), census.sites),
        ("the reasons", sum(census.reasons.values()), census.sites),
        ("the cells by method", _counts(by_method), _counts(census.methods)),
        ("the cells by reason", _counts(by_reason), _counts(census.reasons)),
        ("the parts' sites", sum(part.sites for part in parts), census.sites),
        ("the parts' padding", sum(part.padding for part in parts), census.padding),
    ]
    pairs += [
        (f"the parts' {method}", sum(part.methods[method] for part in parts), total)
        for method, total in census.methods.items()
    ]
    pairs += [
        (f"the parts' {peer}", sum(part.peers[peer] for part in parts), census.peers[peer])
        for peer in PEERS
    ]
    pairs += [
        (f"the methods of {part.name}", sum(part.methods.values()), part.sites) for part in parts
    ]
    for what, found, wanted in pairs:
        if found != wanted:
            raise ProtocolError(f"census: {what} add up to {found}, not to {wanted}")
    if not 0 <= census.peers["optprobe"] <= census.peers["kprobe"] <= census.sites:
        raise ProtocolError(f"census: mainline's numbers can't be: {dict(census.peers)}")


def _counts(table: Mapping[Method, int] | Mapping[Reason | str, int]) -> dict[str, int]:
    """Without zeros, which may be left out."""
    return {str(key): count for key, count in table.items() if count}
