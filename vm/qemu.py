"""Which QEMU, and with which arguments: all as values, nothing is started here."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm.errors import InfrastructureError
from vm.process import host_env, run
from vm.settings import Settings

# -cpu for each accelerator.  cx16=off: Debian's kernels then avoid cmpxchg16b,
# which QEMU before 8 gets wrong (guest/check.c), at no cost to anything else.
CPU_OF = {"kvm": "host", "tcg": "max,cx16=off", "icount": "max,cx16=off"}
CHECK_CPU_OF = {"kvm": "host", "tcg": "max", "icount": "max"}
# icount: the CPUs take turns on one host thread, and a guest's nanosecond is one
# instruction; while all are idle, time passes as it does outside.
_ACCEL_OF = {
    "kvm": ("kvm",),
    "tcg": ("tcg,thread=multi",),
    "icount": ("tcg,thread=single", "-icount", "shift=0"),
}


@dataclass(frozen=True)
class QemuBinary:
    """An emulator; `identity` changes when the file behind `path` does."""

    path: str
    version: tuple[int, ...]
    text: str
    identity: str


def parse_version(text: str) -> tuple[int, ...]:
    """(10, 0, 2) from the first line of `qemu-system-x86_64 --version`; () if there is none."""
    match = re.search(r"version (\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def find_qemu(settings: Settings) -> QemuBinary:
    """DJP_QEMU, or qemu-system-x86_64 on the PATH.

    Raises InfrastructureError when it is missing or is no QEMU.
    """
    wanted = settings.qemu or "qemu-system-x86_64"
    path = shutil.which(wanted, path=host_env(os.environ)["PATH"])
    if path is None:
        raise InfrastructureError(
            "starting a guest",
            "there is no QEMU",
            value=wanted,
            hint="run `make bootstrap`, or point DJP_QEMU at a qemu-system-x86_64",
        )
    text = run([path, "--version"], doing="asking QEMU its version", timeout=20 * settings.scale)
    first = text.splitlines()[0] if text else ""
    version = parse_version(first)
    if not version:
        raise InfrastructureError(
            "starting a guest", "this does not say which QEMU it is", value=path, output=text
        )
    stat = Path(path).resolve().stat()
    return QemuBinary(path, version, first, f"{first}|{stat.st_size}|{stat.st_mtime_ns}")


@dataclass(frozen=True)
class Sockets:
    """Unix sockets of one guest, in a folder with a short name (their paths are limited)."""

    folder: Path

    @property
    def qmp(self) -> Path:
        """We listen, QEMU connects: no waiting for a file to appear."""
        return self.folder / "qmp"

    @property
    def control(self) -> Path:
        """We listen, QEMU connects; the guest's init is at the other end."""
        return self.folder / "control"

    @property
    def console(self) -> Path:
        """QEMU listens; one client at a time can attach to the guest's console."""
        return self.folder / "console"


@dataclass(frozen=True)
class Disk:
    """A disk for the guest.

    `mode` is "throwaway" (writes go to an unnamed file that vanishes with QEMU),
    "keep" (writes go to the file) or "readonly".
    """

    path: Path
    form: str
    mode: str


@dataclass(frozen=True)
class QemuSpec:
    """The hardware and the kernel of one guest; `mem` is in MiB."""

    accelerator: str
    cpu: str
    smp: int
    mem: int
    kernel: Path
    initrd: Path
    cmdline: tuple[str, ...]
    disks: tuple[Disk, ...] = ()
    network: bool = True

    def _machine(self) -> list[str]:
        return [
            "-machine", "q35", "-accel", *_ACCEL_OF[self.accelerator], "-cpu", self.cpu,
            "-smp", str(self.smp), "-m", f"{self.mem}M",
            "-nodefaults", "-display", "none", "-no-reboot", "-no-user-config",
        ]  # fmt: skip

    def _devices(self) -> list[str]:
        argv = ["-device", "virtio-rng-pci,rng=rng0"]
        if self.network:
            argv += ["-device", "virtio-net-pci,netdev=net0,romfile="]
        for number, _disk in enumerate(self.disks):
            argv += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        return argv

    def _backends(self) -> list[str]:
        argv = ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
        if self.network:
            # port 0: the kernel picks a free one, and nobody can take it from us
            argv += ["-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]
        for number, disk in enumerate(self.disks):
            path = str(disk.path).replace(",", ",,")
            words = [f"if=none,id=disk{number},file={path},format={disk.form}"]
            words += ["readonly=on"] if disk.mode == "readonly" else []
            words += ["snapshot=on"] if disk.mode == "throwaway" else []
            argv += ["-drive", ",".join(words)]
        return argv

    def argv(
        self, binary: QemuBinary, sockets: Sockets, console_log: Path, *, incoming: bool = False
    ) -> list[str]:
        """The command line.  With `incoming` the guest waits for a saved state over QMP."""
        log = str(console_log).replace(",", ",,")
        argv = [binary.path, *self._machine()]
        argv += ["-kernel", str(self.kernel), "-initrd", str(self.initrd)]
        argv += ["-append", " ".join(self.cmdline)]
        argv += ["-chardev", f"socket,id=qmp,path={sockets.qmp}", "-mon", "qmp,mode=control"]
        argv += [
            "-chardev",
            f"socket,id=console,path={sockets.console},server=on,wait=off,logfile={log}",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=control,path={sockets.control}",
            "-serial", "chardev:control",
        ]  # fmt: skip
        argv += [*self._backends(), *self._devices()]
        if incoming:
            argv += ["-incoming", "defer"]
        return argv

    def fingerprint(self) -> dict[str, Any]:
        """What a saved state depends on, without paths and ports."""
        return {
            "machine": self._machine(),
            "devices": self._devices(),
            "cmdline": list(self.cmdline),
        }
