"""Packets that end in a dummy interface; one operation is a UDP datagram.

This process moves into a network name space of its own, so nobody else uses the interface,
and it goes away with the process. IPv6 is off and the neighbour is permanent: the interface
sees exactly one packet for each datagram. Its own count is read through netlink.
"""

from __future__ import annotations

import ctypes
import os
import socket

from pyctl.workloads.remote.common import Failed, Turn, Work, main

CLONE_NEWNET = 0x40000000
IFNAME = "djp-dummy"
ADDRESS, NEIGHBOUR, PORT = "10.112.0.1", "10.112.0.2", 9


class Packets(Work):
    """Parameters: payload (bytes)."""

    def set_up(self) -> dict[str, object]:
        """The name space, the interface, the socket."""
        try:
            from pyroute2 import IPRoute  # noqa: PLC0415 (may not be installed)
        except ImportError as error:
            raise Failed("python3-pyroute2 is not installed on this host") from error
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise Failed(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
        for name in ("all", "default"):
            try:
                with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:  # noqa: PTH123
                    file.write("1")
            except FileNotFoundError:
                break  # a kernel without IPv6
        self.ipr = IPRoute()  # only now: its socket belongs to the name space
        self.ipr.link("add", ifname=IFNAME, kind="dummy")
        self.index = self.ipr.link_lookup(ifname=IFNAME)[0]
        self.ipr.addr("add", index=self.index, address=ADDRESS, prefixlen=24)
        self.ipr.link("set", index=self.index, state="up")
        self.ipr.neigh(
            "replace",
            dst=NEIGHBOUR,
            lladdr="02:00:00:00:00:02",
            ifindex=self.index,
            state=0x80,  # NUD_PERMANENT
        )
        self.payload = b"d" * self.parameters["payload"]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((NEIGHBOUR, PORT))
        return {"interface": IFNAME}

    def run(self, turn: Turn) -> dict[str, int]:
        """Datagram after datagram."""
        before, done = self._sent(), 0
        while turn.more(done):
            self.socket.send(self.payload)
            done += 1
        return {"send": done, "tx_packets": self._sent() - before}

    def _sent(self) -> int:
        stats = self.ipr.get_links(self.index)[0].get_attr("IFLA_STATS64")
        return int(stats["tx_packets"])


if __name__ == "__main__":
    main(Packets)
