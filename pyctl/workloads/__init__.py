"""Workloads: objects that put load on a kernel and know exactly what they did.

result = FileIo(fsync_every=0).run(transport, operations=1000)
result.operations["pread"]      # 1000

with Busy().background(transport) as load:
    ...
load.result.operations
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pyctl.errors import UsageError
from pyctl.workloads.base import Background, BoundWorkload, Running, Workload, WorkloadResult

__all__ = [
    "WORKLOADS",
    "Affinity",
    "Background",
    "BoundWorkload",
    "Busy",
    "FileIo",
    "Fork",
    "Modules",
    "Network",
    "Packets",
    "Running",
    "Signals",
    "Timers",
    "Workload",
    "WorkloadResult",
    "Yield",
    "make_workload",
]


@dataclass(frozen=True)
class FileIo(Workload):
    """pwrite and pread of one block by turns, and an fsync after every ``fsync_every``.

    ``size`` and ``block`` in bytes. Counts ``pwrite``, ``pread``, ``fsync``, ``bytes``.
    """

    name: ClassVar[str] = "fileio"
    script: ClassVar[str] = "pyctl.workloads.remote.fileio"
    directory: str = "/dev/shm"
    size: int = 1 << 20
    block: int = 4096
    fsync_every: int = 16


@dataclass(frozen=True)
class Fork(Workload):
    """fork, exec of ``program`` (if ``exec``), exit, wait. Counts each of them."""

    name: ClassVar[str] = "fork"
    script: ClassVar[str] = "pyctl.workloads.remote.fork"
    exec: bool = True
    program: str = "/bin/true"


@dataclass(frozen=True)
class Network(Workload):
    """Messages of ``payload`` bytes and their echoes between two network name spaces, over
    a veth pair; ``protocol`` is ``udp`` or ``tcp``. Needs root and python3-pyroute2 there.

    Counts ``round_trip`` (the operations), ``send``, ``receive``, and from the interfaces'
    netlink statistics ``tx_packets`` and ``rx_packets`` (both sides together),
    ``client_tx_packets`` and so on. With UDP ``send`` equals ``tx_packets``.
    """

    name: ClassVar[str] = "network"
    script: ClassVar[str] = "pyctl.workloads.remote.network"
    protocol: str = "udp"
    payload: int = 64


@dataclass(frozen=True)
class Packets(Workload):
    """UDP datagrams of ``payload`` bytes into a dummy interface, in a network name space of
    its own. Needs root and python3-pyroute2 there.

    Counts ``send``, and from the interface's netlink statistics ``tx_packets``.
    """

    name: ClassVar[str] = "packets"
    script: ClassVar[str] = "pyctl.workloads.remote.packets"
    payload: int = 64


@dataclass(frozen=True)
class Modules(Workload):
    """modprobe and rmmod of ``module``, which must not be loaded. Counts ``load``,
    ``unload``. Needs root."""

    name: ClassVar[str] = "modules"
    script: ClassVar[str] = "pyctl.workloads.remote.modules"
    module: str = "dummy"


@dataclass(frozen=True)
class Timers(Workload):
    """Timers that expire ``microseconds`` after they are armed.

    ``mode``: ``oneshot`` (timer_create), ``itimer`` (setitimer), ``periodic`` (armed once;
    for a time only). Counts ``timer_settime`` or ``setitimer``, ``expiry``, ``signal``.
    """

    name: ClassVar[str] = "timers"
    script: ClassVar[str] = "pyctl.workloads.remote.timers"
    mode: str = "oneshot"
    microseconds: int = 500


@dataclass(frozen=True)
class Signals(Workload):
    """A signal to another process and one back. Counts ``round_trip`` (the operations),
    ``kill``, ``signal``."""

    name: ClassVar[str] = "signals"
    script: ClassVar[str] = "pyctl.workloads.remote.signals"


@dataclass(frozen=True)
class Yield(Workload):
    """sched_yield from ``processes`` processes at once (0: two for each CPU)."""

    name: ClassVar[str] = "yield"
    script: ClassVar[str] = "pyctl.workloads.remote.sched"
    processes: int = 0

    def parameters(self) -> dict[str, Any]:
        """What the script is told."""
        return {"kind": "yield", "processes": self.processes}


@dataclass(frozen=True)
class Affinity(Workload):
    """sched_setaffinity to the next CPU, from ``processes`` processes at once."""

    name: ClassVar[str] = "affinity"
    script: ClassVar[str] = "pyctl.workloads.remote.sched"
    processes: int = 0

    def parameters(self) -> dict[str, Any]:
        """What the script is told."""
        return {"kind": "affinity", "processes": self.processes}


@dataclass(frozen=True)
class Busy(Workload):
    """Processes on every CPU that compute and make no system call: load for everything
    else. Counts ``loop`` (10,000 rounds each, the operations) and ``process``."""

    name: ClassVar[str] = "busy"
    script: ClassVar[str] = "pyctl.workloads.remote.busy"
    per_cpu: int = 1
    nice: int = 0


WORKLOADS: Mapping[str, type[Workload]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            FileIo,
            Fork,
            Network,
            Packets,
            Modules,
            Timers,
            Signals,
            Yield,
            Affinity,
            Busy,
        )
    }
)


def make_workload(name: str, **parameters: Any) -> Workload:  # noqa: ANN401
    """A workload by its name."""
    if name not in WORKLOADS:
        raise UsageError(f"there is no workload {name!r}", hint=f"there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name].create(parameters)
