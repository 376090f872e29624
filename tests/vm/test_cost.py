"""What a hit costs. Times are logged, never judged: only that all that was timed was hit."""

from __future__ import annotations

import logging

import pytest

from pyctl import Guest
from pyctl.verify.cost import Site, hit_cost

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)

CALLS, ROUNDS = 2000, 5
#: The byte at the entry; None: as it was.
FIRST = {
    Site.BARE: None,
    Site.INT3: 0xCC,
    Site.INT3_HANDLER: 0xCC,
    Site.JUMP: 0xE9,
    Site.JUMP_HANDLER: 0xE9,
    Site.KPROBE: 0xCC,
}


def test_all_that_is_timed_is_hit(watched: Guest) -> None:
    cost = hit_cost(watched, calls=CALLS, rounds=ROUNDS)
    for site, found in cost.sites.items():
        log.info("%s: %.0f ns a call, %.2f of a kprobe", site, found.median_ns, cost.ratio(site))
        assert (found.calls, found.wrong, len(found.ns)) == (CALLS * ROUNDS, 0, ROUNDS)
        assert found.hits == (0 if site is Site.BARE else CALLS * ROUNDS)
        assert (found.first in {0xCC, 0xE9}) == (FIRST[site] is not None)
        assert FIRST[site] in {None, found.first}
