"""Function entries counted by the kernel's own kprobe events (``kprobe_profile``)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from pyctl.errors import OracleError, RemoteOSError, TransportError
from pyctl.transport import Transport
from pyctl.transport.base import Closing

TRACEFS = "/sys/kernel/tracing"
GROUP = "djp_oracle"


@dataclass(frozen=True)
class ProfileLine:
    """An event's counters: ``hits``, and ``missed``, entries that came while another
    kprobe's handler ran on that CPU. Together they are all entries."""

    hits: int
    missed: int

    @property
    def entries(self) -> int:
        """How often the function was entered."""
        return self.hits + self.missed


class TracefsCounter(Closing):
    """Kprobe events of tracefs on a host; a context manager that removes what it made.

    Unlike bcc it tells how many entries its kprobes missed.
    """

    def __init__(self, transport: Transport, root: str = TRACEFS) -> None:
        self._transport = transport
        self._root = root
        # kprobe_profile shows names without groups, so they must be unique among all.
        self._prefix = f"djp{secrets.token_hex(4)}"
        self._events: dict[str, str] = {}
        self._start: dict[str, ProfileLine] = {}
        if not transport.exists(f"{root}/kprobe_events"):
            transport.run(["mount", "-t", "tracefs", "tracefs", root], check=False)

    def attach(self, functions: Iterable[str]) -> None:
        """Count the entries of these functions."""
        events = {
            name: f"{self._prefix}_{len(self._events) + number}"
            for number, name in enumerate(dict.fromkeys(functions))
            if name not in self._events
        }
        if not events:
            return
        lines = [f"p:{GROUP}/{event} {name}" for name, event in events.items()]
        self._write("kprobe_events", "\n".join(lines) + "\n", f"can't count {', '.join(events)}")
        self._events |= events
        for event in events.values():
            self._write(f"events/{GROUP}/{event}/enable", "1", f"can't switch on {event}")
        self.reset()

    def read(self) -> dict[str, int]:
        """Function and entries since attach or reset, the missed ones included."""
        return {name: line.entries for name, line in self.profile().items()}

    def profile(self) -> dict[str, ProfileLine]:
        """Hits and missed entries apart."""
        return {
            name: ProfileLine(
                line.hits - self._start[name].hits, line.missed - self._start[name].missed
            )
            for name, line in self._absolute().items()
        }

    def reset(self) -> None:
        """Begin at 0."""
        self._start = self._absolute()

    def detach(self) -> None:
        """Remove the events."""
        events, self._events = self._events, {}
        for event in events.values():
            self._write(f"events/{GROUP}/{event}/enable", "0", f"can't switch off {event}")
        if events:
            lines = [f"-:{GROUP}/{event}" for event in events.values()]
            self._write("kprobe_events", "\n".join(lines) + "\n", "can't remove the events")

    def close(self) -> None:
        """Remove the events."""
        try:
            self.detach()
        except OracleError as error:
            if not isinstance(error.__cause__, RemoteOSError):
                raise TransportError(str(error)) from error
            raise

    def _absolute(self) -> dict[str, ProfileLine]:
        text = self._transport.read(f"{self._root}/kprobe_profile").decode()
        lines = parse_profile(text)
        missing = [name for name, event in self._events.items() if event not in lines]
        if missing:
            raise OracleError(f"kprobe_profile does not show the events of {', '.join(missing)}")
        return {name: lines[event] for name, event in self._events.items()}

    def _write(self, file: str, text: str, doing: str) -> None:
        try:
            self._transport.write(f"{self._root}/{file}", text.encode())
        except RemoteOSError as error:
            raise OracleError(
                f"{self._transport.host}: {doing}: {error.strerror}",
                hint="does the function exist once and only once in /proc/kallsyms?",
            ) from error


def parse_profile(text: str) -> dict[str, ProfileLine]:
    """Parse ``kprobe_profile``: event, hits, missed."""
    result = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
            raise OracleError(f"kprobe_profile has an unknown line: {line!r}")
        result[words[0]] = ProfileLine(int(words[1]), int(words[2]))
    return result
