"""`djp vm`: disposable guests from the command line.

stdout carries results and nothing else; with `--json` that is exactly one JSON
document.  Progress and errors go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shlex
import socket
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vm import keeper
from vm.cache import Progress
from vm.errors import ConfigError, InfrastructureError, VmError
from vm.machine import plan
from vm.matrix import Matrix
from vm.settings import Settings
from vm.ssh import connect, copy_from, copy_to
from vm.state import GuestState, guests, run_folder

vm_app = typer.Typer(
    name="vm",
    help="Start, use and end disposable guests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]
NameArgument = Annotated[str, typer.Argument(help="A guest's name, see `djp vm ls`.")]

_LEAVE = b"\x1d"  # Ctrl-]
_CHUNK = 65536


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _emit(document: object) -> None:
    _out(json.dumps(document, indent=2))


@contextlib.contextmanager
def _reporting(as_json: bool = False) -> Iterator[Progress]:
    """Give a progress callback, and turn errors into a message and exit status 1."""
    console = Console(stderr=True, highlight=False)
    status = console.status("starting") if console.is_terminal else None

    def progress(message: str) -> None:
        if status is not None:
            status.update(message)
            console.print(message, style="dim", markup=False)
        else:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    try:
        with status or contextlib.nullcontext():
            yield progress
    except VmError as exc:
        if as_json:
            _emit({"error": exc.to_dict()})
        sys.stderr.write(f"djp: {exc}\n")
        raise typer.Exit(1) from exc


def _describe(state: GuestState, **more: object) -> dict[str, Any]:
    """A guest for scripts: these keys are stable."""
    data = state.to_dict()
    return {**data, **more}


def _text(state: GuestState) -> str:
    lines = [f"{state.instance}: {state.phase}"]
    if state.release:
        lines.append(f"  kernel   {state.release}, {state.accelerator}, pid {state.pid}")
    if state.ssh is not None:
        ssh = state.ssh
        words = ["ssh", "-i", str(ssh.key), "-p", str(ssh.port)]
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        lines.append(f"  ssh      {shlex.join([*words, f'{ssh.user}@{ssh.host}'])}")
    lines.append(f"  console  {state.console_log}")
    return "\n".join(lines)


@vm_app.command()
def up(
    name: Annotated[str, typer.Argument(help="An entry of the kernel matrix.")],
    as_json: JsonOption = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot/--no-snapshot", help="Restore a saved boot, or boot.")
    ] = True,
    idle_limit: Annotated[
        float, typer.Option(help="Seconds without use after which it ends; 0: never.", min=0)
    ] = keeper.DEFAULT_IDLE_LIMIT,
    instance: Annotated[
        str | None, typer.Option("--as", help="A name for it; default: the entry's.")
    ] = None,
) -> None:
    """Start a guest that lives until `down`; one that runs already is returned as it is."""
    with _reporting(as_json) as progress:
        state, reused = keeper.up(
            name,
            Settings.from_env(),
            progress,
            instance=instance,
            snapshot=snapshot,
            idle_limit=idle_limit,
        )
        if as_json:
            _emit(_describe(state, reused=reused))
        else:
            _out(_text(state) + ("\n  (it was running already)" if reused else ""))


@vm_app.command()
def down(name: NameArgument, as_json: JsonOption = False) -> None:
    """End a guest and remove what is left of it."""
    with _reporting(as_json):
        state = keeper.down(name, Settings.from_env())
        if as_json:
            _emit({"instance": state.instance, "was": state.phase})
        else:
            _out(f"{state.instance}: ended (was {state.phase})")


@vm_app.command()
def ls(as_json: JsonOption = False) -> None:
    """List all guests of which there is a trace, crashed ones too."""
    with _reporting(as_json):
        found = guests(Settings.from_env().cache)
    if as_json:
        _emit([_describe(state) for state in found])
        return
    if not found:
        sys.stderr.write("no guests; `djp vm up NAME` starts one, NAME is one of: ")
        sys.stderr.write(", ".join(sorted(Matrix.load().kernels)) + "\n")
        return
    rows = [
        (
            state.instance,
            state.phase,
            state.release or "-",
            f"{state.ssh.user}@{state.ssh.host}:{state.ssh.port}" if state.ssh else "-",
            str(state.pid or "-"),
            state.owner,
            str(state.console_log),
        )
        for state in found
    ]
    heads = ("name", "state", "kernel", "ssh", "pid", "owner", "console log")
    console = Console()
    if not console.is_terminal:
        for row in (heads, *rows):
            _out("\t".join(row))
        return
    table = Table(box=None)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _pump(read: Callable[[int], bytes], stream: Any) -> None:  # noqa: ANN401
    """Copy from a channel to a binary stream until it ends."""
    while data := read(_CHUNK):
        stream.write(data)
        stream.flush()


@vm_app.command(name="exec", context_settings={"ignore_unknown_options": True})
def execute(
    name: NameArgument,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.")],
    stdin: Annotated[bool, typer.Option("--stdin", help="Pass stdin on to the command.")] = False,
) -> None:
    """Run a command in a guest; its output and exit status are passed on.

    Arguments are quoted, so no shell looks at them: for pipes say `-- sh -c '...'`.
    """
    settings = Settings.from_env()
    with _reporting():
        state = keeper.lookup(name, settings)
        keeper.used(name, settings)
        if state.ssh is None:
            raise InfrastructureError(f"running a command in {name}", "it has no SSH yet")
        with connect(state.ssh, timeout=30 * settings.scale) as client:
            transport = client.get_transport()
            if transport is None:
                raise InfrastructureError(f"running a command in {name}", "the connection is gone")
            with contextlib.closing(transport.open_session()) as channel:
                channel.exec_command(shlex.join(command))
                pumps = [
                    threading.Thread(target=_pump, args=pair, daemon=True)
                    for pair in (
                        (channel.recv, sys.stdout.buffer),
                        (channel.recv_stderr, sys.stderr.buffer),
                    )
                ]
                for pump in pumps:
                    pump.start()
                if stdin:
                    while data := os.read(sys.stdin.fileno(), _CHUNK):
                        channel.sendall(data)
                channel.shutdown_write()
                for pump in pumps:
                    pump.join()
                status = channel.recv_exit_status()
        keeper.used(name, settings)
        if status < 0:
            raise _lost(name, settings)
    raise typer.Exit(status)


def _lost(name: str, settings: Settings) -> VmError:
    """The command ended without a status: because the guest died, or the command was killed."""
    state = run_folder(settings.cache, name).look()
    return InfrastructureError(
        f"running a command in {name}",
        "it ended without an exit status: killed by a signal, or the guest died",
        value=f"the guest is {state.phase if state else 'gone'}",
        console_log=state.console_log if state else None,
        hint="`djp vm ls` shows whether it crashed",
    )


def _split(place: str) -> tuple[str | None, str]:
    """(guest, path) of NAME:PATH, (None, path) of a local one (which has a / before any :)."""
    name, colon, path = place.partition(":")
    if not colon or "/" in name or not name:
        return None, place
    return name, path or "."


@vm_app.command()
def cp(
    source: Annotated[str, typer.Argument(help="PATH, or NAME:PATH in a guest.")],
    target: Annotated[str, typer.Argument(help="PATH, or NAME:PATH in a guest.")],
) -> None:
    """Copy a file or a folder into or out of a guest."""
    settings = Settings.from_env()
    with _reporting():
        from_guest, from_path = _split(source)
        to_guest, to_path = _split(target)
        name = from_guest or to_guest
        if name is None or (from_guest is not None and to_guest is not None):
            raise ConfigError(
                f"copying {source} to {target}",
                "exactly one of the two must be in a guest",
                hint="write NAME:PATH for a path in a guest",
            )
        state = keeper.lookup(name, settings)
        keeper.used(name, settings)
        if state.ssh is None:
            raise InfrastructureError(f"copying {source}", f"{name} has no SSH yet")
        with connect(state.ssh, timeout=30 * settings.scale) as client:
            try:
                with contextlib.closing(client.open_sftp()) as sftp:
                    if from_guest is None:
                        copy_to(sftp, Path(from_path), to_path)
                    else:
                        copy_from(sftp, from_path, Path(to_path))
            except OSError as exc:
                raise InfrastructureError(
                    f"copying {source} to {target}", exc.strerror or str(exc)
                ) from exc
        keeper.used(name, settings)


@vm_app.command()
def console(name: NameArgument) -> None:
    """Attach to a guest's serial console (Ctrl-] leaves); without a terminal, print its log."""
    settings = Settings.from_env()
    with _reporting():
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            state = run_folder(settings.cache, name).look()
            if state is None:
                keeper.lookup(name, settings)  # raises, and says which guests there are
            elif state.console_log.exists():
                _out(state.console_log.read_text(errors="replace").rstrip("\n"))
            return
        state = keeper.lookup(name, settings)
        keeper.used(name, settings)
    sys.stderr.write(f"console of {name}; Ctrl-] leaves\n")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
        line.connect(str(state.console_socket))
        line.sendall(b"\n")
        _interact(line)
    keeper.used(name, settings)


def _interact(line: socket.socket) -> None:
    """Join this terminal and the socket until Ctrl-] or the guest's end."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setraw(stdin)
        while True:
            ready, _writers, _errors = select.select([stdin, line], [], [])
            if line in ready:
                data = line.recv(_CHUNK)
                if not data:
                    return
                os.write(stdout, data)
            if stdin in ready:
                data = os.read(stdin, _CHUNK)
                head, found, _tail = data.partition(_LEAVE)
                line.sendall(head)
                if found or not data:
                    return
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        sys.stderr.write("\n")


@vm_app.command()
def build(
    name: Annotated[str, typer.Argument(help="An entry of the kernel matrix.")],
    as_json: JsonOption = False,
) -> None:
    """Make all images of a guest ahead of time, check the emulator, choose the accelerator."""
    with _reporting(as_json) as progress:
        made = plan(name, Settings.from_env(), progress)
        images = made.images
        parts = (images.root, images.kernel, images.init, images.initrd)
        if as_json:
            _emit(
                {
                    "name": name,
                    "release": images.release,
                    "qemu": made.binary.text,
                    "accelerator": made.accelerator.name,
                    "accelerator_reason": made.accelerator.reason,
                    "artefacts": {
                        part.kind: {"path": str(part.path), "seconds": part.manifest["seconds"]}
                        for part in parts
                    },
                }
            )
            return
        _out(f"{name}: kernel {images.release}")
        _out(f"  {made.binary.text}")
        _out(f"  accelerator {made.accelerator.name}: {made.accelerator.reason}")
        for part in parts:
            _out(f"  {part.kind:8} {part.manifest['seconds']:7.1f} s  {part.path}")


@vm_app.command()
def images() -> None:
    """List what `djp vm up` can start."""
    with _reporting():
        for spec in Matrix.load().kernels.values():
            _out(f"{spec.name}\t{spec.suite}\t{spec.image}\t{' '.join(spec.cmdline)}")


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("DJP_LOG", "WARNING"))
    vm_app()
