"""Deadlines, with one scale factor for slow machines.

``DJP_TIMEOUT_SCALE`` (a number, 1 if unset) stretches every deadline of the package;
there are no fixed sleeps.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyctl.errors import UsageError

SCALE_VARIABLE = "DJP_TIMEOUT_SCALE"


def timeout_scale() -> float:
    """The factor by which deadlines are stretched, from the environment."""
    text = os.environ.get(SCALE_VARIABLE, "1")
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not (scale > 0 and math.isfinite(scale)):
        raise UsageError(
            f"{SCALE_VARIABLE} is {text!r}, which is not a positive number",
            hint=f"set {SCALE_VARIABLE}=3, say, to wait three times as long for everything",
        )
    return scale


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock; made with :meth:`after`."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline ``seconds`` from now, stretched by the scale factor."""
        scaled = seconds * timeout_scale()
        return cls(time.monotonic() + scaled, scaled)

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return time.monotonic() >= self.at


def attempts(deadline: Deadline, pause: Callable[[float], None] = time.sleep) -> Iterator[int]:
    """Count attempts until ``deadline``, with growing pauses (5 ms to 250 ms) between them.

    There is always a first attempt.
    """
    wait, number = 0.005, 0
    while True:
        yield number
        if deadline.expired:
            return
        pause(min(wait, deadline.remaining))
        wait, number = min(wait * 2, 0.25), number + 1
