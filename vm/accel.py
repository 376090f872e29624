"""Choose the accelerator by booting on it, and test the emulator before trusting it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm.cache import Cache, Progress, silent
from vm.emulator import Emulator
from vm.errors import EmulatorError, VmError
from vm.images import Images
from vm.qemu import CHECK_CPU_OF, CPU_OF, QemuBinary, QemuSpec
from vm.settings import Settings

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A guest in check mode is up in 2 s on TCG; KVM that works needs less.
_KVM_SECONDS = 10
_CHECK_SECONDS = 60


@dataclass(frozen=True)
class Accelerator:
    """`name` is "kvm", "tcg" or "icount"; `reason` says in a sentence why."""

    name: str
    reason: str

    @property
    def cpu(self) -> str:
        """The -cpu argument that goes with it."""
        return CPU_OF[self.name]


#: Guest time is the number of instructions that were executed: slow, and the same each time.
COUNTED = Accelerator("icount", "instructions are to be counted, and only TCG does that")


def run_check(
    binary: QemuBinary, images: Images, accelerator: str, seconds: float, scale: float
) -> list[str]:
    """Boot init in check mode with cmpxchg16b shown; returns what it said.

    Raises BootError or InfrastructureError when no verdict comes within
    `seconds` * `scale`.
    """
    spec = QemuSpec(
        accelerator=accelerator,
        cpu=CHECK_CPU_OF[accelerator],
        smp=2,
        mem=256,
        kernel=images.kernel.file("vmlinuz"),
        initrd=images.initrd.file("initrd"),
        cmdline=images.cmdline(("djp_check=1",)),
        network=False,
    )
    with tempfile.TemporaryDirectory(prefix="djp-check-") as folder:
        console = Path(folder) / "console.log"
        with Emulator(binary, spec, console, scale=scale) as emulator:
            verdict = ""
            while not verdict.startswith(("djp: check ok", "djp: check corrupt")):
                verdict = emulator.wait_for("djp: check", seconds)
            return emulator.control_lines


def choose_accelerator(
    binary: QemuBinary, images: Images, settings: Settings, progress: Progress = silent
) -> Accelerator:
    """KVM if a guest boots on it within a deadline, TCG otherwise.

    Asked once for each boot of the host and each QEMU; the answer is cached.
    """
    if not _KVM.exists():
        return Accelerator("tcg", f"there is no {_KVM}")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_KVM} is not open to this user")

    def make(_folder: Path) -> Mapping[str, Any]:
        progress("accelerator: trying to boot a guest on KVM")
        try:
            run_check(binary, images, "kvm", _KVM_SECONDS, settings.scale)
        except VmError as exc:
            words = (exc.output or exc.wrong).strip().splitlines()[0]
            return {"name": "tcg", "reason": f"{_KVM} is there, but no guest boots on it: {words}"}
        return {"name": "kvm", "reason": "a guest boots on KVM"}

    inputs = {
        "qemu": binary.identity,
        "host_boot": _BOOT_ID.read_text().strip(),
        "kernel": images.kernel.key,
    }
    cache = Cache(settings.cache, settings.scale)
    details = cache.obtain("accelerator", inputs, make, progress).details
    return Accelerator(details["name"], details["reason"])


def check_emulator(
    binary: QemuBinary,
    accelerator: Accelerator,
    images: Images,
    settings: Settings,
    progress: Progress = silent,
) -> str:
    """Refuse an emulator that corrupts flags; returns the verdict of one that does not.

    A project that checks flags can't run on a CPU that gets them wrong.  Raises
    EmulatorError that names the emulator.  The good verdict is cached by the
    emulator's identity, a bad one is not.
    """

    def make(_folder: Path) -> Mapping[str, Any]:
        progress(f"emulator: checking the flags of {binary.text}")
        said = run_check(binary, images, accelerator.name, _CHECK_SECONDS, settings.scale)
        verdict = said[-1]
        if not verdict.startswith("djp: check ok"):
            raise EmulatorError(
                f"checking the emulator {binary.text}",
                "its cmpxchg16b corrupts the CPU's flags: what a guest computes on it is wrong",
                value=binary.path,
                output="\n".join(line.removeprefix("djp: ") for line in said[-6:]),
                hint="install QEMU 10 or later (`make bootstrap` takes it from the backports "
                "suite), and unset DJP_QEMU if it points at an older one",
            )
        return {"verdict": verdict}

    inputs = {
        "qemu": binary.identity,
        "accelerator": accelerator.name,
        "init": images.init.key,
    }
    cache = Cache(settings.cache, settings.scale)
    return str(cache.obtain("emulator-check", inputs, make, progress).details["verdict"])
