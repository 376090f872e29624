"""The only place of the control plane that knows the package ``vm``.

Imported lazily: a machine that only talks to hosts over SSH needs neither QEMU nor what
``vm`` needs. ``vm``'s own errors (:class:`vm.errors.VmError`) pass through unchanged, so
that a boot failure stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyctl.errors import TransportError
from pyctl.transport import HostKeys, SshTransport


@dataclass(frozen=True)
class Backing:
    """A guest that runs: how to reach it, what it runs, and whether it lives.

    ``kernel`` is the matrix entry that modules are built for. ``release_guest`` gives the
    guest up: it ends a guest of ours and leaves one of ``djp vm up`` alone.
    """

    name: str
    host: str
    port: int
    user: str
    key: Path
    kernel: str
    crashed: Callable[[], bool]
    console_tail: Callable[[], str]
    release_guest: Callable[[], None]

    def connect(self) -> SshTransport:
        """A transport to it. Its host key is as young as the guest, so any is taken."""
        return SshTransport(
            self.host, port=self.port, user=self.user, key=self.key, host_keys=HostKeys.THROWAWAY
        )


def boot(name: str, *, snapshot: bool, options: dict[str, Any]) -> Backing:
    """Boot (or restore) a guest that lives until ``release_guest``."""
    from vm.machine import Machine  # noqa: PLC0415

    machine = Machine.boot(name, snapshot=snapshot, **options)
    return Backing(
        name=machine.name,
        host=machine.ssh.host,
        port=machine.ssh.port,
        user=machine.ssh.user,
        key=machine.ssh.key,
        kernel=kernel_name(machine.kernel),
        crashed=lambda: bool(machine.crashed()),
        console_tail=machine.console_tail,
        release_guest=machine.close,
    )


def lookup(name: str) -> Backing:
    """A guest that ``djp vm up`` started."""
    from vm.keeper import lookup as find  # noqa: PLC0415

    state = find(name)
    if state.ssh is None:
        raise TransportError(
            f"the guest {name} can't be reached yet: it is {state.phase}",
            hint="`djp vm ls` lists the guests and their state",
        )
    return Backing(
        name=state.instance,
        host=state.ssh.host,
        port=state.ssh.port,
        user=state.ssh.user,
        key=state.ssh.key,
        kernel=kernel_name(state.kernel),
        crashed=lambda: find(name).phase == "crashed",
        console_tail=lambda: tail_of(state.console_log),
        release_guest=lambda: None,
    )


def build(
    kernel: str,
    source: Path,
    progress: Callable[[str], None] | None = None,
    *,
    tests: bool = True,
) -> dict[str, Path]:
    """Build the modules in ``source`` for a guest's kernel: name to ``.ko`` file.

    Without ``tests`` only djprobes itself: a test module that does not compile is then
    nobody's concern.
    """
    from vm.builder import build_modules  # noqa: PLC0415

    modules: dict[str, Path] = build_modules(
        source,
        kernel,
        make_vars=None if tests else {"DJP_TESTS": "n"},
        progress=progress or (lambda _message: None),
    )
    return modules


def kernel_name(kernel: object) -> str:
    """The matrix name, from a name or from the matrix entry itself."""
    return kernel if isinstance(kernel, str) else str(getattr(kernel, "name", kernel))


def tail_of(path: Path, lines: int = 40) -> str:
    """The last lines of a file; empty when it is not there."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
