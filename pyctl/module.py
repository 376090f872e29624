"""Getting the kernel module into a kernel, and out again."""

from __future__ import annotations

import io
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyctl.control import DEBUGFS, Control
from pyctl.errors import (
    BusyError,
    ControlError,
    DjprobesError,
    ModuleError,
    NotLoadedError,
    ProtocolError,
    RemoteCommandError,
    TransportError,
)
from pyctl.kernellog import parse_record
from pyctl.quiescence import BlockerKind
from pyctl.reasons import Reason
from pyctl.timing import Deadline, attempts
from pyctl.transport import Transport

NAME = "djprobes"
SOURCE = Path(__file__).resolve().parent.parent / "kmod"
SOURCE_SUFFIXES = {".c", ".h", ".S", ".lds", ".sh", ".tbl"}
SOURCE_NAMES = {"Makefile", "Kbuild", "Kconfig", "dkms.conf"}
BUILD_SECONDS = 600.0
LOAD_SECONDS = 120.0  # the module decodes all kernel text when it loads


@dataclass(frozen=True)
class LoadResult:
    """How the module came into the kernel.

    ``how`` is ``already`` (it was there), ``ko`` (a file that was given), ``guest`` (built
    here, for a guest's kernel), ``built`` (built on that host) or ``modprobe``
    (installed there, by DKMS say). ``skipped`` says why earlier ways were not taken.
    """

    how: str
    path: str | None
    seconds: float
    skipped: tuple[str, ...] = ()


def load_file(
    transport: Transport, ko: Path, parameters: Mapping[str, str], how: str
) -> LoadResult:
    """Copy a ``.ko`` to the host and insert it."""
    start = time.monotonic()
    if not ko.is_file():
        raise ModuleError(f"there is no module file {str(ko)!r}")
    with scratch(transport) as folder:
        remote = f"{folder}/{ko.name}"
        transport.put(ko, remote)
        insert(transport, remote, parameters)
    return LoadResult(how, str(ko), time.monotonic() - start)


def load_on_host(transport: Transport, source: Path, parameters: Mapping[str, str]) -> LoadResult:
    """Build from source on the host if it can; otherwise use what is installed there."""
    start = time.monotonic()
    why = _cannot_build(transport, source)
    if why is None:
        release = transport.run(["uname", "-r"]).text
        with scratch(transport) as folder:
            path = _build(transport, source, folder, release)
            insert(transport, path, parameters)
        return LoadResult("built", None, time.monotonic() - start)
    argv = ["modprobe", NAME, *_settings(parameters)]
    done = transport.run(argv, timeout=LOAD_SECONDS, check=False)
    if done.status != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ModuleError(
            f"{transport.host}: djprobes can't be loaded\n"
            f"  ko: no file was given\n  build: {why}\n  modprobe: {said}",
            hint="give a module built for that kernel with ko= (--ko), or install its "
            "headers and make and a compiler, or install djprobes with DKMS",
        )
    ready(transport)
    return LoadResult("modprobe", None, time.monotonic() - start, (f"build: {why}",))


def insert(transport: Transport, path: str, parameters: Mapping[str, str]) -> None:
    """insmod, and what the kernel said when it refuses."""
    before = _last_record(transport)
    try:
        transport.run(["insmod", path, *_settings(parameters)], timeout=LOAD_SECONDS)
    except RemoteCommandError as error:
        said = _said_since(transport, before)
        words = error.stderr.decode(errors="replace").strip()
        stranger = "Invalid module format" in words or "Unknown symbol" in words
        raise ModuleError(
            f"{transport.host}: insmod {PurePosixPath(path).name}: {words}"
            + "".join(f"\n  kernel: {line}" for line in said),
            hint="was it built for this very kernel (`uname -r`)?" if stranger else None,
        ) from error
    if PurePosixPath(path).stem == NAME:
        ready(transport)


def ready(transport: Transport) -> None:
    """Wait for the debugfs folder; mount debugfs if nobody has."""
    if not transport.exists("/sys/kernel/debug/kprobes") and not transport.exists(DEBUGFS):
        transport.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=False)
    control = Control(transport)
    for _ in attempts(Deadline.after(10)):
        if control.loaded():
            return
    raise ModuleError(
        f"{transport.host}: the module was inserted, but there is no {DEBUGFS}",
        hint="is debugfs mounted there, and allowed (debugfs=on on the kernel's command line)?",
    )


def unload(transport: Transport, name: str = NAME) -> None:
    """rmmod; of djprobes after its retired detours are freed. BusyError names the task that
    stands in one, ModuleError says what else holds the module."""
    if name == NAME:
        _reclaim(transport)
    done = transport.run(["rmmod", name], timeout=LOAD_SECONDS, check=False)
    if done.status == 0:
        return
    said = done.stderr.decode(errors="replace").strip()
    message = f"{transport.host}: rmmod {name}: {said}"
    if name == NAME:
        control = Control(transport)
        try:
            count = len(control.probes())
            if count:
                hint = f"{count} probes hold it: remove them with `djp rm --all`"
                raise ModuleError(message, hint=hint)
            if control.stats().detours_retired:
                raise _busy(control, None)
        except (NotLoadedError, ProtocolError, TransportError):
            pass  # the answer above is all that there is to say
    raise ModuleError(message)


def _reclaim(transport: Transport) -> None:
    """Free what nobody needs any more. What else is wrong, rmmod will say."""
    control = Control(transport)
    try:
        control.reclaim()
    except ControlError as error:
        if error.reason == Reason.DETOURS_BUSY:
            raise _busy(control, error.owner) from error
    except (NotLoadedError, TransportError):
        pass


def _busy(control: Control, owner: str | None) -> BusyError:
    """Why the module has to stay, from the kernel's own list."""
    found = [one for one in control.blockers() if one.kind == BlockerKind.RECLAIM]
    known = [one for one in found if one.pid]
    who = owner or next((one.task for one in known), None)
    shown = "".join(f"\n  {one}" for one in found[:5])
    more = f"\n  and {len(found) - 5} more" if len(found) > 5 else ""
    return BusyError(
        f"{control.transport.host}: djprobes can't be unloaded: "
        f"{who or 'a task'} has yet to leave memory of it{shown}{more}",
        owner=who,
        blockers=found,
        hint="try again when the task has gone on; `djp blockers` lists who it is",
    )


def loaded(transport: Transport, name: str = NAME) -> bool:
    """Whether a module of that name is in the kernel."""
    return transport.exists(f"/sys/module/{name}")


@contextmanager
def scratch(transport: Transport) -> Iterator[str]:
    """A new folder on the host that goes away with the context."""
    folder = transport.run(["mktemp", "-d", "/tmp/djprobes.XXXXXXXX"]).text
    try:
        yield folder
    finally:
        transport.run(["rm", "-rf", "--", folder], check=False)


def pack(source: Path) -> bytes:
    """The source files below ``source`` as a tar; what a build leaves behind is left out."""

    def wanted(path: Path) -> bool:
        made = path.name.endswith(".mod.c") or any(
            part.startswith(".") for part in path.relative_to(source).parts
        )
        return not made and (path.suffix in SOURCE_SUFFIXES or path.name in SOURCE_NAMES)

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(source.rglob("*")):
            if path.is_file() and wanted(path):
                tar.add(path, arcname=str(path.relative_to(source)), filter=_anonymous)
    return buffer.getvalue()


def _anonymous(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item


def _cannot_build(transport: Transport, source: Path) -> str | None:
    """Why the module can't be built on that host; None if it can."""
    if not (source / "Makefile").is_file():
        return f"there is no source in {source.name}/ here"
    release = transport.run(["uname", "-r"]).text
    checks: list[tuple[str, Callable[[], bool]]] = [
        (
            f"no headers of {release} there (/lib/modules/{release}/build)",
            lambda: transport.exists(f"/lib/modules/{release}/build/Makefile"),
        ),
        ("no make there", lambda: transport.run(["make", "-v"], check=False).status == 0),
        ("no tar there", lambda: transport.run(["tar", "--version"], check=False).status == 0),
    ]
    return next((why for why, fine in checks if not fine()), None)


def _build(transport: Transport, source: Path, folder: str, release: str) -> str:
    transport.put(pack(source), f"{folder}/kmod.tar")
    transport.run(["mkdir", f"{folder}/kmod"])
    transport.run(["tar", "-xf", f"{folder}/kmod.tar", "-C", f"{folder}/kmod"])
    argv = ["make", "-C", f"{folder}/kmod", f"KDIR=/lib/modules/{release}/build", "modules"]
    done = transport.run(argv, timeout=BUILD_SECONDS, check=False)
    if done.status != 0:
        tail = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-30:]
        shown = "\n".join(f"  | {line}" for line in tail)
        raise ModuleError(f"{transport.host}: {shlex.join(argv)} failed\n{shown}")
    found = transport.run(["find", f"{folder}/kmod", "-name", f"{NAME}.ko"]).text.split()
    if not found:
        raise ModuleError(f"{transport.host}: the build made no {NAME}.ko")
    return found[0]


def _settings(parameters: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in parameters.items()]


def _last_record(transport: Transport) -> int:
    try:
        records = transport.kernel_records(-1)
    except DjprobesError:
        return -1
    return parse_record(records[-1]).sequence if records else -1


def _said_since(transport: Transport, position: int) -> list[str]:
    try:
        return [parse_record(text).text for text in transport.kernel_records(position)][-10:]
    except DjprobesError:
        return []
