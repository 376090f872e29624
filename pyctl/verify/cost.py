"""What a hit costs: ours, beside a kprobe of mainline's that is not optimised
(``kmod/test/cost.c``). For guests only.

Wall time of an emulated guest says nothing but by comparison: all is measured in one run, in
interleaved rounds, and what counts are medians and their ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pyctl.errors import ProtocolError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.parsing import parse_number
from pyctl.verify.testmodules import kprobe_optimisation

COST = "/sys/kernel/debug/djp_test/cost"
#: Calls of each function in a round, and rounds.
CALLS = 5000
ROUNDS = 9


class Site(StrEnum):
    """What stands in a function that is otherwise the same."""

    BARE = "bare"
    #: Method ``int3``, action ``count``; and with a handler that does what the kprobe's does.
    INT3 = "int3"
    INT3_HANDLER = "int3_handler"
    #: The same of method ``jump``.
    JUMP = "jump"
    JUMP_HANDLER = "jump_handler"
    #: A kprobe: an int3, and its instruction is single-stepped if the kernel is preemptible.
    KPROBE = "kprobe"


@dataclass(frozen=True)
class SiteCost:
    """One site. ``first`` is the byte at its entry; ``calls`` of all rounds, ``wrong`` of
    their results, ``hits`` as its probe has counted them; ``ns`` nanoseconds for each call,
    one value for each round."""

    first: int
    calls: int
    wrong: int
    hits: int
    ns: tuple[float, ...]

    @property
    def median_ns(self) -> float:
        """Nanoseconds for each call, the median of the rounds."""
        return median(self.ns)


@dataclass(frozen=True)
class HitCost:
    """All sites of one run, which compare with each other only."""

    sites: Mapping[Site, SiteCost]

    def added_ns(self, site: Site) -> float:
        """Nanoseconds that a hit adds to a call: the median of the differences from the bare
        function, round by round."""
        bare = self.sites[Site.BARE].ns
        return median(ns - without for ns, without in zip(self.sites[site].ns, bare, strict=True))

    def ratio(self, site: Site, to: Site = Site.KPROBE) -> float:
        """What a hit at ``site`` costs, as a part of what one at ``to`` costs."""
        return self.added_ns(site) / self.added_ns(to)


def hit_cost(guest: Guest, *, calls: int = CALLS, rounds: int = ROUNDS) -> HitCost:
    """Measure in a guest: ``rounds`` times ``calls`` calls of each function."""
    transport = guest.transport
    if not transport.exists(COST):
        guest.load_extra("djp_test", source=SOURCE)
    with kprobe_optimisation(transport, on=False):
        transport.write(COST, f"{calls} {rounds}".encode())
    sites = {}
    for line in transport.read(COST).decode().splitlines():
        name, *numbers = line.split()
        first, made, wrong, hits, *times = [parse_number(text, "cost") for text in numbers]
        sites[Site(name)] = SiteCost(first, made, wrong, hits, tuple(ns / calls for ns in times))
    if sites.keys() != set(Site):
        raise ProtocolError(f"cost: only {', '.join(sites)}")
    return HitCost(sites)
