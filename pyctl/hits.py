"""Hits of all probes at once, by the compact file ``hits``, and how fast they grow.

reader = HitReader(Control(transport))
for rates in watch(reader, interval=1.0):
    for rate in rates.probes:           # the fastest first
        print(rate.name, rate.target, rate.hits, rate.per_second)
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyctl.control import Control, ProbeStatus
from pyctl.errors import ProtocolError, RemoteOSError
from pyctl.timing import Deadline, attempts

#: How often names are read again while others add and remove probes under the reader.
PATIENCE = 5


@dataclass(frozen=True)
class Reading:
    """Hits at one moment. ``probes`` are who they belong to, in the same order; their other
    columns are those of the last look at ``probes``. ``at`` is in seconds, of a clock that
    only differences can be told of."""

    at: float
    probes: Sequence[ProbeStatus]
    hits: Sequence[int]


@dataclass(frozen=True)
class Rate:
    """A probe, its hits, and hits a second since the reading before; None if it is new."""

    name: str
    target: str
    hits: int
    per_second: float | None


@dataclass(frozen=True)
class Rates:
    """All probes between two readings ``seconds`` apart, the fastest first."""

    seconds: float
    probes: tuple[Rate, ...]


class HitReader:
    """Reads hits; remembers whose they are until the kernel's table of probes changes."""

    def __init__(self, control: Control, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._clock = clock
        self._compact = True
        self._generation: int | None = None
        self._probes: tuple[ProbeStatus, ...] = ()

    def read(self) -> Reading:
        """All hits, in one consistent reading of the kernel's."""
        for _ in range(PATIENCE if self._compact else 0):
            try:
                start = self._clock()
                found = self._control.hits()
                at = (start + self._clock()) / 2
            except RemoteOSError as error:
                if error.errno != errno.ENOENT:
                    raise
                self._compact = False  # an older kernel module
                break
            # The names were read between two readings of one generation, so they are of it.
            if found.generation == self._generation:
                if len(found.hits) != len(self._probes):
                    raise ProtocolError(
                        f"hits: {len(found.hits)} probes, where probes has {len(self._probes)}"
                    )
                return Reading(at, self._probes, found.hits)
            self._generation, self._probes = found.generation, tuple(self._control.probes())
        self._generation = None
        return self._whole()

    def _whole(self) -> Reading:
        start = self._clock()
        probes = tuple(self._control.probes())
        at = (start + self._clock()) / 2
        return Reading(at, probes, tuple(status.hits for status in probes))


def rates_between(before: Reading, after: Reading) -> Rates:
    """How fast each probe of ``after`` was hit."""
    seconds = after.at - before.at
    known = {
        (status.name, status.address): hits
        for status, hits in zip(before.probes, before.hits, strict=True)
    }
    found = []
    for status, hits in zip(after.probes, after.hits, strict=True):
        earlier = known.get((status.name, status.address))
        # Fewer than before: it is another probe of the same name.
        new = earlier is None or earlier > hits or seconds <= 0
        rate = None if new else (hits - (earlier or 0)) / seconds
        found.append(Rate(status.name, status.target, hits, rate))
    found.sort(key=lambda one: (-(one.per_second or 0.0), -one.hits, one.name))
    return Rates(seconds, tuple(found))


def watch(
    reader: HitReader,
    *,
    interval: float = 1.0,
    rounds: int | None = None,
    pause: Callable[[float], None] | None = None,
) -> Iterator[Rates]:
    """A reading each ``interval`` seconds, ``rounds`` times or without end, compared with
    the one before."""
    before = reader.read()
    done = 0
    while rounds is None or done < rounds:
        (pause or _pass)(interval)
        after = reader.read()
        yield rates_between(before, after)
        before = after
        done += 1


def _pass(seconds: float) -> None:
    for _ in attempts(Deadline(time.monotonic() + seconds, seconds)):
        pass
