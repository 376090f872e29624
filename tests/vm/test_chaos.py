"""Commits while everything happens that may come between a commit and its quiescence: CPUs
that come and go, modules, fork storms, real-time hogs, killed writers, several writers,
attempts to suspend. Every count exact, the log clean, the text as it was.

`make soak` does the same for as long as you like.
"""

from __future__ import annotations

import logging
import random

import pytest

from pyctl import Guest
from pyctl.verify.soak import Soaked, Trouble, soak

pytestmark = pytest.mark.vm

log = logging.getLogger(__name__)

#: Commits beside each adversary, and beside all of them together.
COMMITS = 40
#: Functions that the batches are drawn from: to look for more takes longer than to use them.
POOL = 40


def run(guest: Guest, *trouble: Trouble) -> Soaked:
    seed = random.SystemRandom().randrange(1 << 32)
    done = soak(guest, commits=COMMITS, trouble=trouble, seed=seed, pool=POOL)
    log.info("seed %d: %s", seed, done)
    assert done.commits >= COMMITS
    assert done.oracle_hits > 0
    assert (done.threads_wrong, done.threads_hits) == (0, done.threads_calls)
    done.text.check()
    assert done.passed, done
    return done


@pytest.mark.parametrize("trouble", Trouble)
def test_commits_are_exact_beside(watched: Guest, trouble: Trouble) -> None:
    done = run(watched, trouble)
    counts = done.trouble[trouble]
    if trouble is Trouble.SUSPEND:
        # It is worth something only if tasks were frozen to the last.
        assert counts["frozen"] > 0
    elif trouble is Trouble.HOTPLUG:
        assert counts["offline"] == counts["online"] > 0
    elif trouble is Trouble.KILL:
        assert counts["killed"] > 0
    elif trouble is Trouble.WRITERS:
        assert counts["oracle_hits"] > 0


def test_commits_are_exact_beside_all_of_them(watched: Guest) -> None:
    done = run(watched, *Trouble)
    assert set(done.trouble) == set(Trouble)
