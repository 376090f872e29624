"""Print the network interfaces' statistics, read through netlink by pyroute2, as JSON. The
argument is the process whose network name space is meant, or 0 for our own."""

from __future__ import annotations

import ctypes
import json
import os
import sys

CLONE_NEWNET = 0x40000000
FIELDS = (
    "tx_packets",
    "rx_packets",
    "tx_bytes",
    "rx_bytes",
    "tx_errors",
    "rx_errors",
    "tx_dropped",
    "rx_dropped",
)


def main(pid: int) -> None:
    """Enter the name space, ask, print."""
    if pid:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")
        os.close(fd)
    from pyroute2 import IPRoute  # noqa: PLC0415 (its socket belongs to the name space)

    result = {}
    with IPRoute() as ipr:
        for link in ipr.get_links():
            stats = link.get_attr("IFLA_STATS64")
            result[link.get_attr("IFLA_IFNAME")] = {name: stats[name] for name in FIELDS}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[-1]))
