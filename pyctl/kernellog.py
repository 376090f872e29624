"""The kernel log since a moment, and whether it tells of a fault.

Positions are the sequence numbers of /dev/kmsg, so nothing is found twice and nothing is
missed between two looks (unless the ring overflows, which is itself reported).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyctl.errors import KernelLogError, TransportError
from pyctl.transport import Transport

#: What a healthy kernel does not say. From the kernel's own sources: lib/bug.c, mm/kasan,
#: lib/ubsan.c, kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/hung_task.c,
#: kernel/watchdog.c, arch/x86/kernel/{traps,dumpstack}.c, arch/x86/mm/fault.c.
FAULTS = (
    r"\bBUG\b[: ]",
    r"kernel BUG at ",
    r"\bWARNING: ",
    r"\b[Oo]ops\b[: ]",
    r"Kernel panic",
    r"general protection fault",
    r"Unable to handle kernel",
    r"unable to handle (?:page fault|kernel)",
    r"supervisor (?:read|write) access|supervisor instruction fetch",
    r"invalid opcode: ",
    r"divide error: ",
    r"double fault",
    r"stack segment: ",
    r"stack guard page",
    r"Kernel stack overflow|kernel stack overflow",
    r"\bint3: ",
    r"unexpected int3|Unrecoverable kprobe",
    r"Recursion detected|recursive (?:fault|locking)",
    r"UBSAN: ",
    r"KASAN: |KCSAN: |KMSAN: |KFENCE: ",
    r"possible circular locking|possible recursive locking|inconsistent lock state",
    r"possible irq lock inversion|suspicious RCU usage|bad unlock balance|held lock freed",
    r"INFO: task .* blocked for more than",
    r"self-detected stall|detected stalls|rcu.*stall|expedited stalls|kthread starved",
    r"soft lockup|hard LOCKUP|Hard LOCKUP",
    r"scheduling while atomic|sleeping function called from invalid context",
    r"bad page state|Bad page map|list_(?:add|del) corruption|slab .* (?:corrupt|error)",
    r"refcount_t: |use-after-free|double free",
    r"unregister_netdevice: waiting",
    r"traps: PANIC|NMI watchdog: Watchdog detected",
    r"Modules linked in:|Call Trace:",
)
FAULT = re.compile("|".join(FAULTS))
CONTEXT = 60


@dataclass(frozen=True)
class LogLine:
    """A record of the kernel log: sequence number, level (0 is the gravest), seconds since
    the kernel's start, text."""

    sequence: int
    level: int
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


def parse_record(record: str) -> LogLine:
    """Parse a record of /dev/kmsg: ``priority,sequence,microseconds,flags;text``."""
    head, _, rest = record.partition(";")
    fields = head.split(",")
    text = rest.partition("\n")[0]  # what follows are key=value lines of devices
    return LogLine(int(fields[1]), int(fields[0]) & 7, int(fields[2]) / 1e6, text)


def is_fault(text: str) -> bool:
    """Whether a line tells of a fault."""
    return FAULT.search(text) is not None


class KernelLog:
    """The log of one host from now on.

    ``allowed`` are patterns of lines that a test expects; everything else that
    :func:`is_fault` knows makes :meth:`check` raise. ``last_words`` is asked for the
    console's tail when the host can't be reached any more.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        allowed: Sequence[str] = (),
        last_words: Callable[[], str] | None = None,
    ) -> None:
        self._transport = transport
        self._allowed = tuple(re.compile(pattern) for pattern in allowed)
        self._last_words = last_words
        self._position = -1
        self.skip()

    @property
    def position(self) -> int:
        """The sequence number of the last record that was looked at."""
        return self._position

    def skip(self) -> None:
        """Begin anew: what was logged until now is of no interest."""
        self._read()

    def new_lines(self) -> list[LogLine]:
        """What was logged since the last look, and move on."""
        start = self._position
        lines = self._read()
        if start >= 0 and lines and lines[0].sequence > start + 1:
            gap = lines[0].sequence - start - 1
            note = f"djprobes: {gap} records were overwritten before they could be read"
            lines.insert(0, LogLine(start + 1, 4, lines[0].seconds, note))
        return lines

    def check(self) -> list[LogLine]:
        """The new lines, all harmless; raises KernelLogError if one tells of a fault."""
        lines = self.new_lines()
        bad = [n for n, line in enumerate(lines) if self._is_bad(line.text)]
        if bad:
            context = [str(line) for line in lines[max(0, bad[0] - 3) : bad[0] + CONTEXT]]
            raise KernelLogError(
                [lines[n].text for n in bad], host=self._transport.host, context=context
            )
        return lines

    def _is_bad(self, text: str) -> bool:
        return is_fault(text) and not any(pattern.search(text) for pattern in self._allowed)

    def _read(self) -> list[LogLine]:
        try:
            records = self._transport.kernel_records(self._position)
        except TransportError as error:
            words = self._last_words() if self._last_words else ""
            faults = [line for line in words.splitlines() if is_fault(line)]
            if faults:
                raise KernelLogError(
                    faults, host=self._transport.host, context=words.splitlines()
                ) from error
            raise
        lines = [parse_record(record) for record in records]
        if lines:
            self._position = lines[-1].sequence
        return lines
