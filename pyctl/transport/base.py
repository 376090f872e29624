"""What a way to a host has to offer, whatever it is made of."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pyctl.errors import RemoteCommandError

#: Seconds (before scaling) that a request may take when the caller names no limit.
#: A host that has crashed must never hang its caller.
DEFAULT_TIMEOUT = 120.0


#: How many bytes of how many have been sent.
Sent = Callable[[int, int], None]


@dataclass(frozen=True)
class Completed:
    """A command that ran to its end."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """stdout as text, without white space at its ends."""
        return self.stdout.decode(errors="replace").strip()

    def checked(self, host: str) -> Self:
        """This result, or RemoteCommandError when the status is not 0."""
        if self.status != 0:
            raise RemoteCommandError(
                self.argv, self.status, stdout=self.stdout, stderr=self.stderr, host=host
            )
        return self


class Process(Protocol):
    """A program that runs on the host, spoken to line by line. A context manager: leaving it
    ends the program."""

    @property
    def argv(self) -> tuple[str, ...]:
        """What was started."""

    def send(self, data: bytes) -> None:
        """Give bytes to the program's stdin."""

    def send_line(self, line: str) -> None:
        """Give one line to the program's stdin."""

    def read_line(self, timeout: float | None = None) -> str | None:
        """The next line of stdout without its newline; None at the end.

        ``timeout`` in seconds before scaling; RemoteTimeoutError when it passes.
        """

    def close_stdin(self) -> None:
        """Let the program read the end of its input."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status (-N after signal N), waiting for it."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""

    def terminate(self) -> None:
        """SIGTERM; then, when that is ignored, SIGKILL. Returns when the program is gone."""

    def stderr_tail(self) -> str:
        """The last lines that the program wrote to stderr."""

    def close(self) -> None:
        """Terminate it, if it still runs, and let its streams go."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Transport(Protocol):
    """A way to a host. All paths are the host's; failures are TransportErrors."""

    @property
    def host(self) -> str:
        """A label for messages, such as ``root@127.0.0.1:2222``."""

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a program to its end.

        ``timeout`` in seconds before scaling (DEFAULT_TIMEOUT if None), then the program is
        killed and RemoteTimeoutError raised. With ``check`` a status other than 0 raises
        RemoteCommandError.
        """

    def read(self, path: str) -> bytes:
        """All of a file."""

    def write(self, path: str, data: bytes, *, sent: Sent | None = None) -> None:
        """Exactly one write(2) of all of ``data`` to an existing file.

        ``sent`` hears how much of it has gone to the host, where it is collected first.
        RemoteOSError has the errno that the kernel gave.
        """

    def transact(self, path: str, data: bytes) -> bytes:
        """One write(2), then read the answer on the same open file."""

    def exists(self, path: str) -> bool:
        """Whether there is something at ``path``."""

    def kernel_records(self, after: int = -1) -> list[str]:
        """Records of /dev/kmsg with a sequence number above ``after``, oldest first."""

    def spawn(self, argv: Sequence[str]) -> Process:
        """Start a program and talk to it while it runs."""

    def put(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        """Copy a local file, or these bytes, to ``remote``; it is never seen half written."""

    def get(self, remote: str) -> bytes:
        """Copy a file from the host."""

    def close(self) -> None:
        """Give up the connection; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Closing:
    """``with`` for anything that has ``close()``."""

    def close(self) -> None:
        """Give up what is held; may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
