"""Packets as the interfaces count them, through netlink (pyroute2 on the host)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pyctl.errors import OracleError, RemoteCommandError
from pyctl.transport import Transport, bootstrap

SCRIPT = "pyctl.verify.remote.links"


@dataclass(frozen=True)
class InterfaceStats:
    """An interface's counters (IFLA_STATS64): packets, bytes, errors, drops."""

    tx_packets: int
    rx_packets: int
    tx_bytes: int
    rx_bytes: int
    tx_errors: int
    rx_errors: int
    tx_dropped: int
    rx_dropped: int

    def __sub__(self, before: InterfaceStats) -> InterfaceStats:
        """What was counted since ``before``."""
        return InterfaceStats(
            **{name: getattr(self, name) - getattr(before, name) for name in vars(self)}
        )


def interface_stats(transport: Transport, *, pid: int | None = None) -> dict[str, InterfaceStats]:
    """Interface name and counters, in the network name space of process ``pid`` (the host's
    own if None). The network workload tells its processes' pids when it is ready."""
    argv = bootstrap.command("djp-links", str(pid or 0))
    try:
        done = transport.run(argv, input=bootstrap.bundle(SCRIPT))
    except RemoteCommandError as error:
        raise OracleError(
            f"{transport.host}: can't read the interfaces' statistics\n"
            f"{error.stderr.decode(errors='replace').strip()}",
            hint="it needs python3-pyroute2 on that host, and root for another name space",
        ) from error
    return {name: InterfaceStats(**stats) for name, stats in json.loads(done.stdout).items()}
