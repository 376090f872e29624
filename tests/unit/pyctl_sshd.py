"""An SSH server for tests: paramiko's own, in this process, on a free port of localhost.

Each exec runs as a child of this process; SFTP serves this machine's files.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import paramiko

from pyctl.transport import HostKeys, SshTransport


class Sshd:
    """``path`` replaces PATH for the commands; ``channels`` counts them."""

    def __init__(self, folder: Path) -> None:
        self.key = self.make_key(folder / "id")
        self.path: str | None = None
        self.channels = 0
        self._host_key = paramiko.ECDSAKey.generate()
        self._transports: list[paramiko.Transport] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    @staticmethod
    def make_key(path: Path) -> Path:
        """A new private key file, with its public half beside it."""
        key = paramiko.ECDSAKey.generate()
        key.write_private_key_file(str(path))
        path.with_suffix(".pub").write_text(f"{key.get_name()} {key.get_base64()}\n")
        return path

    def connect(self) -> SshTransport:
        """A transport to this server."""
        return SshTransport("127.0.0.1", port=self.port, key=self.key, host_keys=HostKeys.THROWAWAY)

    def __enter__(self) -> Sshd:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for transport in self._transports:
            transport.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._host_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            transport.start_server(server=_Server(self), event=threading.Event())
            self._transports.append(transport)


class _Server(paramiko.ServerInterface):
    def __init__(self, owner: Sshd) -> None:
        self.owner = owner

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        mine = paramiko.ECDSAKey.from_private_key_file(str(self.owner.key))
        good = username == "root" and key == mine
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.owner.channels += 1
        env = dict(os.environ, **({"PATH": self.owner.path} if self.owner.path else {}))
        child = subprocess.Popen(
            ["/bin/sh", "-c", command.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        threading.Thread(target=_serve, args=(channel, child), daemon=True).start()
        return True


def _serve(channel: paramiko.Channel, child: subprocess.Popen[bytes]) -> None:
    def feed() -> None:
        while data := channel.recv(1 << 16):
            try:
                child.stdin.write(data)
                child.stdin.flush()
            except OSError:
                return
        child.stdin.close()

    def drain(stream: IO[bytes], send: Callable[[bytes], object]) -> None:
        while data := os.read(stream.fileno(), 1 << 16):
            try:
                send(data)
            except OSError:
                return

    pumps = [
        threading.Thread(target=drain, args=(child.stdout, channel.sendall), daemon=True),
        threading.Thread(target=drain, args=(child.stderr, channel.sendall_stderr), daemon=True),
    ]
    threading.Thread(target=feed, daemon=True).start()
    for pump in pumps:
        pump.start()
    status = child.wait()
    # As sshd does: the status at once, even while a grandchild keeps the streams open.
    channel.send_exit_status(status if status >= 0 else 128 - status)
    for pump in pumps:
        pump.join(timeout=2)
    channel.close()


class _Files(paramiko.SFTPServerInterface):
    def open(self, path: str, flags: int, _attr: object) -> paramiko.SFTPHandle | int:
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = handle.writefile = os.fdopen(fd, "wb" if flags & os.O_WRONLY else "rb")
        return handle

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(Path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        Path(path).chmod(attr.st_mode or 0)
        return int(paramiko.SFTP_OK)

    def posix_rename(self, old: str, new: str) -> int:
        Path(old).replace(new)
        return int(paramiko.SFTP_OK)
