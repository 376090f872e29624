"""The control line: one line each way between the host and the guest's init."""

from __future__ import annotations

import select
import socket
from pathlib import Path

from vm.deadline import Deadline


class LineClosedError(Exception):
    """QEMU ended while we waited for the guest."""


class LineTimeoutError(Exception):
    """The guest said nothing more before the deadline."""


class ControlLine:
    """Listens for QEMU's second serial port and speaks lines over it.

    `seen` keeps every line the guest's init wrote.
    """

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(1)
        self._line: socket.socket | None = None
        self._pending = b""
        self.seen: list[str] = []

    def accept(self, pidfd: int, deadline: Deadline) -> None:
        """Wait for QEMU to connect."""
        self._wait(self._server, pidfd, deadline)
        self._line, _address = self._server.accept()

    def _wait(self, sock: socket.socket, pidfd: int, deadline: Deadline) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        ready = {fd for fd, _event in poll.poll(deadline.remaining * 1000)}
        if sock.fileno() in ready:
            return  # also when QEMU has ended: read what it said first
        if ready:
            raise LineClosedError
        raise LineTimeoutError

    def read(self, pidfd: int, deadline: Deadline) -> str:
        """The next line from the guest, without its end."""
        if self._line is None:
            raise LineClosedError
        while b"\n" not in self._pending:
            self._wait(self._line, pidfd, deadline)
            got = self._line.recv(4096)
            if not got:
                raise LineClosedError
            self._pending += got
        line, _newline, self._pending = self._pending.partition(b"\n")
        text = line.decode(errors="replace").strip()
        self.seen.append(text)
        return text

    def request(self, text: str, pidfd: int, deadline: Deadline) -> str:
        """Send a request and return the answer (lines that are only notes are passed over)."""
        if self._line is None:
            raise LineClosedError
        try:
            self._line.sendall(text.encode() + b"\n")
        except OSError as exc:
            raise LineClosedError from exc
        while True:
            answer = self.read(pidfd, deadline)
            if answer.startswith(("djp: ok", "djp: error", "djp: ready")):
                return answer

    def close(self) -> None:
        """Close both sockets."""
        if self._line is not None:
            self._line.close()
        self._server.close()
