"""Adversaries of a commit, as workloads: while each runs, somebody else commits.

For guests: they take CPUs off line, starve tasks, and kill processes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pyctl.control import DEBUGFS
from pyctl.workloads import Workload


@dataclass(frozen=True)
class Adversary(Workload):
    """Base of those that share one script; ``name`` is its kind."""

    script: ClassVar[str] = "pyctl.verify.remote.chaos"

    def parameters(self) -> dict[str, Any]:
        """What the script is told."""
        return {"kind": self.name, **asdict(self)}


@dataclass(frozen=True)
class Hotplug(Adversary):
    """CPUs but the first go off line and come back. Counts ``offline``, ``online``, and
    ``busy`` (refused for now)."""

    name: ClassVar[str] = "hotplug"
    seed: int = 0


@dataclass(frozen=True)
class Hogs(Adversary):
    """On each CPU a SCHED_FIFO process that computes for ``burst_ms`` milliseconds at a time,
    with RT throttling off and on by turns. Counts ``burst``."""

    name: ClassVar[str] = "hogs"
    burst_ms: int = 40


@dataclass(frozen=True)
class Storm(Adversary):
    """``width`` processes that fork as fast as they can. Counts ``fork``."""

    name: ClassVar[str] = "storm"
    width: int = 4


@dataclass(frozen=True)
class Suspend(Adversary):
    """Attempts to suspend, which freeze everything before a device of djp_test refuses.
    Counts ``attempt``, ``frozen`` (that came so far), ``aborted`` (that did not)."""

    name: ClassVar[str] = "suspend"
    refusals: str = "/sys/kernel/debug/djp_test/refusals"


@dataclass(frozen=True)
class Mortal(Adversary):
    """Processes that add a probe at ``function``, commit and remove it, until SIGKILL comes
    after ``ms`` milliseconds at most. Counts ``killed``."""

    name: ClassVar[str] = "mortal"
    control: str = f"{DEBUGFS}/control"
    function: str = "vfs_write"
    ms: int = 400
    seed: int = 0


@dataclass(frozen=True)
class Commits(Workload):
    """A writer: batches of probes that are added, committed, driven and removed, every count
    checked; see ``pyctl/verify/remote/commits.py``. Operations are batches, of two commits
    each.

    ``writer`` names its probes; ``oracles`` are functions that only it calls, ``pool`` ones
    that everybody calls, of which ``batch`` at most are probed at once. Counts ``batch``,
    ``commit``, ``probe``, ``oracle_hits``, ``pool_hits``, ``late``, ``busy``.
    """

    name: ClassVar[str] = "commits"
    script: ClassVar[str] = "pyctl.verify.remote.commits"
    writer: str = "soak"
    oracles: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    batch: int = 16
    root: str = DEBUGFS
    seed: int = 0

    def parameters(self) -> dict[str, Any]:
        """What the script is told."""
        facts = super().parameters()
        return {**facts, "name": facts.pop("writer")}
