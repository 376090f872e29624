"""All kernel text, before and after, byte for byte.

with KernelText(transport) as text:
    text.save()
    ...                     # probe, commit, remove
    text.diff().check()
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyctl.errors import DjprobesError, OracleError, TransportError
from pyctl.transport import Transport
from pyctl.transport.base import Closing
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.verify.remote.kerneltext"
#: Seconds, before scaling.
ANSWER_SECONDS = 120.0


class TextChangedError(DjprobesError):
    """Kernel text differs at places that the kernel itself does not patch."""


@dataclass(frozen=True)
class Change:
    """Adjacent bytes that differ: where, what was there, what is there now."""

    address: int
    before: bytes
    after: bytes
    symbol: str

    def __str__(self) -> str:
        return f"{self.address:#x} {self.symbol}: {self.before.hex(' ')} -> {self.after.hex(' ')}"


@dataclass(frozen=True)
class TextDiff:
    """The outcome, in bytes.

    ``accounted`` is the number of differing bytes by the kind of site: ``jump-label``,
    ``static-call``, ``ftrace``, ``kprobe``, ``smp-lock``. ``unaccounted`` lists the rest
    as runs (the first 200), ``unaccounted_bytes`` counts all of it. ``tables_missing``
    says which kinds could not be looked up; their bytes would be unaccounted.
    """

    bytes_compared: int
    differing: int
    accounted: Mapping[str, int]
    unaccounted: tuple[Change, ...]
    unaccounted_bytes: int
    tables_missing: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every differing byte is accounted for."""
        return self.unaccounted_bytes == 0

    def check(self) -> TextDiff:
        """This result; TextChangedError if a byte is not accounted for."""
        if not self.clean:
            shown = "".join(f"\n  {change}" for change in self.unaccounted[:20])
            missing = "".join(f"\n  not looked up: {table}" for table in self.tables_missing)
            raise TextChangedError(
                f"{self.unaccounted_bytes} of {self.bytes_compared} bytes of kernel text "
                f"have changed and are not the kernel's own doing{shown}{missing}"
            )
        return self


class KernelText(Closing):
    """Keeps a copy of a host's kernel text on that host. Needs root, and no lockdown."""

    def __init__(self, transport: Transport) -> None:
        self._host = transport.host
        self._process = start_script(transport, "djp-kerneltext", SCRIPT, ())
        try:
            self._answer()
        except BaseException:
            self._process.close()
            raise

    def save(self) -> int:
        """Take the copy; returns its size in bytes."""
        size: int = self._ask("save")["bytes"]
        return size

    def diff(self) -> TextDiff:
        """Compare with the copy."""
        answer = self._ask("diff")
        return TextDiff(
            bytes_compared=answer["bytes"],
            differing=answer["differing"],
            accounted=answer["accounted"],
            unaccounted=tuple(
                Change(
                    item["address"],
                    bytes.fromhex(item["before"]),
                    bytes.fromhex(item["after"]),
                    item["symbol"],
                )
                for item in answer["unaccounted"]
            ),
            unaccounted_bytes=answer["unaccounted_bytes"],
            tables_missing=tuple(answer["tables_missing"]),
        )

    def close(self) -> None:
        """Give the copy up."""
        try:
            self._process.send_line(json.dumps({"cmd": "quit"}))
            self._process.wait(ANSWER_SECONDS)
        except TransportError:
            pass  # close() ends it
        finally:
            self._process.close()

    def _ask(self, command: str) -> dict[str, Any]:
        self._process.send_line(json.dumps({"cmd": command}))
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.read_line(ANSWER_SECONDS)
        if line is None:
            raise OracleError(
                f"{self._host}: the reader of kernel text ended\n{self._process.stderr_tail()}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OracleError(f"{self._host}: kernel text: {answer['error']}")
        return answer
