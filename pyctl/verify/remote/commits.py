"""Commits in a loop, in the guest, each checked: one operation is one batch of probes that
is added, committed, driven and removed, which is two commits.

In each batch are probes at functions that nobody but this process calls, so that their hits
are known exactly: so many in bypass, so many through the jump, none else. Beside them are
probes at a random set of functions that everybody calls. The first number that is wrong
ends it.

Parameters: root (the folder of djprobes in debugfs), name (of this writer, for its probes),
oracles (which of ORACLES are its own), pool (functions that everybody calls), batch (how
many of the pool at most), seed.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from typing import Any

from pyctl.workloads.remote.common import Failed, Turn, Work, main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Kernel functions that one call of a Python function reaches exactly once, and nobody
#: else on an idle guest ever.
ORACLES: dict[str, Callable[[], object]] = {
    "__x64_sys_getsid": lambda: os.getsid(0),
    "__x64_sys_getpriority": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "__x64_sys_sched_get_priority_max": lambda: os.sched_get_priority_max(os.SCHED_FIFO),
    "__x64_sys_sched_get_priority_min": lambda: os.sched_get_priority_min(os.SCHED_FIFO),
    "__x64_sys_sched_rr_get_interval": lambda: os.sched_rr_get_interval(0),
    "__x64_sys_sched_getparam": lambda: os.sched_getparam(0),
    "__x64_sys_sched_getscheduler": lambda: os.sched_getscheduler(0),
    "__x64_sys_getitimer": lambda: signal.getitimer(signal.ITIMER_REAL),
}
#: What a write may be refused with for now, and how long that may go on, in seconds.
BUSY = (errno.EAGAIN, errno.EBUSY, errno.EINTR)
BUSY_SECONDS = 60.0
MOST_CALLS = 20
#: A batch in so many leaves its retired detours for later.
LAZY = 4


class Commits(Work):
    """See above. Counts ``batch``, ``commit``, ``probe``, ``oracle_hits`` (all checked),
    ``pool_hits``, ``late`` (probes still in bypass after their commit), ``busy`` (writes
    that were refused for now)."""

    def set_up(self) -> dict[str, Any]:
        """What there is on this kernel."""
        self.random = random.Random(self.parameters["seed"])
        self.root = self.parameters["root"]
        self.name = self.parameters["name"]
        self.oracles = [name for name in self.parameters["oracles"] if self._takes_jump(name)]
        if not self.oracles:
            raise Failed("none of the functions that nobody else calls takes a jump")
        self.done = dict.fromkeys(("probe", "oracle_hits", "pool_hits", "late", "busy"), 0)
        return {"oracles": self.oracles}

    def run(self, turn: Turn) -> dict[str, int]:
        """Batch after batch."""
        self.done = dict.fromkeys(self.done, 0)
        batches = 0
        while turn.more(batches):
            self._batch()
            batches += 1
        return {"batch": batches, "commit": 2 * batches, **self.done}

    def clean_up(self) -> None:
        """Take away what a batch that failed has left."""
        live = [name for name in self._probes() if name.startswith(f"{self.name}_")]
        if live:
            self._write("".join(f"-:{name}\n" for name in live))

    def _batch(self) -> None:
        """Added, committed, driven, removed."""
        # Few mostly: what a batch costs is the number of its probes, and commits are wanted.
        oracles = self.random.sample(self.oracles, 1 + self._few(len(self.oracles) - 1))
        most = min(self.parameters["batch"], len(self.parameters["pool"]))
        pool = self.random.sample(self.parameters["pool"], self._few(most))
        targets = dict(enumerate(oracles + pool))
        self._write("".join(f"p:{self.name}_{n} {name}\n" for n, name in targets.items()))
        self.done["probe"] += len(targets)
        due = dict.fromkeys(range(len(oracles)), 0)
        self._drive(oracles, due)
        self._write("commit\n")
        self._drive(oracles, due)
        self._check(due, targets)
        removals = [f"-:{self.name}_{n}\n" for n in targets]
        self.random.shuffle(removals)
        self._write("".join(removals))
        self._write("commit\n" if self.random.randrange(LAZY) else "reclaim\n")

    def _few(self, most: int) -> int:
        """0 to ``most``: less than a sixteenth of it half of the time."""
        return round(most * self.random.random() ** 4)

    def _drive(self, oracles: list[str], due: dict[int, int]) -> None:
        """Call each some times."""
        for number, name in enumerate(oracles):
            times = self.random.randint(0, MOST_CALLS)
            call = ORACLES[name]
            for _ in range(times):
                call()
            due[number] += times

    def _check(self, due: dict[int, int], targets: dict[int, str]) -> None:
        """Each count as it must be."""
        found = self._probes()
        for number, target in targets.items():
            name = f"{self.name}_{number}"
            if name not in found:
                raise Failed(f"the probe {name} at {target} has gone")
            state, hits = found[name]
            self.done["late"] += state == "bypass"
            if number not in due:
                self.done["pool_hits"] += hits
                continue
            if hits != due[number]:
                raise Failed(f"{target}: {hits} hits in state {state}, {due[number]} calls")
            self.done["oracle_hits"] += hits

    def _probes(self) -> dict[str, tuple[str, int]]:
        """Name, state and hits."""
        with open(f"{self.root}/probes") as file:  # noqa: PTH123
            rows = [line.split() for line in file]
        return {row[0]: (row[3], int(row[6])) for row in rows}

    def _write(self, text: str) -> None:
        """One batch; again, if it is refused for now."""
        end = time.monotonic() + BUSY_SECONDS
        fd = os.open(f"{self.root}/control", os.O_WRONLY)
        try:
            while True:
                try:
                    os.write(fd, text.encode())
                    return
                except OSError as error:
                    if error.errno not in BUSY or time.monotonic() > end:
                        raise Failed(f"{text!r}: {error}: {self._last_error()}") from error
                    self.done["busy"] += 1
                    if text == "reclaim\n":
                        return  # what is still in use is reclaimed later
                    time.sleep(0.01)
        finally:
            os.close(fd)

    def _last_error(self) -> str:
        with open(f"{self.root}/last_error") as file:  # noqa: PTH123
            return " ".join(file.read().split())

    def _takes_jump(self, name: str) -> bool:
        """Whether ``explain`` says so; False for what this kernel does not have."""
        file = os.open(f"{self.root}/explain", os.O_RDWR)
        try:
            os.write(file, f"{name}\n".encode())
            os.lseek(file, 0, os.SEEK_SET)
            return b"\nverdict: jump\n" in os.read(file, 4096)
        except OSError:
            return False
        finally:
            os.close(file)


if __name__ == "__main__":
    main(Commits)
