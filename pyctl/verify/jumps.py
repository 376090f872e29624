"""Commit, and wait until every probe of a set is what its method makes it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from pyctl.errors import DjprobesError
from pyctl.methods import SETTLED
from pyctl.probes import CommitResult, Probes
from pyctl.timing import Deadline, attempts

DEFAULT_SECONDS = 30.0


class StillInBypassError(DjprobesError):
    """Some probes did not get their jump in time. They fire all the same, through the int3."""


@dataclass(frozen=True)
class Committed:
    """``first`` is the one commit that was asked for; ``seconds`` pass from its start until
    the last probe that is to be a jump is one. If ``first`` deferred sites, djprobes itself
    tried those again meanwhile, ``retries`` times."""

    first: CommitResult
    seconds: float
    retries: int


def commit_all(
    probes: Probes, names: Collection[str], *, seconds: float = DEFAULT_SECONDS
) -> Committed:
    """One commit; StillInBypassError if not all of ``names`` are settled after ``seconds``
    (before scaling): a jump, or an int3 or kprobe that stays."""
    wanted = set(names)
    start = time.monotonic()
    before = probes.stats().retries
    first = probes.commit()
    waiting: list[str] = []
    for _ in attempts(Deadline.after(seconds)):
        waiting = [s.target for s in probes.list() if s.name in wanted and s.state not in SETTLED]
        if not waiting:
            passed = time.monotonic() - start
            return Committed(first, passed, probes.stats().retries - before)
    raise StillInBypassError(
        f"{len(waiting)} of {len(wanted)} probes have no jump yet: {', '.join(waiting[:5])}",
        hint="they fire through the int3; a task stood in those bytes at every attempt",
    )
