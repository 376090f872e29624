"""Root file systems by mmdebstrap: the guests' root as ext4, builder roots as folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vm.apt import find_mirror
from vm.cache import Artefact, Cache, Progress, remove_tree
from vm.matrix import BuilderSpec, RootSpec
from vm.process import run
from vm.settings import Settings

# Raise when what is done to a root changes without the inputs below changing.
_ROOT_RECIPE = 1
_BUILDER_RECIPE = 1

_DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)

# Keys come from the initrd, so that the image holds no secret and is the same
# for every cache.  Without PAM and DNS a log-in takes half the time.
_SSHD_CONFIG = """\
Port 22
AddressFamily inet
HostKey /run/djp/host_key
AuthorizedKeysFile /run/djp/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxSessions 64
MaxStartups 64
LogLevel ERROR
SetEnv LC_ALL=C.UTF-8
Subsystem sftp internal-sftp
"""


def _mmdebstrap(suite: str, packages: tuple[str, ...], target: Path, settings: Settings) -> None:
    """Make a minimal root with `packages` as a tar file."""
    mirror = find_mirror(settings)
    run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            *[f"--dpkgopt={option}" for option in _DPKG_OPTIONS],
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=Acquire::Retries "3"',
            suite,
            str(target),
            *mirror.sources(suite),
        ],
        doing=f"making a Debian {suite} root with mmdebstrap",
        timeout=1800 * settings.scale,
        hint="is the mirror reachable? DJP_MIRROR names another one",
    )


def _versions(tree: Path) -> dict[str, str]:
    """Package -> version of what is installed in a root."""
    versions: dict[str, str] = {}
    for stanza in (tree / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if "Package" in fields and "Version" in fields:
            versions[fields["Package"]] = fields["Version"]
    return versions


class Faked:
    """Run tools that must see root as the owner of files.

    As root they run as they are.  For an ordinary user they run under fakeroot,
    which keeps the ownership it was told of in `state`.
    """

    def __init__(self, state: Path) -> None:
        self._prefix: list[str] = []
        if os.geteuid() != 0:
            state.touch()
            self._prefix = ["fakeroot", "-i", str(state), "-s", str(state), "--"]

    def run(self, argv: list[str], *, doing: str, timeout: float) -> str:
        """As `vm.process.run`."""
        return run([*self._prefix, *argv], doing=doing, timeout=timeout)


def make_ext4(
    tree: Path, image: Path, *, size_mib: int, label: str, faked: Faked, scale: float
) -> None:
    """Write `tree` into a new ext4 `image` of `size_mib` MiB (sparse), without mounting."""
    faked.run(
        [
            "mke2fs", "-q", "-t", "ext4", "-L", label, "-m", "0", "-d", str(tree),
            # all tables written now: no ext4lazyinit thread works behind a test's back
            "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
            "-J", "size=16",
            str(image), f"{size_mib}M",
        ],
        doing=f"writing the {label} file system",
        timeout=600 * scale,
    )  # fmt: skip


def guest_root(spec: RootSpec, cache: Cache, settings: Settings, progress: Progress) -> Artefact:
    """The root file system all guests share: `root.ext4`, used read-only."""

    def make(folder: Path) -> Mapping[str, Any]:
        tar, tree = folder / "root.tar", folder / "tree"
        progress(f"root: mmdebstrap {spec.suite} with {', '.join(spec.packages)}")
        _mmdebstrap(spec.suite, spec.packages, tar, settings)
        faked = Faked(folder / "fakeroot.state")
        tree.mkdir()
        faked.run(
            ["tar", "-x", "--numeric-owner", "-C", str(tree), "--exclude=./dev/*", "-f", str(tar)],
            doing="unpacking the root",
            timeout=600 * settings.scale,
        )
        tar.unlink()
        (tree / "etc/ssh/sshd_config").write_text(_SSHD_CONFIG)
        (tree / "etc/hostname").write_text("djprobes\n")
        (tree / "etc/hosts").write_text("127.0.0.1 localhost djprobes\n")
        for name in ("usr/lib/modules", "usr/src", "mnt"):
            (tree / name).mkdir(exist_ok=True)
        for key in (tree / "etc/ssh").glob("ssh_host_*"):
            key.unlink()  # made at install: the same in every guest, and known to none
        make_ext4(
            tree,
            folder / "root.ext4",
            size_mib=spec.size_mib,
            label="djp-root",
            faked=faked,
            scale=settings.scale,
        )
        versions = _versions(tree)
        remove_tree(tree)
        (folder / "fakeroot.state").unlink(missing_ok=True)
        return {"packages": versions}

    inputs = {
        "recipe": _ROOT_RECIPE,
        "suite": spec.suite,
        "packages": sorted(spec.packages),
        "size_mib": spec.size_mib,
        "sshd_config": _SSHD_CONFIG,
        "dpkg": _DPKG_OPTIONS,
    }
    return cache.obtain("root", inputs, make, progress)


def builder_root(
    spec: BuilderSpec, cache: Cache, settings: Settings, progress: Progress
) -> Artefact:
    """A root with one suite's compiler, as the folder `rootfs`."""

    def make(folder: Path) -> Mapping[str, Any]:
        tar, tree = folder / "root.tar", folder / "rootfs"
        progress(f"builder: mmdebstrap {spec.suite} with {', '.join(spec.packages)}")
        _mmdebstrap(spec.suite, spec.packages, tar, settings)
        tree.mkdir()
        run(
            ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", str(tree),
             "--exclude=./dev/*", "-f", str(tar)],
            doing="unpacking the builder root",
            timeout=600 * settings.scale,
        )  # fmt: skip
        tar.unlink()
        for name in ("usr/lib/modules", "usr/src", "build", "kernel"):
            (tree / name).mkdir(exist_ok=True)
        return {"packages": _versions(tree)}

    inputs = {
        "recipe": _BUILDER_RECIPE,
        "suite": spec.suite,
        "packages": sorted(spec.packages),
        "dpkg": _DPKG_OPTIONS,
    }
    return cache.obtain("builder", inputs, make, progress)
