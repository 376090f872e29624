"""What ``djp demo`` shows, part by part, as plain values.

A stock kernel is booted and probed for real; others than djprobes say whether it was right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from pyctl.errors import KernelLogError
from pyctl.guest import Guest
from pyctl.probes import Probes
from pyctl.quiescence import AUTO
from pyctl.verify.bulk import BulkResult, run_bulk
from pyctl.verify.jumps import Committed
from pyctl.verify.paths import PathComparison, PathRun

GUEST = "bookworm-cloud"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """The machine: what was booted on what, and what was checked before."""

    guest: str
    release: str
    qemu: str
    accelerator: str
    reason: str
    cpus: int
    options: int
    seconds: float


@dataclass(frozen=True)
class Loaded:
    """The kernel module in it: seconds to build (or find) and load it, and its map of all
    branch targets of the kernel."""

    seconds: float
    strategy: str
    branch_targets: int


@dataclass(frozen=True)
class Ending:
    """The kernel log over the whole run, without the faults that it must not have."""

    lines: int
    faults: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the log is clean."""
        return not self.faults


Part = Setting | Loaded | PathRun | Committed | BulkResult | Ending


def run_demo(
    name: str = GUEST, *, count: int = 1000, progress: Progress
) -> Generator[Part, None, None]:
    """Do it all; each part is given as soon as it is done. Close the generator (or use it up)
    and the guest is gone."""
    begin = time.monotonic()
    setting = _prepare(name, progress)
    start = time.monotonic()
    with Guest.boot(name, progress=progress) as guest:
        yield _with_seconds(setting, time.monotonic() - start)
        log = guest.kernel_log()
        yield _load(guest, progress)
        with PathComparison(guest, progress=progress) as comparison:
            yield comparison.measure("bypass")
            progress("one commit for all of them")
            yield comparison.commit()
            yield comparison.measure("jump")
        yield run_bulk(guest, count=count, progress=progress)
        progress("unloading djprobes")
        guest.unload()
        lines, faults = 0, tuple[str, ...]()
        try:
            lines = len(log.check())
        except KernelLogError as error:
            faults = error.lines
        yield Ending(lines, faults, time.monotonic() - begin)


def passed(part: Part) -> bool:
    """Whether a part shows what it has to show."""
    return bool(getattr(part, "passed", True))


def _prepare(name: str, progress: Progress) -> Setting:
    """Images, emulator and accelerator; the kernel's config is checked on the way, and a
    KernelConfigError names what is missing."""
    from vm.images import SNIPPET  # noqa: PLC0415 (vm needs QEMU and what goes with it)
    from vm.kconfig import parse_fragment  # noqa: PLC0415
    from vm.machine import plan  # noqa: PLC0415
    from vm.settings import Settings  # noqa: PLC0415

    made = plan(name, Settings.from_env(), progress)
    return Setting(
        guest=name,
        release=made.images.release,
        qemu=made.binary.text,
        accelerator=made.accelerator.name,
        reason=made.accelerator.reason,
        cpus=made.spec.smp,
        options=len(parse_fragment(SNIPPET.read_text())),
        seconds=0.0,
    )


def _with_seconds(setting: Setting, seconds: float) -> Setting:
    fields: dict[str, Any] = {**vars(setting), "seconds": seconds}
    return Setting(**fields)


def _load(guest: Guest, progress: Progress) -> Loaded:
    start = time.monotonic()
    progress("building djprobes for the guest's kernel, and loading it")
    guest.load(progress=progress)
    probes = Probes(guest.transport)
    targets = probes.features().values.get("branch_map_targets", 0)
    strategy = probes.strategy
    if strategy == AUTO:
        strategy = probes.auto_strategy
    return Loaded(time.monotonic() - start, strategy, int(targets))
