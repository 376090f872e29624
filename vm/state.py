"""What is known of each guest on this host: one folder below `run/` in the cache.

`lock` is held by the guest's owner for as long as it lives, so a reader can tell
a guest that runs from what is left of one, whatever `state.json` says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from vm.cache import remove_tree
from vm.errors import ConfigError, InfrastructureError


@dataclass(frozen=True)
class SshEndpoint:
    """Where and with which key to log in."""

    host: str
    port: int
    user: str
    key: Path


@dataclass(frozen=True)
class GuestState:
    """A guest as others see it.

    `phase` is "starting", "up", "crashed" or "stopped"; `owner` is "keeper" (made
    by `djp vm up`) or "library".  `started` is in seconds since the epoch.
    """

    instance: str
    name: str
    phase: str
    owner: str
    owner_pid: int
    started: float
    console_log: Path
    pid: int | None = None
    ssh: SshEndpoint | None = None
    console_socket: Path | None = None
    release: str | None = None
    accelerator: str | None = None
    boot_seconds: float | None = None
    reason: str | None = None
    error: dict[str, Any] | None = None

    @property
    def kernel(self) -> str:
        """The matrix entry's name, for building modules."""
        return self.name

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-able data."""
        data = asdict(self)
        data["console_log"] = str(self.console_log)
        data["console_socket"] = str(self.console_socket) if self.console_socket else None
        if self.ssh is not None:
            data["ssh"] = {**asdict(self.ssh), "key": str(self.ssh.key)}
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GuestState:
        """The reverse of `to_dict`; raises TypeError or KeyError for other data."""
        values = dict(data)
        values["console_log"] = Path(values["console_log"])
        if values.get("console_socket"):
            values["console_socket"] = Path(values["console_socket"])
        if values.get("ssh"):
            values["ssh"] = SshEndpoint(**{**values["ssh"], "key": Path(values["ssh"]["key"])})
        return cls(**values)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one guest."""

    path: Path

    @property
    def console_log(self) -> Path:
        """Where the guest's serial console is written."""
        return self.path / "console.log"

    @property
    def request(self) -> Path:
        """Touched by `djp vm` commands, so that a keeper sees that its guest is used."""
        return self.path / "used"

    def write(self, state: GuestState) -> None:
        """Replace state.json at once; readers see the old or the new one."""
        aside = self.path / f".state.{os.getpid()}"
        aside.write_text(json.dumps(state.to_dict(), indent=2) + "\n")
        aside.replace(self.path / "state.json")

    def read(self) -> GuestState | None:
        """The state as it was last written, or None."""
        try:
            return GuestState.from_dict(json.loads((self.path / "state.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError):
            return None

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Hold the folder's lock; raises InfrastructureError when another process owns it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as exc:
            raise InfrastructureError(
                f"starting the guest {self.path.name}",
                "it is running already, under another owner",
                value=str(self.path),
                hint=f"djp vm down {self.path.name}",
            ) from exc
        try:
            yield
        finally:
            lock.release()

    def owned(self) -> bool:
        """Whether an owner lives."""
        if not (self.path / "lock").exists():
            return False
        lock = filelock.FileLock(self.path / "lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return True
        lock.release()
        return False

    def remove(self) -> None:
        """Remove the folder and, of an owner that could not, the sockets."""
        state = self.read()
        if state is not None and state.console_socket is not None:
            remove_tree(state.console_socket.parent)
        remove_tree(self.path)

    def look(self) -> GuestState | None:
        """The state, corrected by whether an owner still lives."""
        state = self.read()
        if state is None or self.owned():
            return state
        if state.phase in ("starting", "up"):
            return replace(state, phase="crashed", reason=state.reason or "its owner died")
        return state


def run_folder(cache: Path, instance: str) -> RunFolder:
    """The folder of the guest `instance`; raises ConfigError for what is no name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", instance):
        raise ConfigError(
            "naming a guest",
            "a name is letters, digits, '.', '_' and '-'",
            value=repr(instance),
            hint="choose another name",
        )
    return RunFolder(cache / "run" / instance)


def guests(cache: Path) -> list[GuestState]:
    """All guests of which a trace is left, running or not, by name."""
    found = [RunFolder(path).look() for path in sorted((cache / "run").glob("*")) if path.is_dir()]
    return [state for state in found if state is not None]
