"""A running program over three byte streams, whatever carries them."""

from __future__ import annotations

import collections
import queue
import shlex
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

from pyctl.errors import RemoteTimeoutError, TransportError, shorten
from pyctl.timing import Deadline
from pyctl.transport.base import DEFAULT_TIMEOUT, Closing

STDERR_LINES = 60
TERMINATE_SECONDS = 10.0


class LineSource(Protocol):
    """As much of a binary file as is needed to read lines."""

    def readline(self) -> bytes | str:
        """The next line with its newline; empty at the end."""


class PumpedProcess(Closing, ABC):
    """Two threads drain stdout and stderr, so that neither can fill up and stop the program."""

    def __init__(
        self, argv: Sequence[str], host: str, stdout: LineSource, stderr: LineSource
    ) -> None:
        self._argv = tuple(argv)
        self._host = host
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ended = False
        self._stderr: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._pumps = [
            threading.Thread(target=self._pump_lines, args=(stdout,), daemon=True),
            threading.Thread(target=self._pump_stderr, args=(stderr,), daemon=True),
        ]
        for pump in self._pumps:
            pump.start()

    @property
    def argv(self) -> tuple[str, ...]:
        """What was started."""
        return self._argv

    def send_line(self, line: str) -> None:
        """Give one line to the program's stdin."""
        self.send(line.encode() + b"\n")

    def read_line(self, timeout: float | None = None) -> str | None:
        """The next line of stdout, or None at its end."""
        if self._ended:
            return None
        deadline = Deadline.after(DEFAULT_TIMEOUT if timeout is None else timeout)
        try:
            line = self._lines.get(timeout=deadline.remaining)
        except queue.Empty:
            raise RemoteTimeoutError(
                f"{self._host}: {shorten(shlex.join(self._argv))} said nothing "
                f"for {deadline.seconds:.0f} s",
                hint="on a slow machine set DJP_TIMEOUT_SCALE",
            ) from None
        self._ended = line is None
        return line

    def stderr_tail(self) -> str:
        """The last lines of stderr. After the program's end, all that it said last."""
        if self._poll() is not None:
            self._pumps[1].join(timeout=1)
        return "\n".join(self._stderr)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; RemoteTimeoutError when the program goes on."""
        deadline = Deadline.after(DEFAULT_TIMEOUT if timeout is None else timeout)
        status = self._wait(deadline.remaining)
        if status is None:
            raise RemoteTimeoutError(
                f"{self._host}: {shorten(shlex.join(self._argv))} has not ended "
                f"after {deadline.seconds:.0f} s"
            )
        return status

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL for what outlives it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._poll() is not None:
                return
            self.signal(number)
            if self._wait(Deadline.after(TERMINATE_SECONDS).remaining) is not None:
                return
        raise TransportError(f"{self._host}: {shorten(shlex.join(self._argv))} can't be ended")

    def close(self) -> None:
        """End the program, if it still runs, and let the streams go."""
        try:
            self.terminate()
        finally:
            self._release()

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Give bytes to the program's stdin."""

    @abstractmethod
    def close_stdin(self) -> None:
        """Let the program read the end of its input."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""

    @abstractmethod
    def _wait(self, seconds: float) -> int | None:
        """The status, or None when the program still runs after that time."""

    @abstractmethod
    def _poll(self) -> int | None:
        """The status if the program has ended."""

    @abstractmethod
    def _release(self) -> None:
        """Close the streams."""

    def _pump_lines(self, stream: LineSource) -> None:
        try:
            for line in _lines_of(stream):
                self._lines.put(line)
        finally:
            self._lines.put(None)

    def _pump_stderr(self, stream: LineSource) -> None:
        for line in _lines_of(stream):
            self._stderr.append(line)


def _lines_of(stream: LineSource) -> Iterator[str]:
    while True:
        try:
            line = stream.readline()
        except (OSError, ValueError):  # the stream was closed under the reader
            return
        if not line:
            return
        text = line if isinstance(line, str) else line.decode(errors="replace")
        yield text.rstrip("\r\n")
