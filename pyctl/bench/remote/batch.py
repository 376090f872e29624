"""Many probes at once, in the guest: all in, all live, all out, with the time of each.

One JSON object a line on stdin, one a line on stdout. Requests:

    {"method": NAME, "addresses": [...], "seconds": S, "tally": BOOL}
    {"switch": "text" | "flag", "times": N}

The first puts probes at the addresses and answers what it cost; they stay until
``{"remove": S}``. ``seconds``: how long the sites may take to be live; with ``tally`` the
answer says how many of ours are of each method. The second switches the first of djprobes'
probes off and on. ``{"error": text}`` if it can't be done, with ``errno`` where the kernel
gave one.

Arguments: the folders in debugfs of djprobes, of djp_peer and of djp_bench.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import Counter

from pyctl.bench.remote.rounds import OPTIMIZATION, pairs, until, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

#: What the kernel keeps for probes; pages of code are in VmallocUsed too.
MEMORY = ("Slab", "Percpu", "VmallocUsed")
SYMBOLS = "/proc/kallsyms"
SETTLE_SECONDS = 120.0
PAGE = 4096
#: Why a site that a judgement promised can be refused all the same: its detour has to be out
#: of reach, or another one is too near. How many may be.
PASSED_OVER = (errno.ERANGE, errno.EBUSY)
MOST_REFUSED = 20
#: As long as the longest commit, and then what is done in the background.
SWITCH_SECONDS = 60.0
#: In the file probes.
METHOD_COLUMN = 4


def memory() -> int:
    """Bytes; what can be given back, is."""
    os.sync()
    write("/proc/sys/vm/drop_caches", "3\n")
    with open("/proc/meminfo") as file:  # noqa: PTH123
        rows = dict(line.split(":") for line in file)
    return sum(1024 * int(rows[name].split()[0]) for name in MEMORY)


def kprobe_pages() -> int:
    """Bytes of the pages that mainline keeps its copies and its detours in."""
    with open(SYMBOLS) as file:  # noqa: PTH123
        return PAGE * sum(
            line.split()[2].startswith("kprobe_") for line in file if "__builtin" in line
        )


class Batch:
    """The folders, and what is in place now."""

    def __init__(self, ours: str, peer: str, bench: str) -> None:
        self.ours = ours
        self.control = f"{ours}/control"
        self.bulk = f"{peer}/bulk"
        self.entries = f"{bench}/entries"
        self.watch = f"{bench}/watch"
        self.took_out: Callable[[], dict[str, Any]] | None = None

    def stats(self) -> dict[str, int]:
        """Of djprobes."""
        return pairs(f"{self.ours}/stats")

    def methods(self) -> dict[str, int]:
        """How many of djprobes' probes are of each method."""
        with open(f"{self.ours}/probes") as file:  # noqa: PTH123
            return Counter(line.split()[METHOD_COLUMN] for line in file)

    def last_words(self, error: OSError) -> str:
        """What djprobes says of a write that it refused."""
        if error.filename != self.control:
            return ""
        with open(f"{self.ours}/last_error") as file:  # noqa: PTH123
            return f"\n{file.read()}"

    def accepted(self, addresses: Sequence[int], words: str) -> tuple[list[int], float, float]:
        """Add them; if one is refused (its detour has to be out of reach of what it refers
        to, say) try again without it. Returns those that are in, and the times at which the
        write that put them in began and ended."""
        left = list(addresses)
        while True:
            lines = [f"p:b_{n} {at:#x} {words}" for n, at in enumerate(left)]
            text = "\n".join(lines) + "\n"
            start = time.monotonic()
            try:
                write(self.control, text)
            except OSError as error:
                said = self.last_words(error).split()
                if error.errno not in PASSED_OVER or len(addresses) - len(left) == MOST_REFUSED:
                    raise
                del left[int(said[said.index("line:") + 1]) - 1]
            else:
                return left, start, time.monotonic()

    def put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Put them in."""
        addresses, seconds = request["addresses"], request["seconds"]
        method = request["method"]
        write(self.watch, "\n".join(f"{at:#x}" for at in addresses) + "\n")
        if method in ("count", "soft"):
            words = "count" if method == "count" else "count soft"
            answer = self.put_ours(addresses, words, seconds)
            return {**answer, "methods": self.methods()} if request.get("tally") else answer
        if method in ("kprobe", "kprobe-late", "kprobe-ftrace"):
            return self.put_kprobes(addresses, method, seconds)
        return self.put_entries(addresses, method)

    def restored(self) -> bool:
        """Whether the text at all addresses is as it was."""
        with open(self.watch) as file:  # noqa: PTH123
            return int(file.read()) == 0

    def put_ours(self, addresses: Sequence[int], words: str, seconds: float) -> dict[str, Any]:
        """djprobes, by one write; one commit."""
        before, mapped = memory(), self.stats()
        placed, start, registered = self.accepted(addresses, words)
        self.took_out = self.take_ours
        write(self.control, "commit\n")
        first = self.stats()
        live = until(lambda: self.stats()["sites_bypass"] == 0, seconds)
        end = time.monotonic()
        last = self.stats()
        text_bytes = last["detour_bytes_live"] - mapped["detour_bytes_live"]
        code = last["detour_bytes_mapped"] - mapped["detour_bytes_mapped"]
        return {
            "register_s": registered - start,
            "live_s": end - registered if live else None,
            "stop_ns": first["last_stop_ns"],
            "deferred": first["deferred"],
            "jumps": last["sites_jump"],
            "text_bytes": text_bytes,
            "data_bytes": memory() - before - code,
            "refused": sorted(set(addresses) - set(placed)),
        }

    def take_ours(self) -> dict[str, Any]:
        """Remove them, and free their detours."""
        start = time.monotonic()
        write(self.control, "-*\n")
        self.await_text()
        removed = time.monotonic()
        stop = self.stats()["last_stop_ns"]
        if not until(self.reclaimed, SETTLE_SECONDS):
            raise OSError(errno.EBUSY, "retired detours are not reclaimed")
        return {
            "remove_s": removed - start,
            "reclaim_s": time.monotonic() - removed,
            "stop_ns": max(stop, self.stats()["last_stop_ns"]),
        }

    def await_text(self) -> None:
        """Mainline's optimiser restores it in the background."""
        if not until(self.restored, SETTLE_SECONDS):
            raise OSError(errno.EBUSY, "kernel text is not restored")

    def reclaimed(self) -> bool:
        """Free what is retired."""
        try:
            write(self.control, "reclaim\n")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        return self.stats()["detours_retired"] == 0

    def put_kprobes(self, addresses: Sequence[int], method: str, seconds: float) -> dict[str, Any]:
        """Mainline's: with its optimiser on, as kernels are; or let loose afterwards."""
        before, pages = memory(), kprobe_pages()
        late = method == "kprobe-late"
        write(OPTIMIZATION, "0\n" if late else "1\n")
        text = "\n".join(f"{at:#x}" for at in addresses) + "\n"
        self.took_out = self.take_kprobes
        start = time.monotonic()
        write(self.bulk, text)
        registered = time.monotonic()
        wanted = 0 if method == "kprobe-ftrace" else len(addresses)
        if late:
            write(OPTIMIZATION, "1\n")
        live = until(lambda: pairs(self.bulk)["jumps"] >= wanted, seconds)
        end = time.monotonic()
        found, code = pairs(self.bulk), kprobe_pages() - pages
        return {
            "register_s": registered - start,
            "live_s": end - registered if live else None,
            "deferred": len(addresses) - found["jumps"] if wanted else found["refused"],
            "jumps": found["jumps"],
            "text_bytes": code,
            "data_bytes": memory() - before - code,
        }

    def take_kprobes(self) -> dict[str, Any]:
        """Unregister them."""
        start = time.monotonic()
        write(self.bulk, "\n")
        self.await_text()
        removed = time.monotonic()
        write(OPTIMIZATION, "1\n")
        return {"remove_s": removed - start}

    def put_entries(self, addresses: Sequence[int], method: str) -> dict[str, Any]:
        """One ftrace_ops, or one fprobe, for all of them."""
        before = memory()
        text = f"{method}\n" + "\n".join(f"{at:#x}" for at in addresses) + "\n"
        self.took_out = self.take_entries
        start = time.monotonic()
        write(self.entries, text)
        end = time.monotonic()
        return {
            "register_s": end - start,
            "live_s": 0.0,
            "deferred": 0,
            "jumps": 0,
            "text_bytes": 0,
            "data_bytes": memory() - before,
        }

    def take_entries(self) -> dict[str, Any]:
        """Unregister it."""
        start = time.monotonic()
        write(self.entries, "\n")
        self.await_text()
        return {"remove_s": time.monotonic() - start}

    def remove(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Take out what is in."""
        out, self.took_out = self.took_out, None
        return out() if out else {}

    def switch(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first probe off and on again, so often; seconds of each, from the write until
        the text or the flag is so."""
        offs, ons = [], []
        by_text = request["switch"] == "text"
        for _ in range(request["times"]):
            start = time.monotonic()
            write(self.control, "disable b_0\n")
            offs.append(time.monotonic() - start)
            start = time.monotonic()
            write(self.control, "enable b_0\ncommit\n" if by_text else "enable b_0\n")
            if by_text and not until(lambda: self.stats()["sites_bypass"] == 0, SWITCH_SECONDS):
                raise OSError(errno.EBUSY, "the site does not become a jump again")
            ons.append(time.monotonic() - start)
        return {"off_s": offs, "on_s": ons}


def main() -> None:
    """Answer until stdin ends."""
    batch = Batch(*sys.argv[-3:])
    kinds = {"method": batch.put, "remove": batch.remove, "switch": batch.switch}
    for line in sys.stdin:
        request = json.loads(line)
        kind = next(key for key in kinds if key in request)
        try:
            answer = kinds[kind](request)
        except OSError as error:
            answer = {"error": f"{error}{batch.last_words(error)}", "errno": error.errno}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
