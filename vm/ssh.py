"""Log in to a guest, for the `djp vm` commands.  (The control plane has its own transport.)"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path

import paramiko

from vm.errors import InfrastructureError
from vm.state import SshEndpoint


@contextlib.contextmanager
def connect(endpoint: SshEndpoint, *, timeout: float = 30.0) -> Iterator[paramiko.SSHClient]:
    """A logged-in client; the guest's host key must be the cache's own.

    `timeout` in seconds (scale it yourself).  Raises InfrastructureError when
    the guest does not let us in.
    """
    client = paramiko.SSHClient()
    kind, key = (endpoint.key.parent / "host_key.pub").read_text().split()[:2]
    client.get_host_keys().add(
        f"[{endpoint.host}]:{endpoint.port}",
        kind,
        paramiko.Ed25519Key(data=base64.b64decode(key)),
    )
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            endpoint.host,
            endpoint.port,
            endpoint.user,
            key_filename=str(endpoint.key),
            look_for_keys=False,
            allow_agent=False,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
        )
    except (paramiko.SSHException, OSError, EOFError) as exc:
        client.close()
        raise InfrastructureError(
            f"logging in to {endpoint.user}@{endpoint.host} port {endpoint.port}",
            str(exc) or type(exc).__name__,
            hint="`djp vm ls` says whether the guest still runs",
        ) from exc
    with contextlib.closing(client):
        yield client


def copy_to(sftp: paramiko.SFTPClient, source: Path, target: str) -> int:
    """Copy a file or a folder into the guest; returns the number of files.

    As with cp, an existing folder `target` is copied into.
    """
    if _is_folder(sftp, target):
        target = f"{target.rstrip('/')}/{source.resolve().name}"
    return _put(sftp, source, target)


def copy_from(sftp: paramiko.SFTPClient, source: str, target: Path) -> int:
    """Copy a file or a folder out of the guest; returns the number of files."""
    if target.is_dir():
        target = target / Path(source.rstrip("/")).name
    return _get(sftp, source, target)


def _put(sftp: paramiko.SFTPClient, source: Path, target: str) -> int:
    if source.is_dir():
        if not _is_folder(sftp, target):
            sftp.mkdir(target)
        children = sorted(source.iterdir())
        return sum(_put(sftp, child, f"{target.rstrip('/')}/{child.name}") for child in children)
    sftp.put(str(source), target)
    sftp.chmod(target, source.stat().st_mode & 0o777)
    return 1


def _get(sftp: paramiko.SFTPClient, source: str, target: Path) -> int:
    if _is_folder(sftp, source):
        target.mkdir(exist_ok=True)
        names = sorted(sftp.listdir(source))
        return sum(_get(sftp, f"{source.rstrip('/')}/{name}", target / name) for name in names)
    sftp.get(source, str(target))
    target.chmod((sftp.stat(source).st_mode or 0o644) & 0o777)
    return 1


def _is_folder(sftp: paramiko.SFTPClient, path: str) -> bool:
    try:
        return (sftp.stat(path).st_mode or 0) & 0o170000 == 0o040000
    except FileNotFoundError:
        return False
