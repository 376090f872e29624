"""Run host tools by argv, and turn their failures into errors for people."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vm.errors import InfrastructureError

log = logging.getLogger(__name__)

# What to install when a tool is missing.
_PACKAGE_OF = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "bwrap": "bubblewrap",
    "cpio": "cpio",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "fakeroot": "fakeroot",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "tar": "tar",
}

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def tail(text: str, lines: int = 30) -> str:
    """The last `lines` lines of `text`."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def host_env(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the sbin folders on PATH (a user's Debian shell lacks them) and C locale."""
    path = [part for part in environ.get("PATH", "/usr/bin:/bin").split(":") if part]
    path += [part for part in _SBIN if part not in path]
    return {**environ, "PATH": ":".join(path), "LC_ALL": "C.UTF-8"}


def run(
    argv: Sequence[str],
    *,
    doing: str,
    timeout: float,
    cwd: Path | None = None,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    error: type[InfrastructureError] = InfrastructureError,
    hint: str | None = None,
) -> str:
    """Run `argv` and return its stdout as text; `timeout` is in seconds.

    Raises `error` with the end of the tool's output when it is missing, fails or
    takes longer than `timeout`.  `doing` says in words what it was run for.
    """

    log.debug("run: %s", shlex.join(argv))
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=host_env(os.environ if env is None else env),
        )
    except FileNotFoundError as exc:
        package = _PACKAGE_OF.get(argv[0])
        raise error(
            doing,
            f"the program {argv[0]!r} is not installed",
            hint=f"apt-get install {package}, or `make bootstrap`" if package else None,
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise error(
            doing,
            f"{argv[0]} did not end within {timeout:.0f} s",
            value=shlex.join(argv),
            output=tail(str(exc.stdout or "") + str(exc.stderr or "")),
            hint="set DJP_TIMEOUT_SCALE above 1 on a slow machine or network",
        ) from exc
    if done.returncode != 0:
        raise error(
            doing,
            f"{argv[0]} ended with status {done.returncode}",
            value=shlex.join(argv),
            output=tail(done.stdout + done.stderr),
            hint=hint,
        )
    return done.stdout
