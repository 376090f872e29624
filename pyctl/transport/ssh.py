"""A host behind SSH: paramiko carries the bytes, the agent does the work.

An ``exec`` request costs 100-200 ms on a slow guest, a question to the agent 3-5 ms, and
only the agent can tell which errno a write(2) gave. The host needs python3, 3.9 or later.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import stat
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, cast

import paramiko

from pyctl.errors import RemoteOSError, RemoteTimeoutError, TransportError, UsageError, shorten
from pyctl.timing import Deadline, timeout_scale
from pyctl.transport import agent, bootstrap
from pyctl.transport.base import DEFAULT_TIMEOUT, Closing, Completed, Sent
from pyctl.transport.client import AgentClient
from pyctl.transport.process import PumpedProcess

#: Bytes; above it a copy goes through SFTP and not through the agent.
SFTP_FROM = 64 * 1024
#: Seconds that an answer may be late after a command's own limit.
GRACE = 15.0
OLDEST_PYTHON = (3, 9)
KEEPALIVE_SECONDS = 15


class HostKeys(Enum):
    """Whom to trust at the other end."""

    #: Only hosts in the user's and the system's known_hosts.
    KNOWN = "known"
    #: Anyone. For guests that are made and thrown away on this machine.
    THROWAWAY = "throwaway"


class SshTransport(Closing):
    """A connection to ``user@host:port``, made at once; ``key`` is a private key file.

    Without ``key`` the SSH agent and the user's default keys are tried.
    ``connect_seconds`` bounds each step of the connection, before scaling.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int = 22,
        user: str = "root",
        key: Path | None = None,
        host_keys: HostKeys = HostKeys.KNOWN,
        connect_seconds: float = 30.0,
    ) -> None:
        self._label = f"{user}@{host}:{port}" if port != 22 else f"{user}@{host}"
        if key is not None and not key.is_file():
            raise UsageError(f"{self._label}: there is no key file {str(key)!r}")
        self._client = paramiko.SSHClient()
        self._sftp: paramiko.SFTPClient | None = None
        try:
            seconds = connect_seconds * timeout_scale()
            self._connect(host, port=port, user=user, key=key, host_keys=host_keys, seconds=seconds)
            self._agent = self._start_agent(seconds)
        except BaseException:
            self._client.close()
            raise

    @property
    def host(self) -> str:
        """``user@host``, with ``:port`` when it is not 22."""
        return self._label

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a program to its end. Other requests wait: use ``spawn`` for long work."""
        limit = Deadline.after(DEFAULT_TIMEOUT if timeout is None else timeout).seconds
        reply, payload = self._agent.ask(
            {"op": "run", "argv": list(argv), "timeout": limit},
            input,
            seconds=limit + GRACE * timeout_scale(),
        )
        facts = cast(dict[str, Any], reply)
        split = facts["stdout"]
        if facts["status"] is None:
            raise RemoteTimeoutError(
                f"{self.host}: {shorten(shlex.join(argv))} was killed after {limit:.0f} s"
            )
        done = Completed(tuple(argv), facts["status"], payload[:split], payload[split:])
        return done.checked(self.host) if check else done

    def read(self, path: str) -> bytes:
        """All of a file."""
        return self._ask({"op": "read", "path": path})[1]

    def write(self, path: str, data: bytes, *, sent: Sent | None = None) -> None:
        """Exactly one write(2)."""
        self._ask({"op": "write", "path": path}, data, sent)

    def transact(self, path: str, data: bytes) -> bytes:
        """One write(2), then read on the same open file."""
        return self._ask({"op": "transact", "path": path}, data)[1]

    def exists(self, path: str) -> bool:
        """Whether there is something at ``path``."""
        return bool(self._ask({"op": "exists", "path": path})[0])

    def kernel_records(self, after: int = -1) -> list[str]:
        """Records of /dev/kmsg above ``after``."""
        records: list[str] = json.loads(self._ask({"op": "kmsg", "after": after})[1])
        return records

    def spawn(self, argv: Sequence[str]) -> SshProcess:
        """Start a program in a channel of its own."""
        try:
            return SshProcess(argv, self)
        except (paramiko.SSHException, OSError) as error:
            raise TransportError(
                f"{self.host}: can't start {shorten(shlex.join(argv))}: {error}"
            ) from error

    def put(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        """Copy a file, or bytes, to ``remote``."""
        data = local if isinstance(local, bytes) else local.read_bytes()
        if len(data) < SFTP_FROM:
            self._ask({"op": "put", "path": remote, "mode": mode}, data)
            return
        aside = f"{remote}.{os.getpid()}.part"
        try:
            sftp = self._open_sftp()
            with sftp.open(aside, "wb") as file:
                file.set_pipelined(True)
                file.write(data)
            sftp.chmod(aside, mode)
            sftp.posix_rename(aside, remote)
        except (paramiko.SSHException, OSError) as error:
            raise TransportError(f"{self.host}: can't copy to {remote}: {error}") from error

    def get(self, remote: str) -> bytes:
        """Copy a file from the host; SFTP for big plain files."""
        try:
            sftp = self._open_sftp()
            facts = sftp.stat(remote)
            if stat.S_ISREG(facts.st_mode or 0) and (facts.st_size or 0) >= SFTP_FROM:
                with sftp.open(remote, "rb") as file:
                    file.prefetch(facts.st_size)
                    return file.read()
        except (paramiko.SSHException, OSError):
            pass  # the agent's attempt tells what is wrong, with its errno
        return self.read(remote)

    def close(self) -> None:
        """End the connection, and with it the agent."""
        self._client.close()

    def _ask(
        self, request: dict[str, Any], blob: bytes = b"", sent: Sent | None = None
    ) -> tuple[object, bytes]:
        seconds = DEFAULT_TIMEOUT * timeout_scale()
        return self._agent.ask(request, blob, seconds=seconds, sent=sent)

    def _open_channel(self, argv: Sequence[str]) -> paramiko.Channel:
        carrier = self._client.get_transport()
        if carrier is None:
            raise TransportError(f"{self.host}: the connection is closed")
        channel = carrier.open_session(timeout=DEFAULT_TIMEOUT * timeout_scale())
        channel.exec_command(shlex.join(argv))  # SSH's exec takes one string, read by a shell
        return channel

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            self._sftp = self._client.open_sftp()
        return self._sftp

    def _connect(
        self,
        host: str,
        *,
        port: int,
        user: str,
        key: Path | None,
        host_keys: HostKeys,
        seconds: float,
    ) -> None:
        if host_keys is HostKeys.THROWAWAY:
            self._client.set_missing_host_key_policy(_AcceptAnyone())
        else:
            self._client.load_system_host_keys()
            self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._client.connect(
                host,
                port=port,
                username=user,
                key_filename=str(key) if key else None,
                look_for_keys=key is None,
                allow_agent=key is None,
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=seconds,
                channel_timeout=seconds,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise TransportError(
                f"{self.host}: no SSH connection: {error or type(error).__name__}",
                hint=_connect_hint(error, host, port, user),
            ) from error
        carrier = self._client.get_transport()
        if carrier is not None:
            carrier.set_keepalive(KEEPALIVE_SECONDS)

    def _start_agent(self, seconds: float) -> AgentClient:
        try:
            stream = _ChannelStream(self._open_channel(bootstrap.command("djp-agent")))
        except (paramiko.SSHException, OSError) as error:
            raise TransportError(f"{self.host}: can't start a command: {error}") from error
        client = AgentClient(stream, self.host, stream.last_words)
        try:
            stream.send(bootstrap.bundle(agent.__name__))
            about, _ = client.ask({"op": "hello"}, seconds=seconds)
        except RemoteTimeoutError:
            raise
        except (TransportError, OSError) as error:
            words = stream.last_words()
            if stream.status(1.0) == 127:
                raise TransportError(
                    f"{self.host}: python3 is not there, and the control plane needs it ({words})",
                    hint="install python3 (3.9 or later) on that host",
                ) from error
            raise TransportError(f"{self.host}: the agent did not start: {words}") from error
        version = tuple(cast(dict[str, Any], about)["python"])
        if version < OLDEST_PYTHON:
            found = ".".join(map(str, version))
            raise TransportError(f"{self.host}: python3 is {found}; 3.9 is the oldest that will do")
        return client


class SshProcess(PumpedProcess):
    """A program in its own SSH channel. Its pid is asked for first, so that it can be signalled."""

    def __init__(self, argv: Sequence[str], transport: SshTransport) -> None:
        self._transport = transport
        # The shell tells its pid and becomes the program, which keeps that pid.
        channel = transport._open_channel(["sh", "-c", 'echo $$ && exec "$@"', "sh", *argv])
        self._channel = channel
        super().__init__(
            argv, transport.host, channel.makefile("rb"), channel.makefile_stderr("rb")
        )
        try:
            first = self.read_line()
            if first is None or not first.isdigit():
                raise TransportError(
                    f"{transport.host}: {shorten(shlex.join(argv))} did not start\n"
                    f"{self.stderr_tail()}"
                )
        except BaseException:
            channel.close()
            raise
        self._pid = int(first)

    @property
    def pid(self) -> int:
        """The program's process id on the host."""
        return self._pid

    def send(self, data: bytes) -> None:
        """Give bytes to the program's stdin."""
        try:
            self._channel.sendall(data)
        except (OSError, paramiko.SSHException) as error:
            raise TransportError(
                f"{self._host}: {shorten(shlex.join(self.argv))} takes no input any more\n"
                f"{self.stderr_tail()}"
            ) from error

    def close_stdin(self) -> None:
        """Let the program read the end of its input."""
        self._channel.shutdown_write()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        try:
            self._transport._ask({"op": "kill", "pid": self._pid, "signal": int(number)})
        except RemoteOSError as error:
            if error.errno != errno.ESRCH:  # it has ended of its own accord meanwhile
                raise

    def _wait(self, seconds: float) -> int | None:
        if not self._channel.status_event.wait(seconds):
            return None
        return self._channel.exit_status

    def _poll(self) -> int | None:
        return self._wait(0)

    def _release(self) -> None:
        self._channel.close()
        for pump in self._pumps:
            pump.join(timeout=1)


class _ChannelStream:
    """A channel as the agent's ByteStream."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def send(self, data: bytes) -> None:
        self._channel.sendall(data)

    def receive(self, size: int, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        chunks: list[bytes] = []
        missing = size
        while missing:
            self._channel.settimeout(max(0.001, until - time.monotonic()))
            chunk = self._channel.recv(missing)
            if not chunk:
                break
            chunks.append(chunk)
            missing -= len(chunk)
        return b"".join(chunks)

    def status(self, seconds: float) -> int | None:
        """The agent's exit status, if it ended."""
        return self._channel.exit_status if self._channel.status_event.wait(seconds) else None

    def last_words(self) -> str:
        """What the agent wrote to stderr."""
        self._channel.settimeout(1.0)
        try:
            return self._channel.recv_stderr(4096).decode(errors="replace").strip()
        except OSError:
            return ""


class _AcceptAnyone(paramiko.MissingHostKeyPolicy):
    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Accept, and keep no record: the next guest at this port has another key."""


def _connect_hint(error: BaseException, host: str, port: int, user: str) -> str | None:
    option = f"-p {port} " if port != 22 else ""
    if not isinstance(error, paramiko.SSHException):
        return None
    if "known_hosts" in str(error):
        return f"check the host's key once with `ssh {option}{user}@{host}`, which stores it"
    # A key of the wrong kind and a refused one look alike: paramiko tells of its last attempt.
    return f"give a private key with key=, or check that `ssh {option}{user}@{host}` works"
