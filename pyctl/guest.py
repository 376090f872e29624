"""A host to work on: a guest in QEMU, any host behind SSH, or this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyctl import module, vmglue
from pyctl.census import Census
from pyctl.census import Progress as CensusProgress
from pyctl.control import Control
from pyctl.errors import UsageError
from pyctl.kernellog import KernelLog
from pyctl.module import LoadResult
from pyctl.probes import Probes
from pyctl.transport import HostKeys, LocalTransport, SshTransport, Transport
from pyctl.transport.base import Closing
from pyctl.verify.bcc import BccCounter
from pyctl.verify.kerneltext import KernelText
from pyctl.verify.netlink import InterfaceStats, interface_stats
from pyctl.verify.tracefs import TracefsCounter
from pyctl.workloads import BoundWorkload, make_workload

DESTINATION = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[^\]]+\]|[^@:\s]+)(?::(?P<port>\d+))?")


class Guest(Closing):
    """A host with a kernel to probe. Make one with :meth:`boot`, :meth:`running`,
    :meth:`ssh` or :meth:`local`; it is open at once, and a context manager.
    """

    def __init__(
        self, name: str, transport: Transport, backing: vmglue.Backing | None = None
    ) -> None:
        self._name = name
        self._transport = transport
        self._backing = backing
        self._release: str | None = None

    @classmethod
    def boot(cls, name: str = "bookworm-cloud", *, snapshot: bool = True, **options: Any) -> Guest:  # noqa: ANN401
        """Boot a throw-away guest; it ends with the context.

        With ``snapshot`` a kept image of the booted guest is restored when one fits.
        ``options`` go to ``vm.machine.Machine.boot``.
        """
        return cls._over(vmglue.boot(name, snapshot=snapshot, options=options))

    @classmethod
    def running(cls, name: str) -> Guest:
        """A guest that ``djp vm up`` started; it lives on after the context."""
        return cls._over(vmglue.lookup(name))

    @classmethod
    def ssh(
        cls,
        destination: str,
        *,
        key: Path | str | None = None,
        host_keys: HostKeys = HostKeys.KNOWN,
    ) -> Guest:
        """A host behind SSH, ``[user@]host[:port]``; root if no user is named.

        The host has to be in known_hosts unless ``host_keys`` says otherwise.
        """
        match = DESTINATION.fullmatch(destination)
        if not match:
            raise UsageError(
                f"{destination!r} is no SSH destination", hint="write [user@]host[:port]"
            )
        transport = SshTransport(
            match["host"].strip("[]"),
            port=int(match["port"] or 22),
            user=match["user"] or "root",
            key=Path(key).expanduser() if key is not None else None,
            host_keys=host_keys,
        )
        return cls(destination, transport)

    @classmethod
    def local(cls) -> Guest:
        """This machine."""
        return cls("local", LocalTransport())

    @property
    def name(self) -> str:
        """The guest's name, the SSH destination, or ``local``."""
        return self._name

    @property
    def transport(self) -> Transport:
        """The way to it."""
        return self._transport

    @property
    def release(self) -> str:
        """Its ``uname -r``."""
        if self._release is None:
            self._release = self._transport.run(["uname", "-r"]).text
        return self._release

    @property
    def loaded(self) -> bool:
        """Whether djprobes is in its kernel and can be reached."""
        return Control(self._transport).loaded()

    def load(
        self,
        *,
        ko: Path | None = None,
        source: Path | None = None,
        parameters: Mapping[str, str] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> LoadResult:
        """Load the kernel module; does nothing if it is loaded.

        In this order: the file ``ko``; for a guest, a module built here for its kernel;
        on another host, ``source`` (the project's ``kmod/``) built there when it has its
        kernel's headers, and otherwise the module that is installed there. The result
        says which. ``progress`` hears what a long build is at.
        """
        if self.loaded:
            return LoadResult("already", None, 0.0)
        settings = dict(parameters or {})
        if ko is not None:
            return module.load_file(self._transport, ko, settings, "ko")
        folder = source or module.SOURCE
        if self._backing is not None:
            built = vmglue.build(self._backing.kernel, folder, progress, tests=False)
            return module.load_file(self._transport, built[module.NAME], settings, "guest")
        return module.load_on_host(self._transport, folder, settings)

    def load_extra(
        self, name: str, *, source: Path, parameters: Mapping[str, str] | None = None
    ) -> LoadResult:
        """Load another module of ours, for guests only: built from ``source``, which may
        make several, ``name`` is one of them."""
        if self._backing is None:
            raise UsageError(f"{self._name} is no guest; insert {name} there by hand")
        built = vmglue.build(self._backing.kernel, source)
        if name not in built:
            raise UsageError(f"{source.name}/ makes no module {name!r}, but {sorted(built)}")
        return module.load_file(self._transport, built[name], dict(parameters or {}), "guest")

    def unload(self) -> None:
        """Take the kernel module out. Probes hold it: remove them first. BusyError names the
        task that has yet to leave a detour."""
        module.unload(self._transport)

    def probes(self) -> Probes:
        """The probes of this host; loads the kernel module if needed."""
        self.load()
        return Probes(self._transport)

    def census(self, *, progress: CensusProgress | None = None) -> Census:
        """Every instruction of this host's kernel, judged; loads the kernel module if needed.
        See :meth:`Probes.census`."""
        return self.probes().census(progress=progress)

    def workload(self, name: str, **parameters: Any) -> BoundWorkload:  # noqa: ANN401
        """A workload by name (see ``pyctl.workloads``), to be run on this host."""
        return make_workload(name, **parameters).on(self._transport)

    def kernel_log(self, *, allowed: Sequence[str] = ()) -> KernelLog:
        """The kernel log from now on; ``check()`` raises when it tells of a fault."""
        words = self._backing.console_tail if self._backing else None
        return KernelLog(self._transport, allowed=allowed, last_words=words)

    def bcc(self, *, slots: int = 16) -> BccCounter:
        """An independent counter: BPF programs on kprobes, through bcc."""
        return BccCounter(self._transport, slots=slots)

    def tracefs(self) -> TracefsCounter:
        """Another independent counter: kprobe events of tracefs."""
        return TracefsCounter(self._transport)

    def kernel_text(self) -> KernelText:
        """Keep a copy of all kernel text, to be compared later."""
        return KernelText(self._transport)

    def interfaces(self, *, pid: int | None = None) -> dict[str, InterfaceStats]:
        """Statistics of the network interfaces, of the name space of process ``pid``."""
        return interface_stats(self._transport, pid=pid)

    def crashed(self) -> bool:
        """Whether the guest is known to have died; False for other hosts."""
        return self._backing is not None and self._backing.crashed()

    def close(self) -> None:
        """End the connection, and the guest if it was booted here."""
        try:
            self._transport.close()
        finally:
            if self._backing is not None:
                self._backing.release_guest()

    @classmethod
    def _over(cls, backing: vmglue.Backing) -> Guest:
        try:
            return cls(backing.name, backing.connect(), backing)
        except BaseException:
            backing.release_guest()
            raise
