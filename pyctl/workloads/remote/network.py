"""Packets: two network name spaces joined by a veth pair; one operation is a message from one
side and its echo, over UDP or TCP.

The name spaces have no names: they end with the two processes that stand in them, however
those end, and the veth pair with them. IPv6 is off and the neighbours are permanent, so that
with UDP the interfaces see exactly one packet for each message. The packet counts are the
interfaces' own, read through netlink.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import traceback
from typing import Any, NoReturn

from pyctl.workloads.remote.common import Failed, Turn, Work, _kill, die_with_parent, main

CLONE_NEWNET = 0x40000000
PORT = 7777
ADDRESSES = {"client": "10.111.0.1", "server": "10.111.0.2"}
MACS = {"client": "02:00:00:00:00:01", "server": "02:00:00:00:00:02"}
OTHER = {"client": "server", "server": "client"}
STATS = ("tx_packets", "rx_packets", "tx_bytes", "rx_bytes", "tx_dropped", "rx_dropped")
ANSWER_SECONDS = 30.0


class Side:
    """A child process in a network name space of its own, that does what it is asked."""

    def __init__(self, role: str, parameters: dict[str, Any]) -> None:
        self.role = role
        self.parameters = parameters
        self.ifname = f"djp-{role}"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            self._live(theirs, parent)
        theirs.close()
        self.link = ours

    def ask(self, command: str, **facts: object) -> dict[str, Any]:
        """Send a command and wait for the answer."""
        self.send(command, **facts)
        return self.answer()

    def send(self, command: str, **facts: object) -> None:
        """Send a command; the answer is for later."""
        self.link.send(json.dumps({"command": command, **facts}).encode())

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command without one."""
        data = self.link.recv(65536)
        if not data:
            raise Failed(f"the {self.role} process died")
        answer: dict[str, Any] = json.loads(data)
        if "failed" in answer:
            raise Failed(f"network {self.role}: {answer['failed']}")
        return answer

    def _live(self, link: socket.socket, parent: int) -> NoReturn:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(parent)
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
            inside = Inside(self.role, self.ifname, self.parameters, link)
            while True:
                data = link.recv(65536)
                if not data:
                    break
                request = json.loads(data)
                try:
                    command = request.pop("command")
                    answer = getattr(inside, f"do_{command}")(**request)
                except Exception as error:
                    answer = {"failed": f"{type(error).__name__}: {error}"}
                link.send(json.dumps(answer or {}).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


class Inside:
    """What runs in the name space."""

    def __init__(
        self, role: str, ifname: str, parameters: dict[str, Any], link: socket.socket
    ) -> None:
        from pyroute2 import IPRoute  # noqa: PLC0415 (in the name space; its socket stays there)

        self.role, self.ifname, self.link = role, ifname, link
        self.tcp = parameters["protocol"] == "tcp"
        self.payload = b"d" * parameters["payload"]
        self.ipr = IPRoute()
        self.socket: socket.socket | None = None

    def do_hello(self) -> None:
        """Say that we live."""

    def do_create(self, peer_pid: int, peer_ifname: str) -> None:
        """Make the pair; one end goes to the other process's name space."""
        peer = {"ifname": peer_ifname, "net_ns_pid": peer_pid}
        self.ipr.link("add", ifname=self.ifname, kind="veth", peer=peer)

    def do_configure(self) -> None:
        """Address, neighbour, no IPv6, up."""
        index = self._index()
        for name in ("all", "default", self.ifname):
            try:
                with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:  # noqa: PTH123
                    file.write("1")
            except FileNotFoundError:
                break  # a kernel without IPv6
        self.ipr.link("set", index=index, address=MACS[self.role])
        self.ipr.addr("add", index=index, address=ADDRESSES[self.role], prefixlen=24)
        self.ipr.link("set", index=index, state="up")

    def do_neighbour(self) -> None:
        """Know the other side, so that nobody has to ask for its address."""
        other = OTHER[self.role]
        self.ipr.neigh(
            "replace",
            dst=ADDRESSES[other],
            lladdr=MACS[other],
            ifindex=self._index(),
            state=0x80,  # NUD_PERMANENT
        )

    def do_listen(self) -> None:
        """Server: a bound socket."""
        self.socket = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM
        )
        self.socket.bind((ADDRESSES[self.role], PORT))
        if self.tcp:
            self.socket.listen(1)

    def do_accept(self) -> None:
        """Server: with TCP, the one connection."""
        assert self.socket is not None
        if self.tcp:
            self.socket, _ = self.socket.accept()
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_connect(self) -> None:
        """Client."""
        self.socket = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM
        )
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.connect((ADDRESSES[OTHER[self.role]], PORT))
        if self.tcp:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_stats(self) -> dict[str, int]:
        """The interface's counters, through netlink."""
        link = self.ipr.get_links(self._index())[0]
        stats = link.get_attr("IFLA_STATS64")
        return {name: stats[name] for name in STATS}

    def do_echo(self) -> dict[str, int]:
        """Server: send back every message until an empty command comes on the link."""
        assert self.socket is not None
        done, size = 0, len(self.payload)
        while True:
            readable, _, _ = select.select([self.socket, self.link], [], [])
            if self.socket in readable:
                if self.tcp:
                    self.socket.sendall(self._exactly(size))
                else:
                    data, sender = self.socket.recvfrom(size)
                    self.socket.sendto(data, sender)
                done += 1
            elif self.link in readable:
                self.link.recv(1)
                return {"echo": done}

    def do_warm_up(self) -> None:
        """Client: until an echo comes. A new interface drops what it is given before the
        kernel's link watch has seen its carrier."""
        assert self.socket is not None
        if self.tcp:
            return  # the handshake has been through
        self.socket.settimeout(0.25)
        for _ in range(int(ANSWER_SECONDS / 0.25)):
            self.socket.send(self.payload)
            try:
                self.socket.recv(len(self.payload))
                break
            except (TimeoutError, socket.timeout):  # noqa: UP041 (two classes before 3.10)
                continue
        else:
            raise OSError("no packet came through the veth pair")
        self.socket.settimeout(ANSWER_SECONDS)

    def do_talk(self, operations: int) -> dict[str, int]:
        """Client: that many messages, each waiting for its echo."""
        assert self.socket is not None
        size = len(self.payload)
        for _ in range(operations):
            self.socket.sendall(self.payload)
            if len(self._exactly(size) if self.tcp else self.socket.recv(size)) != size:
                raise OSError("an echo was cut short")
        return {"sent": operations}

    def _exactly(self, size: int) -> bytes:
        assert self.socket is not None
        data = b""
        while len(data) < size:
            chunk = self.socket.recv(size - len(data))
            if not chunk:
                raise OSError("the connection was closed")
            data += chunk
        return data

    def _index(self) -> int:
        found: int = self.ipr.link_lookup(ifname=self.ifname)[0]
        return found


class Network(Work):
    """Parameters: protocol (udp or tcp), payload (bytes)."""

    #: Messages between two looks at the owner.
    ROUND = 50

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self.sides: dict[str, Side] = {}

    def set_up(self) -> dict[str, object]:
        """Both name spaces, the pair, the sockets."""
        try:
            import pyroute2  # noqa: F401, PLC0415
        except ImportError as error:
            raise Failed("python3-pyroute2 is not installed on this host") from error
        for role in ("client", "server"):
            self.sides[role] = Side(role, self.parameters)
        client, server = self.sides["client"], self.sides["server"]
        for side in (client, server):
            side.ask("hello")  # only then it stands in its own name space
        client.ask("create", peer_pid=server.pid, peer_ifname=server.ifname)
        for side in (client, server):
            side.ask("configure")
        for side in (client, server):
            side.ask("neighbour")
        server.ask("listen")
        server.send("accept")
        client.ask("connect")
        server.answer()
        server.send("echo")
        client.ask("warm_up")
        server.link.send(b".")
        server.answer()
        return {
            "interfaces": {side.ifname: side.pid for side in self.sides.values()},
            "addresses": ADDRESSES,
        }

    def run(self, turn: Turn) -> dict[str, int]:
        """Messages and echoes, and what the interfaces say about them."""
        client, server = self.sides["client"], self.sides["server"]
        before = {role: side.ask("stats") for role, side in self.sides.items()}
        server.send("echo")
        done = 0
        while turn.more(done):
            count = (
                self.ROUND if turn.operations is None else min(self.ROUND, turn.operations - done)
            )
            done += client.ask("talk", operations=count)["sent"]
        server.link.send(b".")
        echoed = server.answer()["echo"]
        if echoed != done:
            raise Failed(f"{done} messages were sent and {echoed} echoed")
        after = {role: side.ask("stats") for role, side in self.sides.items()}
        packets = {
            f"{role}_{name}": after[role][name] - before[role][name]
            for role in self.sides
            for name in STATS
        }
        total = {
            name: packets[f"client_{name}"] + packets[f"server_{name}"]
            for name in ("tx_packets", "rx_packets")
        }
        return {"round_trip": done, "send": 2 * done, "receive": 2 * done, **total, **packets}

    def clean_up(self) -> None:
        """With the processes go the name spaces and the interfaces."""
        for side in self.sides.values():
            side.link.close()
            _kill(side.pid)


if __name__ == "__main__":
    main(Network)
