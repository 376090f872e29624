"""A running guest as an object: boot it, log in, look at it, end it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pexpect import fdpexpect

from vm.accel import COUNTED, Accelerator, check_emulator, choose_accelerator
from vm.cache import Artefact, Cache, Progress, silent
from vm.emulator import Emulator
from vm.errors import BootError, GuestCrashError, InfrastructureError, VmError
from vm.images import Images, prepare
from vm.matrix import KernelSpec
from vm.process import tail
from vm.qemu import Disk, QemuBinary, QemuSpec, find_qemu
from vm.settings import Settings
from vm.snapshot import from_snapshot, obtain_snapshot
from vm.state import GuestState, RunFolder, SshEndpoint, run_folder

_KEPT_DEAD = 20  # how many crashed guests' consoles are kept


@dataclass(frozen=True)
class Plan:
    """What is needed to start a guest, all checked: the host's part is known to be good."""

    images: Images
    binary: QemuBinary
    accelerator: Accelerator
    spec: QemuSpec


def plan(
    name: str,
    settings: Settings,
    progress: Progress = silent,
    *,
    smp: int | None = None,
    mem: int | None = None,
    cmdline_extra: Sequence[str] = (),
    icount: bool = False,
) -> Plan:
    """Prepare the images, check the emulator and choose the accelerator for `name`."""
    images = prepare(name, settings, progress)
    binary = find_qemu(settings)
    accelerator = COUNTED if icount else choose_accelerator(binary, images, settings, progress)
    check_emulator(binary, accelerator, images, settings, progress)
    spec = QemuSpec(
        accelerator=accelerator.name,
        cpu=accelerator.cpu,
        smp=smp or images.spec.smp,
        mem=mem or images.spec.mem,
        kernel=images.kernel.file("vmlinuz"),
        initrd=images.initrd.file("initrd"),
        cmdline=images.cmdline(tuple(cmdline_extra)),
        disks=(
            Disk(images.root.file("root.ext4"), "raw", "throwaway"),
            Disk(images.kernel.file("kernel.ext4"), "raw", "readonly"),
        ),
    )
    return Plan(images, binary, accelerator, spec)


class Machine:
    """A guest that is up.  Make one with `Machine.boot`, use it in a `with` block.

    It ends with the process that made it, however that ends.
    """

    def __init__(
        self, made: Plan, emulator: Emulator, folder: RunFolder, stack: contextlib.ExitStack
    ) -> None:
        """Not for users: see `boot`."""
        self._plan = made
        self._emulator = emulator
        self._folder = folder
        self._stack = stack
        self.name = made.images.spec.name
        self.instance = folder.path.name
        self.pid = emulator.pid
        self.release = made.images.release
        self.accelerator = made.accelerator.name
        self.kernel: KernelSpec = made.images.spec
        self.images: Images = made.images
        self.console_log: Path = folder.console_log
        self.console_socket: Path = emulator.sockets.console
        self.restored = False
        self.boot_seconds = 0.0
        self.ssh = SshEndpoint(
            "127.0.0.1", emulator.ssh_port(), "root", made.images.keys.file("id_ed25519")
        )

    @classmethod
    def boot(
        cls,
        name: str,
        *,
        snapshot: bool = True,
        smp: int | None = None,
        mem: int | None = None,
        cmdline_extra: Sequence[str] = (),
        icount: bool = False,
        timeout: float = 60.0,
        settings: Settings | None = None,
        progress: Progress = silent,
        instance: str | None = None,
        owner: str = "library",
    ) -> Machine:
        """Start the guest `name` of the matrix and return it when sshd listens.

        With `snapshot` it is restored from a state saved right after boot, which
        is made if it is not there yet.  `mem` is in MiB, `timeout` in seconds
        (before scaling) for the guest alone, not for making images.  With `icount`
        a nanosecond of the guest's clocks is one instruction that it executed, on
        any of its CPUs, which take turns.

        Raises ConfigError, InfrastructureError, BuildError, KernelConfigError or
        BootError; none of them leaves a QEMU behind.
        """
        settings = settings or Settings.from_env()
        if instance is None:
            instance = f"{name}-{os.getpid()}-{secrets.token_hex(3)}"
        folder = run_folder(settings.cache, instance)
        with contextlib.ExitStack() as stack:
            stack.enter_context(folder.own())
            if folder.console_log.exists():  # of a crash, perhaps not read yet
                folder.console_log.replace(folder.path / "console.previous.log")
            state = GuestState(
                instance, name, "starting", owner, os.getpid(), time.time(), folder.console_log
            )
            folder.write(state)
            try:
                made = plan(
                    name,
                    settings,
                    progress,
                    smp=smp,
                    mem=mem,
                    cmdline_extra=cmdline_extra,
                    icount=icount,
                )
                began = time.monotonic()
                progress(
                    f"guest: starting {name} ({made.images.release}) on "
                    f"{made.accelerator.name}: {made.accelerator.reason}"
                )
                emulator, restored = _start(made, folder, settings, progress, snapshot, timeout)
                stack.callback(emulator.close)
                machine = cls(made, emulator, folder, stack)
            except BaseException as exc:
                wrong = exc.wrong if isinstance(exc, VmError) else repr(exc)
                error = exc.to_dict() if isinstance(exc, VmError) else None
                folder.write(replace(state, phase="crashed", reason=wrong, error=error))
                _forget(settings.cache)
                raise
            machine.restored = restored
            machine.boot_seconds = round(time.monotonic() - began, 2)
            folder.write(machine.state(state))
            machine._stack = stack.pop_all()
        progress(
            f"guest: {'restored' if restored else 'booted'} in {machine.boot_seconds:.1f} s, "
            f"ssh on port {machine.ssh.port}"
        )
        return machine

    def state(self, base: GuestState | None = None) -> GuestState:
        """The guest as `djp vm ls` shows it."""
        base = base or self._folder.read()
        if base is None:
            raise InfrastructureError(
                f"reading the state of {self.instance}", "it is gone", value=str(self._folder.path)
            )
        return replace(
            base,
            phase="up",
            pid=self.pid,
            ssh=self.ssh,
            console_socket=self.console_socket,
            release=self.release,
            accelerator=self.accelerator,
            boot_seconds=self.boot_seconds,
        )

    # --- looking at it ----------------------------------------------------

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable once QEMU has ended, for poll()."""
        return self._emulator.pidfd

    @property
    def accelerator_reason(self) -> str:
        """Why this accelerator was chosen, in a sentence."""
        return self._plan.accelerator.reason

    def crashed(self) -> bool:
        """Whether the guest oopsed, panicked or ended without being asked to."""
        return self._emulator.crashed()

    def check(self, doing: str = "using the guest") -> None:
        """Raise GuestCrashError, with the console's tail, if the guest has crashed."""
        if self.crashed():
            raise self._emulator.crash_error(doing)

    def wait_crash(self, timeout: float = 30.0) -> GuestCrashError:
        """Wait for QEMU to end by itself and return the error that describes it.

        `timeout` is in seconds, before scaling.  Raises BootError (nothing else
        fits) when the guest is still running then.
        """
        if not self._emulator.wait(timeout * self._emulator.scale):
            raise BootError(
                f"waiting for {self.name} to die", "it lives", console=self.console_tail(10)
            )
        return self._emulator.crash_error(f"running {self.name}")

    def console_text(self) -> str:
        """All that the guest wrote to its serial console (since the restore, if it was)."""
        return self._emulator.console_text()

    def console_tail(self, lines: int = 30) -> str:
        """The last `lines` lines of the serial console."""
        return tail(self.console_text(), lines)

    @contextlib.contextmanager
    def console(self, timeout: float = 30.0) -> Iterator[fdpexpect.fdspawn[str]]:
        """A pexpect session on the serial console, where a root shell waits.

        One at a time.  `timeout` in seconds (before scaling) is pexpect's default.
        """
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
            line.connect(str(self.console_socket))
            yield fdpexpect.fdspawn(
                line.fileno(), timeout=timeout * self._emulator.scale, encoding="utf-8"
            )

    def qmp(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Run a QMP command (underscores in argument names stand for dashes).

        Raises InfrastructureError when QEMU refuses it, GuestCrashError when QEMU is gone.
        """
        return self._emulator.qmp(
            command, {name.replace("_", "-"): value for name, value in arguments.items()}
        )

    # --- the end ----------------------------------------------------------

    def close(self) -> None:
        """End the guest.  Its console log is kept only if it crashed.  Can be called again."""
        crashed = self.crashed()
        state = self._folder.read()
        reason = None
        if crashed:
            reason = self._emulator.crash_error("running").wrong
        self._emulator.close()
        if state is not None and state.phase == "up":
            phase = "crashed" if crashed else "stopped"
            self._folder.write(replace(state, phase=phase, reason=reason))
            if not crashed:
                self._folder.remove()
        self._stack.close()
        _forget(self._folder.path.parent.parent)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _start(
    made: Plan,
    folder: RunFolder,
    settings: Settings,
    progress: Progress,
    snapshot: bool,
    timeout: float,
) -> tuple[Emulator, bool]:
    """A QEMU whose guest is ready, and whether it came from a snapshot."""
    if snapshot:
        for attempt in (1, 2):
            saved = obtain_snapshot(
                made.binary, made.spec, made.images, settings, progress, boot_timeout=timeout
            )
            try:
                return _restore(made, saved, folder, settings, timeout), True
            except (BootError, InfrastructureError, GuestCrashError) as exc:
                # it may be damaged: make it anew, once
                progress(f"snapshot: {saved.key} did not restore ({exc.wrong}), dropped")
                Cache(settings.cache, settings.scale).drop(saved)
                folder.console_log.unlink(missing_ok=True)
                if attempt == 2:
                    raise
    emulator = Emulator(made.binary, made.spec, folder.console_log, scale=settings.scale)
    try:
        emulator.wait_for("djp: ready", timeout)
    except BaseException:
        emulator.close()
        raise
    return emulator, False


def _restore(
    made: Plan, saved: Artefact, folder: RunFolder, settings: Settings, timeout: float
) -> Emulator:
    """A QEMU running on from `saved`; its guest has answered and knows the time."""
    spec = from_snapshot(made.spec, saved)
    emulator = Emulator(made.binary, spec, folder.console_log, scale=settings.scale, incoming=True)
    try:
        emulator.load(saved.file("state"))
        now = time.time_ns()
        request = f"restored {now // 10**9} {now % 10**9} {secrets.token_hex(32)}"
        answer = emulator.ask(request, timeout=min(timeout, 15))
        if answer != "djp: ok restored":
            raise BootError(
                f"restoring {made.images.spec.name}", "the guest can't take it in", value=answer
            )
    except BaseException:
        emulator.close()
        raise
    return emulator


def _forget(cache: Path) -> None:
    """Remove what dead library guests left, but for the consoles of the last few."""
    dead: list[tuple[float, RunFolder]] = []
    for path in (cache / "run").glob("*"):
        folder = RunFolder(path)
        state = folder.read()
        if state is not None and state.owner == "library" and not folder.owned():
            dead.append((state.started, folder))
    for _started, folder in sorted(dead, key=lambda pair: pair[0])[:-_KEPT_DEAD]:
        folder.remove()
