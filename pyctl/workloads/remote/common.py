"""What all workload scripts share: the conversation with their owner, children, cleaning up.

The owner sends one JSON object a line on stdin:

    {"cmd": "go", "operations": N or null, "seconds": S or null}    any number of times
    {"cmd": "stop"}     end the work that runs
    {"cmd": "quit"}     or the end of stdin: clean up and exit

and reads from stdout ``{"event": "ready", ...}`` when all is set up and nothing has been
done yet, ``{"event": "done", "seconds": ..., "operations": {...}, "stopped": bool}`` after
each go, and ``{"event": "error", "message": ...}``.
Between these the script does nothing at all, so that counters can be read in the quiet.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
import traceback
from typing import Any, NoReturn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.05
SLOT = struct.Struct("q")


class Failed(Exception):  # noqa: N818 (a message for the owner, not an error class)
    """The work can't be done; the text is for people."""


class Quit(Exception):  # noqa: N818
    """The owner is gone, or wants us gone."""


class Turn:
    """One ``go``: ``operations`` to do (None: no limit) within ``seconds`` (None: no limit)."""

    def __init__(self, owner: Owner, operations: int | None, seconds: float | None) -> None:
        self.operations = operations
        self.stopped = False
        self.started = time.monotonic()
        self._owner = owner
        self._until = None if seconds is None else self.started + seconds
        self._next_look = self.started + POLL_SECONDS

    def more(self, done: int) -> bool:
        """Whether another operation is to be done after ``done``. Cheap: no system call but
        every 50 ms."""
        if self.operations is not None and done >= self.operations:
            return False
        now = time.monotonic()
        if self._until is not None and now >= self._until:
            return False
        if now >= self._next_look:
            self._next_look = now + POLL_SECONDS
            if self._owner.wants_stop():
                self.stopped = True
        return not self.stopped

    def wait(self) -> None:
        """Pass the time until somebody stops us or time is over."""
        while self.more(-1):
            self._owner.look(POLL_SECONDS)


class Owner:
    """The process at the other end of stdin and stdout."""

    def __init__(self) -> None:
        self._buffer = b""
        self._commands: list[dict[str, Any]] = []
        self._gone = False

    def tell(self, event: str, **facts: object) -> None:
        """Send one line."""
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()

    def next(self) -> dict[str, Any]:
        """The next command; raises Quit at the end."""
        while not self._commands:
            if self._gone:
                raise Quit
            self.look(None)
        return self._commands.pop(0)

    def wants_stop(self) -> bool:
        """Whether a stop, or the end, has come in. Never blocks."""
        self.look(0)
        while self._commands and self._commands[0]["cmd"] == "stop":
            self._commands.pop(0)
            return True
        return self._gone or any(command["cmd"] == "quit" for command in self._commands)

    def look(self, seconds: float | None) -> None:
        """Take in what the owner has sent, waiting up to ``seconds`` for it."""
        if self._gone:
            return
        readable, _, _ = select.select([0], [], [], seconds)
        if not readable:
            return
        # Not through sys.stdin: its buffer would hide from select what has come.
        data = os.read(0, 65536)
        self._gone = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._commands += [json.loads(line) for line in lines if line.strip()]


class Work:
    """A kind of work. ``parameters`` are the owner's; unknown ones are its mistake."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters

    def set_up(self) -> dict[str, Any]:
        """Prepare everything, so that ``run`` does its operations and nothing else. What is
        returned goes out with ``ready``."""
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """Do it, and say exactly how much was done."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Undo ``set_up``; also called when it failed halfway."""


def main(make: Callable[[dict[str, Any]], Work]) -> NoReturn:
    """Run a workload as a process; the parameters are JSON in the last argument."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _quit)
    owner = Owner()
    work = make(json.loads(sys.argv[-1]) if len(sys.argv) > 1 else {})
    status = 0
    try:
        owner.tell("ready", pid=os.getpid(), **work.set_up())
        while True:
            command = owner.next()
            if command["cmd"] == "quit":
                break
            if command["cmd"] == "go":
                turn = Turn(owner, command.get("operations"), command.get("seconds"))
                done = work.run(turn)
                seconds = time.monotonic() - turn.started
                owner.tell("done", seconds=seconds, operations=done, stopped=turn.stopped)
    except Quit:
        pass
    except Failed as error:
        owner.tell("error", message=str(error))
        status = 1
    except Exception as error:  # the owner has to hear of anything
        owner.tell(
            "error", message=f"{type(error).__name__}: {error}", trace=traceback.format_exc()
        )
        status = 1
    finally:
        # A second signal must not cut the cleaning short.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        work.clean_up()
    sys.exit(status)


def _quit(_number: int, _frame: object) -> NoReturn:
    raise Quit


def die_with_parent(parent: int) -> None:
    """In a child: be killed when the parent goes, however it goes. ``parent`` is the parent's
    pid, taken before the fork: asked for in the child it may be that of an adopter already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def split(operations: int | None, parts: int) -> list[int | None]:
    """``operations`` shared out so that the sum is exact."""
    if operations is None:
        return [None] * parts
    return [operations // parts + (part < operations % parts) for part in range(parts)]


def fan_out(turn: Turn, processes: int, body: Callable[[int, Callable[[int], bool]], int]) -> int:
    """Do an operation in ``processes`` children at once; returns how many were done in all.

    ``body(number, more)`` runs in each child and returns its count; ``more(done)`` says
    whether to go on. The children do all that was asked, or stop when told to.
    """
    shared = mmap.mmap(-1, mmap.PAGESIZE)  # [0] is the stop flag, then a result for each child
    if (processes + 1) * SLOT.size > len(shared):
        raise Failed(f"{processes} processes are too many")
    shares = split(turn.operations, processes)
    children: list[int] = []
    parent = os.getpid()
    try:
        for number in range(processes):
            pid = os.fork()
            if pid == 0:
                _be_child(shared, parent, number, shares[number], body)
            children.append(pid)
        turn.wait() if turn.operations is None else _wait_for(turn, children)
        SLOT.pack_into(shared, 0, 1)
        for pid in children:
            _, status = os.waitpid(pid, 0)
            if status:
                raise Failed(f"a child process ended with wait status {status:#x}")
        children.clear()
        return sum(SLOT.unpack_from(shared, (n + 1) * SLOT.size)[0] for n in range(processes))
    finally:
        for pid in children:
            _kill(pid)
        shared.close()


def _be_child(
    shared: mmap.mmap,
    parent: int,
    number: int,
    share: int | None,
    body: Callable[[int, Callable[[int], bool]], int],
) -> NoReturn:
    status = 1
    try:
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
        die_with_parent(parent)

        def more(done: int) -> bool:
            return (share is None or done < share) and not shared[0]

        SLOT.pack_into(shared, (number + 1) * SLOT.size, body(number, more))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait_for(turn: Turn, children: list[int]) -> None:
    """Until all children have ended or somebody stops us; leaves them unreaped."""
    while turn.more(-1):
        running = [
            pid
            for pid in children
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ]
        if not running:
            return
        time.sleep(0.005)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
