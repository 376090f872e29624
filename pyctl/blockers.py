"""What holds up a jump or a reclaim, as the file ``blockers`` tells it."""

from __future__ import annotations

from dataclasses import dataclass

from pyctl.errors import ProtocolError


@dataclass(frozen=True)
class Blocker:
    """A line of ``blockers``: a task that stands, or may stand, where nobody may.

    ``kind`` is ``jump`` (a site stays in bypass) or ``reclaim`` (a retired detour is not
    freed); ``site`` is the address of the site, or of the one that the detour belonged to;
    ``address`` the word that was found. ``pid`` and ``comm`` are None where no task is known.
    """

    kind: str
    site: int
    site_symbol: str
    pid: int | None
    address: int
    symbol: str
    comm: str | None


def parse_blockers(text: str) -> list[Blocker]:
    """Parse the file ``blockers``; it is empty if nothing is held up."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            kind, site, site_symbol, pid, address, symbol, comm = line.split(" ", 6)
            blocker = Blocker(
                kind=kind,
                site=int(site, 16),
                site_symbol=site_symbol,
                pid=int(pid) or None,
                address=int(address, 16),
                symbol=symbol,
                comm=None if comm == "-" else comm,
            )
        except ValueError as error:
            raise ProtocolError(
                f"blockers: line {number} has not the columns of version 1: {line!r}"
            ) from error
        found.append(blocker)
    return found
