"""What can go wrong, as exceptions that say what to do.

Every exception of this package is a :class:`DjprobesError`. Each carries its
facts as attributes (for programs) and renders as a message with a hint (for
people); :meth:`DjprobesError.as_dict` is what ``djp --json`` prints.
"""

from __future__ import annotations

import dataclasses
import errno as errno_module
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyctl.reasons import Reason

if TYPE_CHECKING:
    from pyctl.quiescence import Blocker


class DjprobesError(Exception):
    """Base of all errors of djprobes.

    ``message`` says what was asked and what is wrong, ``hint`` what to do.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def as_dict(self) -> dict[str, Any]:
        """The error as plain data: ``type``, ``message``, ``hint`` and the subclass's facts."""
        facts = {
            key: value
            for key, value in vars(self).items()
            if not key.startswith("_")
            and isinstance(value, str | int | float | list | tuple | None)
        }
        facts.pop("message", None)
        facts.pop("hint", None)
        return {
            "type": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            **{
                key: list(value) if isinstance(value, tuple) else value
                for key, value in facts.items()
            },
        }


class UsageError(DjprobesError):
    """An argument that can't be right, found before anything was asked of a host."""


class UnsupportedError(DjprobesError):
    """Asked for something that this version, or this host, does not offer."""


class ProtocolError(DjprobesError):
    """A file or a helper answered in a form that docs/debugfs.md does not know."""


class NotLoadedError(DjprobesError):
    """The kernel module is not loaded, or its debugfs folder can't be reached."""


class ModuleError(DjprobesError):
    """The kernel module could not be built, loaded or unloaded."""


class BusyError(ModuleError):
    """The kernel module can't be unloaded: a task would yet run in its memory. ``blockers``
    says which tasks, and where they are; ``owner`` is one of them, ``comm[pid]``."""

    def __init__(
        self, message: str, *, owner: str | None, blockers: Sequence[Blocker], hint: str | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.owner = owner
        self.blockers = tuple(blockers)

    def as_dict(self) -> dict[str, Any]:
        """As for every error, and the blockers as plain data."""
        return super().as_dict() | {"blockers": [dataclasses.asdict(one) for one in self.blockers]}


class UnstableError(DjprobesError):
    """Counters kept moving, so two readings could not be compared."""

    def __init__(self, message: str, *, moving: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.moving = tuple(moving)


class WorkloadError(DjprobesError):
    """A workload could not be set up or did not do what it was asked."""


class OracleError(DjprobesError):
    """An independent counter could not be started or read."""


class TransportError(DjprobesError):
    """The way to the host failed; nothing is known about what was asked."""


class RemoteOSError(TransportError):
    """A system call on the host failed: ``errno``, ``strerror``, ``operation``, ``path``."""

    def __init__(
        self, errno: int, *, operation: str, path: str, host: str, hint: str | None = None
    ) -> None:
        self.errno = errno
        self.strerror = os.strerror(errno)
        self.operation = operation
        self.path = path
        self.host = host
        super().__init__(
            f"{host}: {operation} {path}: {self.strerror} ({errno_name(errno)})", hint=hint
        )


class RemoteCommandError(TransportError):
    """A command on the host ended with a status other than 0."""

    def __init__(
        self,
        argv: Sequence[str],
        status: int,
        *,
        stdout: bytes = b"",
        stderr: bytes = b"",
        host: str = "",
        hint: str | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.host = host
        said = (stderr or stdout).decode(errors="replace").strip()
        tail = "\n".join(f"  | {line}" for line in said.splitlines()[-20:])
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        text = f"{host or 'host'}: {shorten(shlex.join(argv))} {how}"
        super().__init__(f"{text}\n{tail}" if tail else text, hint=hint)


class RemoteTimeoutError(TransportError):
    """A command or request was not answered before its deadline."""


class ControlError(DjprobesError):
    """The kernel refused a write to a file of djprobes; nothing of it was applied.

    Attributes (see docs/debugfs.md, ``last_error``): ``errno``; ``written``, the whole
    text of the write; ``line`` and ``column``, counted from 1; ``text``, that line;
    ``token``; ``reason``, a :class:`~pyctl.reasons.Reason`, or the code as a ``str`` when
    this version does not know it; ``offending``, an address with its symbol; ``owner``,
    whose the bytes are that stand there (``kprobe``, ``ftrace``, ...), or the task in the
    way, ``comm[pid]``.
    What the kernel did not tell is ``None``.
    """

    def __init__(
        self,
        *,
        errno: int,
        written: str,
        file: str = "control",
        line: int | None = None,
        text: str | None = None,
        token: str | None = None,
        column: int | None = None,
        reason: Reason | str | None = None,
        message: str | None = None,
        hint: str | None = None,
        offending: str | None = None,
        owner: str | None = None,
    ) -> None:
        self.errno = errno
        self.written = written
        self.file = file
        self.line = line
        self.text = text if text is not None else line_of(written, line)
        self.token = token
        self.column = column
        self.reason = reason
        self.offending = offending
        self.owner = owner
        super().__init__(message or os.strerror(errno), hint=hint)

    def __str__(self) -> str:
        count = len(self.written.splitlines())
        where = f"line {self.line} of {count}" if self.line and count > 1 else "the write"
        code = f"{self.reason}: " if self.reason else ""
        parts = [
            f"the kernel refused {where} to {self.file}: "
            f"{code}{self.message} ({errno_name(self.errno)})"
        ]
        if self.text:
            parts.append(f"    {self.text}")
            if self.column and self.column <= len(self.text) + 1:
                # Tabs are kept, so that the caret stands under the token in any terminal.
                lead = "".join("\t" if c == "\t" else " " for c in self.text[: self.column - 1])
                parts.append(f"    {lead}^{'~' * (len(self.token or ' ') - 1)}")
        if self.reason == Reason.DETOURS_BUSY and self.owner:
            parts.append(f"  in the way: {self.owner} at {self.offending or 'an unknown place'}")
        elif self.offending:
            whose = f" (it is {self.owner}'s)" if self.owner else ""
            parts.append(f"  offending: {self.offending}{whose}")
        if self.hint:
            parts.append(f"  hint: {self.hint}")
        if count > 1:
            parts.append("  nothing of this write was applied")
        return "\n".join(parts)


class RefusedError(ControlError):
    """The command was understood; this address can't take a probe (``reason`` says why)."""


class KernelLogError(DjprobesError):
    """The kernel log has new lines that tell of a fault: ``lines``, oldest first."""

    def __init__(self, lines: Sequence[str], *, host: str, context: Sequence[str] = ()) -> None:
        self.lines = tuple(lines)
        self.context = tuple(context)
        self.host = host
        shown = "\n".join(f"  | {line}" for line in (self.context or self.lines)[:80])
        super().__init__(f"{host}: the kernel log tells of a fault: {self.lines[0]}\n{shown}")


def errno_name(errno: int) -> str:
    """``EINVAL`` for 22; ``errno 9999`` for a number without a name."""
    if errno == errno_module.EOPNOTSUPP:  # the same number as ENOTSUP, which the kernel lacks
        return "EOPNOTSUPP"
    return errno_module.errorcode.get(errno, f"errno {errno}")


def line_of(text: str, line: int | None) -> str | None:
    """Line number ``line`` (1 is the first) of ``text``, if there is one."""
    lines = text.splitlines()
    return lines[line - 1] if line is not None and 0 < line <= len(lines) else None


def shorten(text: str, limit: int = 160) -> str:
    """``text`` on one line and at most ``limit`` characters long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 3]}..."
