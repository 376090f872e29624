"""One round of a measurement, in the guest: probes in, one commit, all live, probes out.

One JSON object a line on stdin, one a line on stdout. Requests:

    {"probes": "djprobes", "addresses": [...], "spin_ms": N, "sleepers": N, "seconds": S}
    {"probes": "kprobes", "addresses": [...], "spin_ms": N, "sleepers": N, "seconds": S}

``spin_ms`` (0: none) is for how long threads that never sleep are let loose right before the
commit; ``sleepers`` how many threads that sleep there are; ``seconds`` how long the sites may
take to be jumps. Answers have ``live_ms``, from the commit until all sites are jumps (null:
not in time), ``deferred``, and what the kernel says of stops and blockers. ``{"error": text}``
if it can't be done.

Arguments: the folders in debugfs of djprobes, of djp_test and of djp_peer.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OPTIMIZATION = "/proc/sys/debug/kprobes-optimization"
#: Seconds for what is not measured: the way back, memory freed.
SETTLE_SECONDS = 120.0
#: Bytes of a sleeping thread's stack.
STACK = 1 << 16
POLL_SECONDS = (0.001, 0.02)


def write(path: str, text: str) -> None:
    """All of it in one write(2)."""
    fd = os.open(path, os.O_WRONLY)
    try:
        data = text.encode()
        if os.write(fd, data) != len(data):
            raise OSError(errno.EIO, "not all was taken", path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def pairs(path: str) -> dict[str, int]:
    """A file of keys and numbers."""
    with open(path) as file:  # noqa: PTH123
        rows = [line.split() for line in file]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it is done within ``seconds``."""
    end = time.monotonic() + seconds
    pause, longest = POLL_SECONDS
    while not done():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return True


class Crowd:
    """Threads that sleep."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.threads: list[threading.Thread] = []

    def resize(self, count: int) -> None:
        """Let there be so many."""
        if count < len(self.threads):
            self.leave.set()
            for thread in self.threads:
                thread.join()
            self.leave = threading.Event()
            self.threads = []
        while len(self.threads) < count:
            thread = threading.Thread(target=self.leave.wait, daemon=True)
            thread.start()
            self.threads.append(thread)


class Rounds:
    """The folders, and what is done in them."""

    def __init__(self, ours: str, test: str, peer: str) -> None:
        self.ours = ours
        self.spin_file = f"{test}/spin"
        self.bulk = f"{peer}/bulk"

    def stats(self) -> dict[str, int]:
        """Of djprobes."""
        return pairs(f"{self.ours}/stats")

    def djprobes(self, request: dict[str, Any]) -> dict[str, Any]:
        """A round of ours. There must be no other probes."""
        control = f"{self.ours}/control"
        lines = [f"p:bench_{n} {at:#x}" for n, at in enumerate(request["addresses"])]
        write(control, "\n".join(lines) + "\n")
        try:
            self.spin(request["spin_ms"])
            start = time.monotonic()
            write(control, "commit\n")
            first = self.stats()
            with open(f"{self.ours}/blockers") as file:  # noqa: PTH123
                blockers = file.read()
            live = until(lambda: self.stats()["sites_bypass"] == 0, request["seconds"])
            seconds = time.monotonic() - start
        finally:
            self.spin(0)
            write(control, "-*\n")
        if not until(self.reclaimed, SETTLE_SECONDS):
            raise OSError(errno.EBUSY, "retired detours are not reclaimed")
        return {
            "live_ms": 1000 * seconds if live else None,
            "stop_ns": first["last_stop_ns"],
            "deferred": first["deferred"],
            "blockers": blockers,
        }

    def reclaimed(self) -> bool:
        """Free what is retired, so that no round has more to prove than the one before."""
        try:
            write(f"{self.ours}/control", "reclaim\n")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        return self.stats()["detours_retired"] == 0

    def kprobes(self, request: dict[str, Any]) -> dict[str, Any]:
        """A round of mainline's optimiser: registered as int3s, then it is let loose."""
        addresses = request["addresses"]
        write(OPTIMIZATION, "0\n")
        try:
            write(self.bulk, "\n".join(f"{at:#x}" for at in addresses) + "\n")
            self.spin(request["spin_ms"])
            start = time.monotonic()
            write(OPTIMIZATION, "1\n")
            live = until(lambda: pairs(self.bulk)["jumps"] == len(addresses), request["seconds"])
            seconds = time.monotonic() - start
            found = pairs(self.bulk)
        finally:
            self.spin(0)
            write(self.bulk, "\n")
            write(OPTIMIZATION, "1\n")
        return {
            "live_ms": 1000 * seconds if live else None,
            "deferred": len(addresses) - found["jumps"],
        }

    def spin(self, milliseconds: int) -> None:
        """Threads that never sleep; 0 ends them."""
        write(self.spin_file, f"{milliseconds}\n")


def main() -> None:
    """Answer until stdin ends."""
    rounds = Rounds(*sys.argv[-3:])
    crowd = Crowd()
    threading.stack_size(STACK)
    kinds = {"djprobes": rounds.djprobes, "kprobes": rounds.kprobes}
    for line in sys.stdin:
        request = json.loads(line)
        crowd.resize(request["sleepers"])
        try:
            answer = kinds[request["probes"]](request)
        except OSError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
