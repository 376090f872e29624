"""The kernel modules that tests load beside djprobes (``kmod/test``), as objects.

``Targets`` calls functions that check themselves; ``Peers`` puts other people's things into
kernel text: kprobes, direct calls, a livepatch. For guests only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pyctl.errors import OracleError
from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.timing import Deadline, attempts
from pyctl.transport import Transport
from pyctl.verify.livetext import peek

DEBUG = "/sys/kernel/debug"
OPTIMISATION = "/proc/sys/debug/kprobes-optimization"
LIVEPATCH = "/sys/kernel/livepatch/djp_livepatch"
#: Seconds, before scaling.
CHURN_SECONDS = 60.0
PATCH_SECONDS = 90.0


@contextmanager
def kprobe_optimisation(transport: Transport, *, on: bool) -> Iterator[None]:
    """Whether the kernel may make jumps of kprobes while the context is open."""
    before = transport.read(OPTIMISATION)
    transport.write(OPTIMISATION, b"1" if on else b"0")
    try:
        yield
    finally:
        transport.write(OPTIMISATION, before)


@dataclass(frozen=True)
class Calls:
    """How often functions were called, and how many of their results were wrong."""

    calls: int
    wrong: int


@dataclass(frozen=True)
class Churned:
    """A djprobe that came and went: ``added`` times, ``refused`` as often as somebody was in
    its way; ``committed`` as a jump; ``stuck`` attempts to remove it were refused. ``hits``
    of all its lives."""

    added: int
    refused: int
    committed: int
    stuck: int
    hits: int


def parse_calls(text: str) -> dict[str, Calls]:
    """A file with lines of name, calls, wrong results; a name's lines are added up."""
    found: dict[str, Calls] = {}
    for line in text.splitlines():
        name, calls, wrong = line.split()
        before = found.get(name, Calls(0, 0))
        found[name] = Calls(before.calls + int(calls), before.wrong + int(wrong))
    return found


class Load:
    """What the threads of :meth:`Targets.load` did; complete once its context has ended."""

    def __init__(self) -> None:
        self.done: Mapping[str, Calls] = {}

    def calls(self, name: str) -> int:
        """Calls of one function by all threads."""
        return self.done[name].calls

    @property
    def wrong(self) -> int:
        """Wrong results of all functions."""
        return sum(calls.wrong for calls in self.done.values())


class Targets:
    """``djp_test``: its functions by name, without the module's."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._transport = guest.transport
        if not self._transport.exists(f"{DEBUG}/djp_test"):
            guest.load_extra("djp_test", source=SOURCE)

    def call(self, name: str, times: int) -> int:
        """Call one function ``times`` times; how many results were wrong."""
        before = self._calls("call").get(name, Calls(0, 0))
        self._transport.write(f"{DEBUG}/djp_test/call", f"{name} {times}".encode())
        after = self._calls("call")[name]
        if after.calls - before.calls != times:
            raise OracleError(f"{name} was called {after.calls - before.calls} times, not {times}")
        return after.wrong - before.wrong

    @contextmanager
    def load(self, *names: str) -> Iterator[Load]:
        """A kernel thread for each name calls that function while the context is open."""
        load = Load()
        self._transport.write(f"{DEBUG}/djp_test/load", " ".join(names).encode())
        try:
            yield load
        finally:
            self._transport.write(f"{DEBUG}/djp_test/load", b"stop")
            load.done = self._calls("load")

    @contextmanager
    def churn(self, address: int) -> Iterator[None]:
        """A kernel thread adds and removes a djprobe while the context is open."""
        self._transport.write(f"{DEBUG}/djp_test/churn", f"{address:#x}".encode())
        try:
            yield
        finally:
            self._transport.write(f"{DEBUG}/djp_test/churn", b"0")
            for _ in attempts(Deadline.after(CHURN_SECONDS)):
                if self._churn()["ended"]:
                    break
            else:
                raise OracleError("the djprobe that comes and goes can't be removed any more")

    def churned(self) -> Churned:
        """What the last :meth:`churn` did."""
        found = self._churn()
        found.pop("ended")
        return Churned(**found)

    def flip(self, times: int) -> None:
        """A jump label on and off, and a static call there and back, ``times`` times."""
        self._transport.write(f"{DEBUG}/djp_test/flip", str(times).encode())

    def address(self, name: str) -> int:
        """A symbol's address."""
        lines = self._transport.run(["grep", "-w", "--", re.escape(name), "/proc/kallsyms"]).text
        found = [line.split() for line in lines.splitlines()]
        return next(int(fields[0], 16) for fields in found if fields[2] == name)

    def text(self, address: int, length: int) -> bytes:
        """What stands there now."""
        return peek(self._transport, [address], length)[0]

    def _calls(self, file: str) -> dict[str, Calls]:
        return parse_calls(self._transport.read(f"{DEBUG}/djp_test/{file}").decode())

    def _churn(self) -> dict[str, int]:
        rows = self._transport.read(f"{DEBUG}/djp_test/churn").decode().splitlines()
        return {key: int(value) for key, value in (row.split() for row in rows)}


class ManyHandlers:
    """Probes of ``djp_test`` with a handler that counts, at any addresses."""

    HANDLER = "djp_test_many_handler"
    FILE = f"{DEBUG}/djp_test/many_handlers"

    def __init__(self, guest: Guest) -> None:
        self._transport = guest.transport
        if not self._transport.exists(f"{DEBUG}/djp_test"):
            guest.load_extra("djp_test", source=SOURCE)

    @contextmanager
    def at(self, addresses: Iterable[int], reads: Collection[int] = ()) -> Iterator[dict[int, int]]:
        """One at each address while the context is open; at those in ``reads`` with a handler
        that only reads. Gives the address of each struct djprobe."""
        lines = [f"{at:#x}" + (" reads" if at in reads else "") for at in addresses]
        self._transport.write(self.FILE, "\n".join(lines).encode())
        try:
            _, _, *rows = self._transport.read(self.FILE).decode().splitlines()
            yield {int(at, 16): int(probe, 16) for at, probe in map(str.split, rows)}
        finally:
            self._transport.write(self.FILE, b"-")

    def calls(self) -> int:
        """How often a handler was called, ever."""
        return int(self._transport.read(self.FILE).decode().splitlines()[1].split()[1])


class Peers:
    """``djp_peer`` and ``djp_livepatch``. What the kernel refuses is a RemoteOSError with its
    errno."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._transport = guest.transport
        if not self._transport.exists(f"{DEBUG}/djp_peer"):
            guest.load_extra("djp_peer", source=SOURCE)

    def add_kprobe(self, address: int, *, stepped: bool = False) -> None:
        """register_kprobe(). The kernel optimises it if it can, unless it is ``stepped``."""
        kind = " stepped" if stepped else ""
        self._write("kprobe", f"+{address:#x}{kind}")

    def remove_kprobe(self, address: int) -> None:
        """unregister_kprobe()."""
        self._write("kprobe", f"-{address:#x}")

    def remove_kprobes(self) -> None:
        """All that :meth:`add_kprobe` made."""
        for line in self._read("kprobe").splitlines():
            self.remove_kprobe(int(line.split()[0], 16))

    def kprobe_hits(self, address: int) -> int:
        """Hits of the kprobe there, the missed ones too."""
        for line in self._read("kprobe").splitlines():
            at, hits, missed = line.split()
            if int(at, 16) == address:
                return int(hits) + int(missed)
        raise OracleError(f"there is no kprobe at {address:#x}")

    def optimised(self, address: int, seconds: float = 10.0) -> bool:
        """Whether the kprobe there becomes a jump within ``seconds`` (before scaling)."""
        return any(
            peek(self._transport, [address])[0] == b"\xe9"
            for _ in attempts(Deadline.after(seconds))
        )

    @contextmanager
    def race(self, *addresses: int, optimised: Collection[int] = ()) -> Iterator[None]:
        """At each address a kprobe comes and goes while the context is open.

        Only those at ``optimised`` addresses may become jumps. Nobody should put a kprobe
        among the bytes that such a jump covers: the kernel's list of kprobes is corrupt
        when the optimised one, on its way out, comes back (6.1 and 6.12 kernel/kprobes.c:
        unoptimize_kprobe() has moved it to freeing_list, where reuse_unused_kprobe() does
        not look).
        """
        words = [f"{at:#x}" + ("" if at in optimised else "s") for at in addresses]
        self._write("race", " ".join(words))
        try:
            yield
        finally:
            self._write("race", "stop")

    def raced(self) -> dict[int, int]:
        """Address, and how many kprobes were accepted there in the last race."""
        found: dict[int, int] = {}
        for line in self._read("race").splitlines():
            address, accepted, _refused, _hits = line.split()
            found[int(address, 16)] = found.get(int(address, 16), 0) + int(accepted)
        return found

    def begin_slow_kprobe(self, address: int) -> None:
        """Begin to register a kprobe, as far as that its instruction has been copied.

        The kernel ends the wait by itself after a second.
        """
        self._write("slow", f"+{address:#x}")

    def end_slow_kprobe(self) -> None:
        """Let the registration go on to its end."""
        self._write("slow", "go")

    def slow_kprobe_hits(self) -> int:
        """Its hits."""
        return int(self._read("slow"))

    def remove_slow_kprobe(self) -> None:
        """Unregister it."""
        self._write("slow", "-")

    def attach_direct(self, address: int) -> None:
        """A direct call from the ftrace site of the function at this address."""
        self._write("direct", f"{address:#x}")

    def detach_direct(self) -> None:
        """Take it away."""
        self._write("direct", "0")

    def direct_hits(self) -> int:
        """Calls that it has counted, ever."""
        return int(self._read("direct"))

    def enable_livepatch(self) -> None:
        """Replace djp_test_entered(); returns when all tasks use the new one."""
        self._guest.load_extra("djp_livepatch", source=SOURCE)
        for _ in attempts(Deadline.after(PATCH_SECONDS)):
            if self._transport.read(f"{LIVEPATCH}/transition").strip() == b"0":
                return
        raise OracleError("the livepatch has not reached every task")

    def disable_livepatch(self) -> int:
        """Put the old one back; returns how many calls came to the new one."""
        self._transport.write(f"{LIVEPATCH}/enabled", b"0")
        for _ in attempts(Deadline.after(PATCH_SECONDS)):
            if not self._transport.exists(LIVEPATCH):
                break
        else:
            raise OracleError("the livepatch has not left every task")
        calls = self.livepatch_calls()
        self._transport.run(["rmmod", "djp_livepatch"])
        return calls

    def livepatch_calls(self) -> int:
        """Calls that came to the new function."""
        return int(self._transport.read("/sys/module/djp_livepatch/parameters/calls"))

    def _write(self, file: str, text: str) -> None:
        self._transport.write(f"{DEBUG}/djp_peer/{file}", text.encode())

    def _read(self, file: str) -> str:
        return self._transport.read(f"{DEBUG}/djp_peer/{file}").decode()
