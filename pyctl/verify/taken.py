"""Calls of djp_test_take() with known arguments (``kmod/test/options.c``), and the kernel's own
event on it: filters and histograms of tracefs, to hold probes with options against.

    with Takers(guest) as takers, TracedArguments(guest.transport, ["a=%si:u64"]) as traced:
        five = traced.watch("a >= 5")
        takers.run([Task([Take(3), Take(7, times=2)], cpu=0)])
        traced.read()[five]     # the task's pid: 2
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyctl.errors import OracleError, RemoteOSError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.transport import Transport
from pyctl.transport.base import Closing
from pyctl.verify.tracefs import GROUP, TRACEFS
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.verify.remote.takers"
FILE = "/sys/kernel/debug/djp_test/take"
FUNCTION = "djp_test_take"
TARGET = f"djp_test:{FUNCTION}"
#: Seconds, before scaling.
SECONDS = 60.0
MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Take:
    """``times`` calls with %si and %dx as they are here, and %di pointing to a copy of %si:
    ~%si is before it and %dx behind. Or ``where`` is what is in %di."""

    a: int = 0
    b: int = 0
    times: int = 1
    where: int | None = None

    def __str__(self) -> str:
        where = "here" if self.where is None else f"{self.where:#x}"
        return f"{where} {self.a & MASK:#x} {self.b & MASK:#x} {self.times}"


@dataclass(frozen=True)
class Task:
    """Who makes calls: a process, on one CPU and with a name if these are given; or so many
    ``threads`` of it, one after the other, each all of the calls."""

    takes: Sequence[Take]
    cpu: int | None = None
    comm: str | None = None
    threads: int = 0

    @property
    def calls(self) -> int:
        """All of them."""
        return sum(take.times for take in self.takes) * (self.threads or 1)


class Takers(Closing):
    """A resident script on a guest that starts tasks; a context manager."""

    def __init__(self, guest: Guest) -> None:
        transport = guest.transport
        if not transport.exists(FILE):
            guest.load_extra("djp_test", source=SOURCE)
        self._process = start_script(transport, "djp-takers", SCRIPT, ())
        try:
            self._answer()
        except BaseException:
            self._process.close()
            raise

    def run(self, tasks: Sequence[Task]) -> list[list[int]]:
        """Let all tasks begin at once, and wait for the last; the ids of each one's threads,
        or its own. OracleError if a call's result was wrong."""
        asked = [
            {
                "text": "\n".join(map(str, task.takes)),
                "cpu": task.cpu,
                "comm": task.comm,
                "threads": task.threads,
            }
            for task in tasks
        ]
        self._process.send_line(json.dumps(asked))
        answer = self._answer()
        wrong = [error for _, error in answer if error]
        if wrong:
            raise OracleError(f"djp_test_take: errno {wrong[0]}")
        return [ids for ids, _ in answer]

    def close(self) -> None:
        """End the script."""
        self._process.close()

    def _answer(self) -> list[tuple[list[int], int]]:
        line = self._process.read_line(SECONDS)
        if line is None:
            raise OracleError(f"the script ended\n{self._process.stderr_tail()}")
        answer: list[tuple[list[int], int]] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Watch:
    """A histogram trigger of tracefs: hits by ``keys``, if the ``condition`` holds."""

    keys: str
    condition: str | None = None

    @property
    def trigger(self) -> str:
        """As it is written to the file."""
        return f"hist:keys={self.keys}:size=4096" + (
            f" if {self.condition}" if self.condition else ""
        )


class TracedArguments(Closing):
    """A kprobe event of tracefs on a function's entry, with fields, as kprobe_events has them
    (``a=%si:u64``), and histogram triggers on it; a context manager that removes both."""

    def __init__(
        self,
        transport: Transport,
        fields: Sequence[str],
        *,
        function: str = FUNCTION,
        root: str = TRACEFS,
    ) -> None:
        self._transport = transport
        self._root = root
        self._event = f"djp{secrets.token_hex(4)}"
        self._folder = f"{root}/events/{GROUP}/{self._event}"
        self._watches: set[Watch] = set()
        if not transport.exists(f"{root}/kprobe_events"):
            transport.run(["mount", "-t", "tracefs", "tracefs", root], check=False)
        self._write(
            f"{root}/kprobe_events", f"p:{GROUP}/{self._event} {function} {' '.join(fields)}"
        )

    def watch(self, condition: str | None = None, *, keys: str = "common_pid") -> Watch:
        """Count the entries for which the condition holds, by the value of the keys."""
        watch = Watch(keys, condition)
        self._write(f"{self._folder}/trigger", watch.trigger)
        self._watches.add(watch)
        return watch

    def read(self) -> Mapping[Watch, Mapping[int, int]]:
        """What each watch has counted since it began: values of its key and how often."""
        tables = parse_hist(self._transport.read(f"{self._folder}/hist").decode())
        if tables.keys() != self._watches:
            raise OracleError(f"{len(self._watches)} triggers, but hist has {list(tables)}")
        return tables

    def close(self) -> None:
        """Remove the triggers, and the event."""
        for watch in self._watches:
            self._write(f"{self._folder}/trigger", f"!{watch.trigger}")
        self._watches.clear()
        self._write(f"{self._root}/kprobe_events", f"-:{GROUP}/{self._event}")

    def _write(self, path: str, text: str) -> None:
        try:
            self._transport.write(path, f"{text}\n".encode())
        except RemoteOSError as error:
            raise OracleError(f"{self._transport.host}: {text}: {error.strerror}") from error


INFO = re.compile(r"# trigger info: hist:keys=(\S+?):vals=\S+(?: if (.*))? \[active\]")
ENTRY = re.compile(r"\{ \w+: *(-?\d+) *\} hitcount: *(\d+)")
DROPPED = re.compile(r"Dropped: (\d+)")


def parse_hist(text: str) -> dict[Watch, Mapping[int, int]]:
    """The tables of an event's file ``hist``; keys have to be numbers. OracleError if one was
    too small."""
    tables: dict[Watch, Mapping[int, int]] = {}
    for part in text.split("# event histogram")[1:]:
        info, dropped = INFO.search(part), DROPPED.search(part)
        if info is None or dropped is None or int(dropped[1]):
            raise OracleError(f"a histogram of tracefs is unknown, or lost hits: {part[-300:]}")
        tables[Watch(info[1], info[2])] = {int(key): int(hits) for key, hits in ENTRY.findall(part)}
    return tables
