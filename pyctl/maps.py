"""What probes with ``hist=`` or ``by=`` count: the file ``maps``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pyctl.errors import ProtocolError
from pyctl.parsing import parse_number

#: As the kernel writes what could not stand in a line: a backslash and three octal digits.
ESCAPE = re.compile(r"\\([0-7]{3})")


class MapKind(StrEnum):
    """What a probe's hits are counted by."""

    #: A field's powers of two.
    HIST = "hist"
    CPU = "cpu"
    PID = "pid"
    COMM = "comm"
    #: Hits for whose key there was no room.
    OTHER = "other"


@dataclass(frozen=True)
class MapEntry:
    """A line of ``maps``: ``count`` hits of the probe ``name`` had this ``key``.

    The key is ``LOW-HIGH`` for ``hist``, a number for ``cpu`` and ``pid``, a task's name for
    ``comm``, and ``-`` for ``other``. The counts of a probe add up to its hits.
    """

    name: str
    kind: MapKind | str
    count: int
    key: str

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest value of a bucket of ``hist``."""
        low, _, high = self.key.partition("-")
        return parse_number(low, "maps: a bound"), parse_number(high, "maps: a bound")


def parse_maps(text: str) -> tuple[MapEntry, ...]:
    """Parse ``maps``."""
    result = []
    # A task may call itself anything, so only a newline ends a line, and the key is the rest.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            name, kind, count, key = line.split(" ", 3)
        except ValueError as error:
            raise ProtocolError(f"maps: line {number} has not four columns: {line!r}") from error
        result.append(
            MapEntry(
                name,
                MapKind(kind) if kind in set(MapKind) else kind,
                parse_number(count, "maps: a count"),
                ESCAPE.sub(lambda match: chr(int(match[1], 8)), key),
            )
        )
    return tuple(result)


def bucket_of(value: int) -> str:
    """The key of the bucket of ``hist`` that counts ``value``."""
    low = 1 << (value.bit_length() - 1) if value else 0
    return f"{low}-{2 * low - 1 if low else 0}"
