"""What can go wrong with a guest, told apart so that a test run can react.

`InfrastructureError` is the host's fault, `BootError` means that the guest did
not come up, `GuestCrashError` that it died (or oopsed) after it had come up.
Each says what was asked, what is wrong, which value, and what to do next; each
that concerns a running guest carries the end of its serial console.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class VmError(Exception):
    """Base of every error that `vm` raises.

    `asked` is what the caller wanted, `wrong` what stands against it, `value`
    the value that matters, `hint` what to do next, `output` the words of a tool
    (a compiler, apt, QEMU), `console` the last lines of the guest's console.
    """

    kind = "vm"

    def __init__(
        self,
        asked: str,
        wrong: str,
        *,
        value: str | None = None,
        hint: str | None = None,
        output: str | None = None,
        console: str | None = None,
        console_log: Path | None = None,
    ) -> None:
        super().__init__(asked, wrong)
        self.asked = asked
        self.wrong = wrong
        self.value = value
        self.hint = hint
        self.output = output
        self.console = console
        self.console_log = console_log

    def __str__(self) -> str:
        lines = [f"{self.asked}: {self.wrong}"]
        if self.value is not None:
            lines.append(f"  value: {self.value}")
        for title, text in (("output", self.output), ("console", self.console)):
            if text and text.strip():
                lines.append(f"  {title}:")
                lines += [f"    | {line}" for line in text.rstrip().splitlines()]
        if self.console_log is not None:
            lines.append(f"  console log: {self.console_log}")
        if self.hint is not None:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, for `--json`; absent parts are None."""
        return {
            "kind": self.kind,
            "asked": self.asked,
            "wrong": self.wrong,
            "value": self.value,
            "hint": self.hint,
            "output": self.output,
            "console": self.console,
            "console_log": str(self.console_log) if self.console_log else None,
        }


class ConfigError(VmError):
    """A setting, a matrix entry or a guest name that makes no sense."""

    kind = "config"


class InfrastructureError(VmError):
    """The host side: QEMU or a tool missing, disk full, mirror unreachable."""

    kind = "infrastructure"


class EmulatorError(InfrastructureError):
    """The emulator itself computes wrong results and must not be used."""

    kind = "emulator"


class BuildError(VmError):
    """The compiler or make refused; `output` holds their words."""

    kind = "build"


class KernelConfigError(VmError):
    """The guest's kernel lacks options that `Kconfig.snippet` asks for."""

    kind = "kernel-config"


class BootError(VmError):
    """The guest did not come up; says whether it panicked or took too long."""

    kind = "boot"


class GuestCrashError(VmError):
    """The guest died or oopsed while it was running."""

    kind = "guest-crash"
