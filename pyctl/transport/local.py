"""This machine as a host: the agent's functions, called in our own process."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pyctl.errors import RemoteOSError, RemoteTimeoutError, TransportError, shorten
from pyctl.timing import Deadline
from pyctl.transport import agent
from pyctl.transport.base import DEFAULT_TIMEOUT, Closing, Completed, Sent
from pyctl.transport.process import PumpedProcess


class LocalTransport(Closing):
    """The machine that Python runs on. Most of what djprobes does needs root."""

    @property
    def host(self) -> str:
        """Always ``local``."""
        return "local"

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a program to its end."""
        deadline = Deadline.after(DEFAULT_TIMEOUT if timeout is None else timeout)
        status, out, err = agent.run(argv, input, deadline.seconds)
        if status is None:
            raise RemoteTimeoutError(
                f"local: {shorten(shlex.join(argv))} was killed after {deadline.seconds:.0f} s"
            )
        done = Completed(tuple(argv), status, out, err)
        return done.checked(self.host) if check else done

    def read(self, path: str) -> bytes:
        """All of a file."""
        try:
            return agent.read_file(path)
        except OSError as error:
            raise _os_error(error, "read", path) from error

    def write(self, path: str, data: bytes, *, sent: Sent | None = None) -> None:
        """Exactly one write(2)."""
        if sent is not None:
            sent(len(data), len(data))
        try:
            agent.write_once(path, data)
        except OSError as error:
            raise _os_error(error, "write", path) from error

    def transact(self, path: str, data: bytes) -> bytes:
        """One write(2), then read on the same open file."""
        try:
            return agent.transact(path, data)
        except OSError as error:
            raise _os_error(error, "write", path) from error

    def exists(self, path: str) -> bool:
        """Whether there is something at ``path``."""
        return Path(path).exists()

    def kernel_records(self, after: int = -1) -> list[str]:
        """Records of /dev/kmsg above ``after``."""
        try:
            return agent.kmsg(after)
        except OSError as error:
            raise _os_error(error, "read", "/dev/kmsg") from error

    def spawn(self, argv: Sequence[str]) -> LocalProcess:
        """Start a program and talk to it."""
        return LocalProcess(argv)

    def put(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        """Copy a file, or bytes, to ``remote``."""
        data = local if isinstance(local, bytes) else local.read_bytes()
        try:
            agent.put_file(remote, data, mode)
        except OSError as error:
            raise _os_error(error, "write", remote) from error

    def get(self, remote: str) -> bytes:
        """Read a file."""
        return self.read(remote)

    def close(self) -> None:
        """Nothing is held."""


class LocalProcess(PumpedProcess):
    """A child of this process."""

    def __init__(self, argv: Sequence[str]) -> None:
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise _os_error(error, "start", argv[0]) from error
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        super().__init__(argv, "local", child.stdout, child.stderr)

    def send(self, data: bytes) -> None:
        """Give bytes to the program's stdin."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(data)
            self._child.stdin.flush()
        except (OSError, ValueError) as error:
            raise TransportError(
                f"local: {shorten(shlex.join(self.argv))} takes no input any more\n"
                f"{self.stderr_tail()}"
            ) from error

    def close_stdin(self) -> None:
        """Let the program read the end of its input."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._child.send_signal(number)

    def _wait(self, seconds: float) -> int | None:
        try:
            return self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def _poll(self) -> int | None:
        return self._child.poll()

    def _release(self) -> None:
        self.close_stdin()
        for pump, stream in zip(self._pumps, (self._child.stdout, self._child.stderr), strict=True):
            assert stream is not None
            pump.join(timeout=1)
            # A grandchild may still hold the pipe: then its reader reads on, and to close
            # the stream under it would wait for that grandchild.
            if not pump.is_alive():
                stream.close()


def _os_error(error: OSError, operation: str, path: str) -> RemoteOSError:
    return RemoteOSError(error.errno or 0, operation=operation, path=path, host="local")
