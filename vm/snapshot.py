"""Boot once, save, and start every later guest from there.

A snapshot is the guest's state right after its ready mark, and the disk overlay
as it was then.  Guests started from it write to overlays of their own, so they
share nothing and nothing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vm.cache import Artefact, Cache, Progress
from vm.emulator import Emulator
from vm.images import Images
from vm.process import run
from vm.qemu import Disk, QemuBinary, QemuSpec
from vm.settings import Settings

_RECIPE = 1


def with_root(spec: QemuSpec, disk: Disk) -> QemuSpec:
    """`spec` with another first disk."""
    return replace(spec, disks=(disk, *spec.disks[1:]))


def obtain_snapshot(
    binary: QemuBinary,
    spec: QemuSpec,
    images: Images,
    settings: Settings,
    progress: Progress,
    *,
    boot_timeout: float,
) -> Artefact:
    """The snapshot for exactly this QEMU, hardware and set of images: `state`, `disk.qcow2`.

    Raises BootError when the guest to be saved does not come up.
    """
    root = images.root.file("root.ext4")

    def make(folder: Path) -> Mapping[str, Any]:
        progress(f"snapshot: booting {images.spec.name} once, to save it")
        disk = folder / "disk.qcow2"
        # relative, so that the cache can be moved; the folder is renamed at the same depth
        backing = os.path.relpath(root, folder)
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, str(disk)],
            doing="making the snapshot's disk overlay",
            timeout=60 * settings.scale,
        )
        console = folder / "console.log"
        keep = with_root(spec, Disk(disk, "qcow2", "keep"))
        with Emulator(binary, keep, console, scale=settings.scale) as emulator:
            ready = emulator.wait_for("djp: ready", boot_timeout)
            emulator.save(folder / "state")
        return {"ready": ready, "images": images.keys_of()}

    inputs = {
        "recipe": _RECIPE,
        "qemu": binary.identity,
        "hardware": spec.fingerprint(),
        "images": images.keys_of(),
    }
    return Cache(settings.cache, settings.scale).obtain("snapshot", inputs, make, progress)


def from_snapshot(spec: QemuSpec, snapshot: Artefact) -> QemuSpec:
    """`spec` over the snapshot's disk."""
    return with_root(spec, Disk(snapshot.file("disk.qcow2"), "qcow2", "throwaway"))
