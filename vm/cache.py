"""A content-addressed store of things that take long to make.

The key of an artefact is the hash of everything that decides its content.  It
is made in a folder beside its place and renamed into it, under a lock, so a
reader never sees half of one and two builders never make the same one twice.
`manifest.json` inside says what it was made from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from vm.errors import InfrastructureError

Progress = Callable[[str], None]
"""Called with one line of text when something that takes time begins or ends."""


def silent(_message: str) -> None:
    """A progress callback that says nothing."""


def digest(inputs: Mapping[str, Any]) -> str:
    """A 24 digit hash of JSON-able `inputs`; the order of keys does not matter."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_digest(path: Path) -> str:
    """sha256 of one file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(root: Path, files: list[Path]) -> str:
    """sha256 over the names (relative to `root`), modes and contents of `files`."""
    total = hashlib.sha256()
    for path in sorted(files):
        mode = "x" if os.access(path, os.X_OK) else "-"
        total.update(f"{path.relative_to(root)}\0{mode}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Artefact:
    """One finished thing in the cache: a folder, and what it was made from."""

    kind: str
    key: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def details(self) -> Mapping[str, Any]:
        """What the maker recorded: package versions and the like."""
        result: Mapping[str, Any] = self.manifest["details"]
        return result

    def file(self, name: str) -> Path:
        """The path of a file in the artefact; raises InfrastructureError if it is gone."""
        path = self.path / name
        if not path.exists():
            raise InfrastructureError(
                f"using the cached {self.kind} {self.key}",
                "a file of it is missing",
                value=str(path),
                hint=f"remove {self.path} and run again, it will be made anew",
            )
        return path


@dataclass(frozen=True)
class Cache:
    """The cache folder; `scale` stretches the wait for another builder."""

    root: Path
    scale: float = 1.0

    def place(self, kind: str, inputs: Mapping[str, Any]) -> Path:
        """Where the artefact of `kind` made from `inputs` is, or will be."""
        return self.root / kind / digest(inputs)

    def find(self, kind: str, inputs: Mapping[str, Any]) -> Artefact | None:
        """The finished artefact, or None."""
        path = self.place(kind, inputs)
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return Artefact(kind, path.name, path, manifest)

    @contextmanager
    def lock(self, name: str, *, timeout: float = 3600) -> Iterator[None]:
        """Hold the lock `name` against other processes; waits `timeout` * scale seconds."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / f"{name}.lock", timeout=timeout * self.scale):
                yield
        except filelock.Timeout as exc:
            raise InfrastructureError(
                f"waiting for {name}",
                f"another process held its lock for {timeout * self.scale:.0f} s",
                value=str(folder / f"{name}.lock"),
                hint="see which process builds, with `fuser` on the lock file",
            ) from exc

    def obtain(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        progress: Progress = silent,
    ) -> Artefact:
        """The artefact, made by `make(folder)` if it is not there yet.

        `make` fills the empty folder and returns JSON-able details for the
        manifest.  If it raises, nothing is left behind.  Raises
        InfrastructureError for a full disk or a cache that can't be written.
        """
        found = self.find(kind, inputs)
        if found is not None:
            return found
        path = self.place(kind, inputs)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock(f"{kind}-{path.name}"):
                found = self.find(kind, inputs)  # made while we waited for the lock
                if found is None:
                    self._make(kind, path, inputs, make, progress)
                    found = self.find(kind, inputs)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise InfrastructureError(
                f"making the {kind} artefact",
                os.strerror(exc.errno),
                value=str(exc.filename or self.root),
                hint="free some space, or set DJP_CACHE to a folder on a larger disk",
            ) from exc
        if found is None:
            raise InfrastructureError(f"making the {kind} artefact", "it vanished", value=str(path))
        return found

    def _make(
        self,
        kind: str,
        path: Path,
        inputs: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        progress: Progress,
    ) -> None:
        """Make one artefact aside, then move it into its place."""
        for stale in path.parent.glob(f".{path.name}.*"):
            remove_tree(stale)  # a builder that was killed; we hold its lock
        if path.exists():
            remove_tree(path)  # no readable manifest: damaged
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        aside.chmod(0o755)
        began = time.monotonic()
        progress(f"{kind}: making")
        try:
            details = dict(make(aside))
            seconds = round(time.monotonic() - began, 2)
            manifest = {
                "kind": kind,
                "key": path.name,
                "inputs": inputs,
                "details": details,
                "seconds": seconds,
                "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "bytes": {p.name: p.stat().st_size for p in sorted(aside.iterdir()) if p.is_file()},
            }
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            aside.rename(path)
        except BaseException:
            remove_tree(aside)
            raise
        progress(f"{kind}: made in {seconds:.1f} s")

    def drop(self, artefact: Artefact) -> None:
        """Remove an artefact; readers that hold its files open keep them."""
        with self.lock(f"{artefact.kind}-{artefact.key}"):
            remove_tree(artefact.path)


def remove_tree(path: Path) -> None:
    """Remove a folder, also one whose folders were made read-only; absent is fine."""
    if not path.exists():
        return
    for folder, _dirs, _files in os.walk(path):
        if not os.access(folder, os.W_OK):
            Path(folder).chmod(0o700)
    shutil.rmtree(path)
