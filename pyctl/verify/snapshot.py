"""Two counters read so that equality can be demanded.

Reading takes time, and what is counted goes on meanwhile. So ours is read, then the
oracle's, then ours again: if ours did not move, the oracle's value belongs to the same
moment. (A function that the reading itself calls never stands still: compare others.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyctl.errors import UnstableError
from pyctl.timing import Deadline

K = TypeVar("K")
DEFAULT_SECONDS = 20.0


@dataclass(frozen=True)
class Snapshot(Generic[K]):
    """Both counters at one moment, and how often they had to be read."""

    ours: Mapping[K, int]
    theirs: Mapping[K, int]
    attempts: int

    def differences(self) -> dict[K, tuple[int | None, int | None]]:
        """Key, our value and theirs, where they are not equal; None for a missing key."""
        keys = [*self.ours, *(key for key in self.theirs if key not in self.ours)]
        return {
            key: (self.ours.get(key), self.theirs.get(key))
            for key in keys
            if self.ours.get(key) != self.theirs.get(key)
        }

    @property
    def equal(self) -> bool:
        """Whether both count the same keys and the same numbers."""
        return not self.differences()


def consistent(
    ours: Callable[[], Mapping[K, int]],
    theirs: Callable[[], Mapping[K, int]],
    *,
    seconds: float = DEFAULT_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> Snapshot[K]:
    """Read ours, theirs, ours, until ours did not move between; UnstableError, naming what
    moves, after ``seconds`` (before scaling)."""
    deadline = Deadline.after(seconds)
    before = dict(ours())
    number = 0
    wait = 0.002
    while True:
        number += 1
        other = dict(theirs())
        after = dict(ours())
        if after == before:
            return Snapshot(after, other, number)
        moving = [str(key) for key in after if after[key] != before.get(key)]
        if deadline.expired:
            raise UnstableError(
                f"the counters of {', '.join(moving[:8])} still move after {number} readings",
                moving=moving,
                hint="stop the load first, or compare functions that reading does not call",
            )
        pause(wait)
        wait = min(wait * 2, 0.2)
        before = dict(ours())
