"""All that a guest is made of, brought together for one matrix entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm.builder import guest_init
from vm.cache import Artefact, Cache, Progress, silent
from vm.initrd import make_initrd
from vm.kconfig import check_config
from vm.kernels import kernel_artefact
from vm.keys import ssh_keys
from vm.matrix import KernelSpec, Matrix
from vm.roots import guest_root
from vm.settings import Settings

SNIPPET = Path(__file__).resolve().parent.parent / "Kconfig.snippet"

# What every guest is told.  panic=-1 with QEMU's -no-reboot: a dead guest ends
# QEMU at once.  loglevel=5: warnings and oopses reach the console, the rest of
# the boot does not (an emulated serial port is slow).  tsc=reliable: the clock
# source watchdog would take a restored snapshot for a broken clock.
BASE_CMDLINE = (
    "console=ttyS0",
    "loglevel=5",
    "panic=-1",
    "tsc=reliable",
    "net.ifnames=0",
)


@dataclass(frozen=True)
class Images:
    """The artefacts of one guest."""

    spec: KernelSpec
    root: Artefact
    kernel: Artefact
    init: Artefact
    keys: Artefact
    initrd: Artefact

    @property
    def release(self) -> str:
        """The kernel's release, as `uname -r` says it."""
        return str(self.kernel.details["release"])

    def cmdline(self, extra: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The kernel command line: the base, the matrix entry's words, then `extra`."""
        oops = ("oops=panic",) if self.spec.panic_on_oops else ()
        return (*BASE_CMDLINE, *oops, *self.spec.cmdline, *extra)

    def keys_of(self) -> dict[str, str]:
        """The keys of all artefacts, for what is derived from them."""
        parts = (self.root, self.kernel, self.init, self.keys, self.initrd)
        return {part.kind: part.key for part in parts}


def prepare(name: str, settings: Settings, progress: Progress = silent) -> Images:
    """Make (or find) all images of the matrix entry `name` and check its kernel's config.

    Raises ConfigError for an unknown name, KernelConfigError when the kernel
    lacks what `Kconfig.snippet` asks for, InfrastructureError or BuildError when
    an image can't be made.
    """
    matrix = Matrix.load()
    spec = matrix.kernel(name)
    cache = Cache(settings.cache, settings.scale)
    keys = ssh_keys(cache, progress)
    kernel = kernel_artefact(spec, cache, settings, progress)
    check_config(SNIPPET, kernel.file("config"), str(kernel.details["release"]))
    # one init, and one root, for all kernels: from the root's own suite
    init = guest_init(matrix.builders[matrix.root.suite], cache, settings, progress)
    initrd = make_initrd(kernel, init, keys, cache, settings, progress)
    root = guest_root(matrix.root, cache, settings, progress)
    return Images(spec, root, kernel, init, keys, initrd)
