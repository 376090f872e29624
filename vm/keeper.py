"""Guests that outlive a command: `djp vm up` leaves a keeper behind that owns one.

The keeper is a process of its own session that runs the very class a test uses.
It ends when it is told to (SIGTERM), when QEMU ends, or when nobody has used the
guest for its idle limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from vm.cache import Cache, Progress, silent
from vm.errors import ConfigError, InfrastructureError, VmError
from vm.machine import Machine
from vm.matrix import Matrix
from vm.process import tail
from vm.settings import Settings
from vm.state import GuestState, RunFolder, guests, run_folder

DEFAULT_IDLE_LIMIT = 4 * 3600.0
"""Seconds without use after which a kept guest ends."""

_LOOK_EVERY = 60.0  # how often a keeper looks for SSH connections, in seconds


def lookup(instance: str, settings: Settings | None = None) -> GuestState:
    """The running guest that `djp vm up` started as `instance`.

    Raises ConfigError when there is none; it lists those that run.
    """
    settings = settings or Settings.from_env()
    state = run_folder(settings.cache, instance).look()
    if state is not None and state.phase == "up":
        return state
    up = [guest.instance for guest in guests(settings.cache) if guest.phase == "up"]
    wrong = "it is not running" if state is None else f"it is {state.phase}"
    raise ConfigError(
        f"looking for the guest {instance}",
        wrong + (f": {state.reason}" if state is not None and state.reason else ""),
        hint=f"djp vm up {instance}" + (f"  (running: {', '.join(up)})" if up else ""),
    )


def used(instance: str, settings: Settings) -> None:
    """Note that a guest was used now, which puts off its idle limit."""
    with contextlib.suppress(OSError):
        run_folder(settings.cache, instance).request.touch()


def up(
    name: str,
    settings: Settings,
    progress: Progress = silent,
    *,
    instance: str | None = None,
    snapshot: bool = True,
    idle_limit: float = DEFAULT_IDLE_LIMIT,
) -> tuple[GuestState, bool]:
    """Start a kept guest, or find it running: its state, and whether it ran already.

    `idle_limit` is in seconds, 0 means none.  Raises what `Machine.boot` raises.
    """
    Matrix.load().kernel(name)  # before anything is left behind under that name
    instance = instance or name
    with Cache(settings.cache, settings.scale).lock(f"up-{instance}"):
        state = run_folder(settings.cache, instance).look()
        if state is not None and state.phase == "up":
            if state.name != name:
                raise ConfigError(
                    f"starting {name} as {instance}",
                    f"a guest of that name runs {state.name}",
                    hint=f"djp vm down {instance}, or another --as name",
                )
            used(instance, settings)
            return state, True
        _launch(name, instance, settings, progress, snapshot, idle_limit)
        return lookup(instance, settings), False


def _launch(
    name: str,
    instance: str,
    settings: Settings,
    progress: Progress,
    snapshot: bool,
    idle_limit: float,
) -> None:
    """Start the keeper and pass on what it reports, until its guest is up."""
    folder = run_folder(settings.cache, instance)
    folder.path.mkdir(parents=True, exist_ok=True)
    keeper_log = folder.path / "keeper.log"
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "vm.keeper", name, "--as", instance]
    argv += ["--idle-limit", str(idle_limit), "--report", str(writer)]
    argv += [] if snapshot else ["--no-snapshot"]
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    with os.fdopen(reader) as report:
        try:
            with keeper_log.open("w") as output:
                keeper = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writer,),
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": path},
                )
        finally:
            os.close(writer)
        try:
            for line in report:  # ends when the keeper closes its end, or dies
                message = json.loads(line)
                if "up" in message:
                    return
                if "error" in message:
                    raise _as_error(message["error"])
                progress(message["progress"])
        except KeyboardInterrupt:
            keeper.terminate()
            raise
    raise InfrastructureError(
        f"starting the guest {instance}",
        f"its keeper ended with status {keeper.wait()}",
        output=tail(keeper_log.read_text(errors="replace")),
    )


def _as_error(data: dict[str, str | None]) -> VmError:
    """The error a keeper reported, as the class it was."""
    kinds = {kind.kind: kind for kind in _all_errors(VmError)}
    values = {key: value for key, value in data.items() if key not in ("kind", "asked", "wrong")}
    log = values.pop("console_log", None)
    return kinds.get(str(data["kind"]), VmError)(
        str(data["asked"]), str(data["wrong"]), console_log=Path(log) if log else None, **values
    )


def _all_errors(base: type[VmError]) -> Iterator[type[VmError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _all_errors(kind)


def down(instance: str, settings: Settings) -> GuestState:
    """End a guest and remove what is left of it; returns its last state.

    Raises ConfigError when there is no trace of it, InfrastructureError when it
    belongs to a program that runs (that program ends it).
    """
    folder = run_folder(settings.cache, instance)
    state = folder.look()
    if state is None and not folder.path.exists():
        known = ", ".join(guest.instance for guest in guests(settings.cache))
        raise ConfigError(
            f"ending the guest {instance}",
            "there is no such guest",
            hint=f"there are: {known}" if known else "djp vm ls lists them",
        )
    if state is not None and folder.owned():
        if state.owner != "keeper":
            raise InfrastructureError(
                f"ending the guest {instance}",
                "it belongs to a program that still runs",
                value=f"pid {state.owner_pid}",
                hint="end that program, and the guest goes with it",
            )
        _end_keeper(state, settings.scale)
    if folder.path.exists():
        folder.remove()
    return state or GuestState(instance, "?", "stopped", "keeper", 0, 0.0, folder.console_log)


def _end_keeper(state: GuestState, scale: float) -> None:
    """Ask the keeper to end, insist after a while.  Its guest can't outlive it."""
    try:
        pidfd = os.pidfd_open(state.owner_pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if poll.poll(15 * scale * 1000):
                return
        raise InfrastructureError(
            f"ending the guest {state.instance}", "its keeper does not end", value=str(pidfd)
        )
    finally:
        os.close(pidfd)


# --- the keeper itself ----------------------------------------------------------


def connected(port: int, pid: int) -> bool:
    """Whether anyone has an SSH connection to the guest of QEMU `pid` open."""
    with contextlib.suppress(psutil.Error):
        return any(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
            for connection in psutil.Process(pid).net_connections(kind="tcp4")
        )
    return False


class IdleClock:
    """When a guest was last used; all in seconds, `limit` 0 means that it never idles."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self.last = now

    def remaining(self, now: float) -> float | None:
        """Seconds until the limit, None without one."""
        return None if self.limit <= 0 else max(0.0, self.last + self.limit - now)

    def update(self, now: float, *, in_use: bool, touched: float) -> None:
        """Take note of a connection that is open `now`, and of the last `djp vm` command."""
        self.last = max(self.last, now if in_use else 0.0, touched)


def _touched(folder: RunFolder) -> float:
    try:
        return folder.request.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def keep(machine: Machine, folder: RunFolder, idle_limit: float, stop: int) -> str:
    """Wait until the guest should end or has ended; returns why.  `stop`: a readable fd ends it."""
    clock = IdleClock(idle_limit, time.time())
    poll = select.poll()
    poll.register(machine.pidfd, select.POLLIN)
    poll.register(stop, select.POLLIN)
    while True:
        left = clock.remaining(time.time())
        step = None if left is None else min(left, _LOOK_EVERY) * 1000
        ready = {fd for fd, _event in poll.poll(step)}
        if machine.pidfd in ready:
            return "QEMU ended"
        if stop in ready:
            return "asked to"
        now = time.time()
        clock.update(now, in_use=connected(machine.ssh.port, machine.pid), touched=_touched(folder))
        if clock.remaining(now) == 0.0:
            return f"not used for {idle_limit:.0f} s"


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor that becomes readable when SIGTERM or SIGINT comes."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)


def _reporter(fd: int | None) -> Callable[[dict[str, object]], None]:
    """Write messages to the command that started us, while it listens."""

    def report(message: dict[str, object]) -> None:
        if fd is not None:
            with contextlib.suppress(OSError):
                os.write(fd, json.dumps(message).encode() + b"\n")

    return report


def main(argv: list[str] | None = None) -> int:
    """Own one guest until it should end; the exit status is 0 unless it did not come up."""
    parser = argparse.ArgumentParser(prog="vm.keeper")
    parser.add_argument("name")
    parser.add_argument("--as", dest="instance")
    parser.add_argument("--no-snapshot", action="store_true")
    parser.add_argument("--idle-limit", type=float, default=DEFAULT_IDLE_LIMIT)
    parser.add_argument("--report", type=int)
    args = parser.parse_args(argv)
    report = _reporter(args.report)
    settings = Settings.from_env()
    instance = args.instance or args.name
    try:
        machine = Machine.boot(
            args.name,
            snapshot=not args.no_snapshot,
            settings=settings,
            progress=lambda message: report({"progress": message}),
            instance=instance,
            owner="keeper",
        )
    except VmError as exc:
        report({"error": exc.to_dict()})
        return 1
    with machine, _stop_signals() as stop:
        report({"up": instance})
        if args.report is not None:
            os.close(args.report)
        keep(machine, run_folder(settings.cache, instance), args.idle_limit, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
