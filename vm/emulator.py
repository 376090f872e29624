"""One running QEMU process: started on a pty that its owner holds, ended with it.

The pty is what ties the two together.  QEMU leads a session of its own on it;
when the owner goes, in whatever way, the kernel closes the owner's end and
hangs QEMU up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pexpect
import psutil

from vm.control import ControlLine, LineClosedError, LineTimeoutError
from vm.deadline import Deadline
from vm.errors import BootError, GuestCrashError, InfrastructureError, VmError
from vm.process import tail
from vm.qemu import QemuBinary, QemuSpec, Sockets
from vm.qmp import QemuGoneError, Qmp

log = logging.getLogger(__name__)

# A kernel message (with its time stamp, perhaps behind a shell's prompt) that is
# the start of an oops or a panic; `xxxx [#1]` is in the header of every oops.
_TROUBLE = re.compile(
    r"\[ *\d+\.\d+\](?:\[ *\w+\])? "
    r"((?:Kernel panic - not syncing|BUG: |kernel BUG at |Oops|general protection fault).*"
    r"|[^\n]*: [0-9a-f]{4} \[#\d+\].*)"
)
_POWERED_OFF = "reboot: Power down"


def find_trouble(console: str) -> str | None:
    """The first line of an oops or panic in the console's text, or None."""
    match = _TROUBLE.search(console)
    return match.group(1).strip() if match else None


def excerpt(console: str, lines: int = 30) -> str:
    """What an error shows of a console: its end, but from the first oops or panic on."""
    trouble = find_trouble(console)
    end = tail(console, lines)
    if trouble is None or trouble in end:
        return end
    kept = console[console.index(trouble) :].rstrip().splitlines()
    if len(kept) > 3 * lines:  # a long story: its beginning and its end
        kept = [*kept[: 2 * lines], "...", *kept[-lines:]]
    return "\n".join(kept)


class Emulator:
    """A QEMU process with its monitor and control line.

    Use it as a context manager, or call `close`.  Everything it waits for has a
    deadline, and the process's own end is part of every wait.
    """

    def __init__(
        self,
        binary: QemuBinary,
        spec: QemuSpec,
        console_log: Path,
        *,
        scale: float = 1.0,
        incoming: bool = False,
    ) -> None:
        self.binary = binary
        self.spec = spec
        self.console_log = console_log
        self.scale = scale
        self._closing = False
        self._status: int | None = None
        self._said = ""
        self._stack = contextlib.ExitStack()
        self.sockets = Sockets(Path(tempfile.mkdtemp(prefix="djp-")))
        self._stack.callback(shutil.rmtree, self.sockets.folder, ignore_errors=True)
        try:
            self._qmp = Qmp(self.sockets.qmp)
            self._stack.callback(self._qmp.close)
            self._control = ControlLine(self.sockets.control)
            self._stack.callback(self._control.close)
            argv = spec.argv(binary, self.sockets, console_log, incoming=incoming)
            log.debug("qemu: %s", shlex.join(argv))
            self._child = pexpect.spawn(argv[0], argv[1:], timeout=None, encoding="utf-8")
            untyped: Any = self._child
            untyped.ptyproc.delayafterclose = 0  # it would sleep for that long
            self.pid = int(self._child.pid or 0)
            self._pidfd = os.pidfd_open(self.pid)
            self._stack.callback(self._end)
            deadline = Deadline.after(20, scale)
            self._control.accept(self._pidfd, deadline)
            self._qmp.accept(self._pidfd, deadline)
        except (LineClosedError, LineTimeoutError, QemuGoneError) as exc:
            self.close()
            raise self._start_error(exc) from exc
        except BaseException:
            self.close()
            raise

    def _start_error(self, exc: Exception) -> InfrastructureError:
        """QEMU ended, or hung, before the guest had run at all."""
        return InfrastructureError(
            "starting QEMU",
            f"it ended with status {self._status}" if not str(exc) else str(exc),
            value=self.binary.text,
            output=tail(self._said),
            hint="QEMU's own words above say why; DJP_QEMU names another QEMU",
        )

    # --- state ------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the process still runs."""
        return self._status is None and not self._wait_end(Deadline.after(0))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for QEMU to end, `timeout` seconds (not scaled; None: for ever); True if it did."""
        if self._status is not None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def _wait_end(self, deadline: Deadline) -> bool:
        return self.wait(deadline.remaining)

    @property
    def pidfd(self) -> int:
        """Readable once QEMU has ended; for a caller's own poll."""
        return self._pidfd

    def console_text(self) -> str:
        """All that the guest wrote to its console so far."""
        try:
            return self.console_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def crashed(self) -> bool:
        """Whether the guest oopsed, panicked, or ended without being asked to."""
        console = self.console_text()
        if find_trouble(console) is not None:
            return True
        return not self._closing and not self.running and _POWERED_OFF not in console

    def ssh_port(self) -> int:
        """The port on 127.0.0.1 that leads to the guest's port 22.

        QEMU was told port 0; which one the kernel gave is the only TCP port it listens on.
        """
        listening = [
            connection.laddr.port
            for connection in psutil.Process(self.pid).net_connections(kind="tcp4")
            if connection.status == psutil.CONN_LISTEN
        ]
        if len(listening) != 1:
            raise InfrastructureError(
                "looking for the guest's SSH port",
                f"QEMU listens on {len(listening)} TCP ports, wanted 1",
                value=str(listening),
            )
        return int(listening[0])

    # --- the guest --------------------------------------------------------

    def wait_for(self, prefix: str, timeout: float) -> str:
        """Read the control line until a line starts with `prefix`; returns that line.

        `timeout` is in seconds before scaling.  Raises BootError when the guest
        says it failed, ends or stays silent.
        """
        deadline = Deadline.after(timeout, self.scale)
        doing = f"waiting for {prefix!r} from the guest"
        try:
            while True:
                line = self._control.read(self._pidfd, deadline)
                if line.startswith(prefix):
                    return line
                if line.startswith("djp: failed"):
                    raise self._boot_error(doing, line)
        except LineTimeoutError:
            raise self._boot_error(doing, f"nothing within {deadline.seconds:.0f} s") from None
        except LineClosedError:
            raise self._boot_error(doing, self._why_ended()) from None

    def ask(self, request: str, timeout: float = 10) -> str:
        """Ask the guest's init; returns its answer.  Raises BootError if there is none."""
        deadline = Deadline.after(timeout, self.scale)
        doing = f"asking the guest for {request.partition(' ')[0]!r}"
        try:
            return self._control.request(request, self._pidfd, deadline)
        except LineTimeoutError:
            raise self._boot_error(doing, f"no answer within {deadline.seconds:.0f} s") from None
        except LineClosedError:
            raise self._boot_error(doing, self._why_ended()) from None

    @property
    def control_lines(self) -> list[str]:
        """What the guest's init said so far."""
        return list(self._control.seen)

    def _why_ended(self) -> str:
        self.wait(5 * self.scale)
        self._collect()
        trouble = find_trouble(self.console_text())
        if trouble:
            return f"the guest died: {trouble}"
        if _POWERED_OFF in self.console_text():
            return "the guest powered off"
        return f"QEMU ended with status {self._status}"

    def _boot_error(self, doing: str, why: str) -> VmError:
        trouble = find_trouble(self.console_text())
        return BootError(
            doing,
            why if trouble is None or trouble in why else f"{why}; console: {trouble}",
            output=tail(self._said),
            console=excerpt(self.console_text()),
            console_log=self.console_log,
            hint="read the console log; DJP_TIMEOUT_SCALE=3 gives a slow machine more time",
        )

    def crash_error(self, doing: str) -> GuestCrashError:
        """The error for a guest that is found dead while `doing` something."""
        return GuestCrashError(
            doing,
            self._why_ended() if not self.running else "the guest oopsed",
            console=excerpt(self.console_text()),
            console_log=self.console_log,
            hint="the console log has the whole story",
        )

    # --- the monitor ------------------------------------------------------

    def qmp(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 30
    ) -> Any:  # noqa: ANN401
        """Run a QMP command; `timeout` in seconds before scaling.

        Raises InfrastructureError when QEMU refuses it, GuestCrashError when it is gone.
        """
        try:
            return self._qmp.execute(command, arguments, timeout=timeout * self.scale)
        except QemuGoneError as exc:
            raise self.crash_error(f"QMP {command}") from exc

    def save(self, path: Path) -> None:
        """Stop the guest and write its state to `path`; it stays stopped."""
        self.qmp("stop")
        self._migrate("migrate", path)

    def load(self, path: Path) -> None:
        """Load a saved state (QEMU was started with `incoming`) and run on."""
        self._migrate("migrate-incoming", path)
        self.qmp("cont")

    def _migrate(self, command: str, path: Path) -> None:
        try:
            self._qmp.migrate(command, {"uri": f"file:{path}"}, timeout=120 * self.scale)
        except QemuGoneError as exc:
            self.wait(5 * self.scale)
            self._collect()
            raise InfrastructureError(
                f"QMP {command}", str(exc), value=str(path), output=tail(self._said)
            ) from exc

    # --- the end ----------------------------------------------------------

    def _collect(self) -> None:
        """Reap the process if it has ended, and keep what it wrote."""
        if self._status is not None or not self.wait(0):
            return
        with contextlib.suppress(pexpect.EOF, pexpect.TIMEOUT):
            while True:
                self._said += self._child.read_nonblocking(4096, timeout=0)
        self._child.wait()
        exit_status, signal_number = self._child.exitstatus, self._child.signalstatus
        self._status = exit_status if exit_status is not None else -int(signal_number or 0)

    def _end(self) -> None:
        """End QEMU: ask, then kill; reap it."""
        if self._status is None and not self.wait(0):
            with contextlib.suppress(QemuGoneError, VmError):
                self._qmp.execute("quit", timeout=2 * self.scale)
            if not self.wait(3 * self.scale):
                os.kill(self.pid, signal.SIGKILL)
                self.wait(10 * self.scale)
        self._collect()
        self._child.close()
        os.close(self._pidfd)
        if self._status is None:
            self._status = -signal.SIGKILL

    def close(self) -> None:
        """End QEMU and remove its sockets; the console log stays.  Can be called again."""
        self._closing = self._closing or (self._status is None and self.running_quietly())
        self._stack.close()

    def running_quietly(self) -> bool:
        """`running`, also right for an emulator that never got a process."""
        return hasattr(self, "_pidfd") and self.running

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
