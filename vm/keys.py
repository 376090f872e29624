"""SSH keys of one cache: the host's user key and the guests' host key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from vm.cache import Artefact, Cache, Progress

_RECIPE = 1


def ssh_keys(cache: Cache, progress: Progress) -> Artefact:
    """`id_ed25519` to log in with and `host_key` of the guests, each with its .pub."""

    def make(folder: Path) -> Mapping[str, Any]:
        for name in ("id_ed25519", "host_key"):
            key = Ed25519PrivateKey.generate()
            private = folder / name
            private.touch(mode=0o600)
            private.write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            )
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            (folder / f"{name}.pub").write_bytes(public + b" djprobes\n")
        return {}

    return cache.obtain("keys", {"recipe": _RECIPE}, make, progress)
