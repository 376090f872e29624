"""What the kernel says about quiescence: which strategy obtains it, what holds it up, and
what bounds it. ``docs/debugfs.md`` describes the files ``strategy`` and ``blockers``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from pyctl.errors import ProtocolError, UsageError
from pyctl.parsing import parse_number

#: Chosen for the user: the best sound strategy that the running kernel offers.
AUTO = "auto"
#: The kernel's module parameters are unsigned int.
UINT_MAX = (1 << 32) - 1


class BlockerKind(StrEnum):
    """What is held up."""

    #: A site stays in bypass.
    JUMP = "jump"
    #: A retired detour is not freed.
    RECLAIM = "reclaim"


@dataclass(frozen=True)
class Blocker:
    """A line of ``blockers``: one thing that the last quiescence could not do, and the task
    that it found in the way.

    ``site`` is the insertion address (of a retired detour: the one that it belonged to),
    ``address`` the word that was found, in a register or on a stack. ``site_symbol`` and
    ``address_symbol`` name them. ``pid`` is 0 and ``comm`` ``-`` where no task is known.
    """

    kind: BlockerKind | str
    site: int
    site_symbol: str
    pid: int
    address: int
    address_symbol: str
    comm: str

    @property
    def task(self) -> str:
        """``comm[pid]``, or ``an unknown task``."""
        return f"{self.comm}[{self.pid}]" if self.pid else "an unknown task"

    def __str__(self) -> str:
        what = "detour of" if self.kind == BlockerKind.RECLAIM else "jump at"
        return (
            f"the {what} {self.site_symbol} waits: "
            f"{self.task} is at {self.address_symbol} ({self.address:#x})"
        )


@dataclass(frozen=True)
class Strategies:
    """The file ``strategy``: what there is, and which is chosen."""

    current: str
    available: tuple[str, ...]


@dataclass(frozen=True)
class Tunables:
    """The module parameters that bound commits and reclaim.

    ``deadline_ms``: a commit that was not complete after so many milliseconds returns, and
    the rest is retried in the background. ``reclaim_batch``: so many retired detours are
    reclaimed without being asked. ``reclaim_age_ms``: so are fewer, when the oldest has
    waited for so long (milliseconds).
    """

    deadline_ms: int = 2_000
    reclaim_batch: int = 1_000
    reclaim_age_ms: int = 10_000

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or not 0 < value <= UINT_MAX:
                unit = "milliseconds" if item.name.endswith("_ms") else "detours"
                raise UsageError(
                    f"{item.name} can't be {value!r}",
                    hint=f"a whole number of {unit}, 1 to {UINT_MAX}",
                )

    def changes(self, before: Tunables) -> Mapping[str, int]:
        """The parameters, by name, in which this differs from ``before``."""
        names = (item.name for item in fields(self))
        return {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(before, name)
        }


def parse_strategies(text: str) -> Strategies:
    """Parse ``strategy``: names, the current one in brackets."""
    words = text.split()
    current = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    if len(current) != 1:
        raise ProtocolError(f"strategy: not exactly one name in brackets: {text!r}")
    return Strategies(current[0], tuple(word.strip("[]") for word in words))


def parse_blockers(text: str) -> tuple[Blocker, ...]:
    """Parse ``blockers``; a task's name is last, as it may hold spaces."""
    result = []
    # A task may call itself anything, so only a newline ends a line.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            kind, site, site_symbol, pid, address, address_symbol, comm = line.split(" ", 6)
        except ValueError as error:
            raise ProtocolError(
                f"blockers: line {number} has not seven columns: {line!r}"
            ) from error
        result.append(
            Blocker(
                kind=BlockerKind(kind) if kind in set(BlockerKind) else kind,
                site=parse_number(site, "blockers: a site"),
                site_symbol=site_symbol,
                pid=parse_number(pid, "blockers: a pid"),
                address=parse_number(address, "blockers: an address"),
                address_symbol=address_symbol,
                comm=comm,
            )
        )
    return tuple(result)
