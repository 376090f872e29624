"""Deadlines: every wait has one, and all are stretched by one factor."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock; `seconds` is the scaled span it was made with."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float, scale: float = 1.0) -> Deadline:
        """A deadline `seconds` * `scale` from now."""
        span = seconds * scale
        return cls(time.monotonic() + span, span)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self.remaining == 0.0
