"""Function entries counted by bcc: a BPF program on a kprobe for each function."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pyctl.errors import OracleError, TransportError
from pyctl.transport import Process, Transport
from pyctl.transport.base import Closing
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.verify.remote.bcc_counter"
#: Seconds, before scaling: importing bcc and compiling the program on a slow guest.
START_SECONDS = 180.0
ANSWER_SECONDS = 60.0
INSTALL = "bcc needs python3-bpfcc and the running kernel's headers on that host"


class BccCounter(Closing):
    """One resident bcc process on a host; a context manager.

    Its kprobes have the limits of all kprobes: an entry that happens while another kprobe's
    handler runs on the same CPU (from an interrupt, say) is not counted. So attach only
    functions that do not nest in each other, if equality is to be demanded. At most
    ``slots`` functions at a time.
    """

    def __init__(self, transport: Transport, *, slots: int = 16) -> None:
        self._host = transport.host
        self._process: Process = start_script(transport, "djp-bcc", SCRIPT, (), str(slots))
        try:
            self._answer(START_SECONDS, INSTALL)
        except BaseException:
            self._process.close()
            raise

    def attach(self, functions: Iterable[str]) -> None:
        """Count the entries of these functions too, all counters from 0. All or none."""
        self._ask(cmd="attach", functions=list(functions))

    def read(self) -> dict[str, int]:
        """Function and entries since it was attached or reset."""
        hits: dict[str, int] = self._ask(cmd="read")["hits"]
        return hits

    def reset(self) -> None:
        """All counters to 0."""
        self._ask(cmd="reset")

    def detach(self) -> None:
        """Take all kprobes away; the process stays for the next attach."""
        self._ask(cmd="detach")

    def close(self) -> None:
        """End the process; the kernel takes its kprobes away with it."""
        try:
            self._process.send_line(json.dumps({"cmd": "quit"}))
            self._process.wait(ANSWER_SECONDS)
        except TransportError:
            pass  # close() ends it
        finally:
            self._process.close()

    def _ask(self, **command: object) -> dict[str, Any]:
        self._process.send_line(json.dumps(command))
        return self._answer(ANSWER_SECONDS, None)

    def _answer(self, seconds: float, hint: str | None) -> dict[str, Any]:
        line = self._process.read_line(seconds)
        if line is None:
            raise OracleError(
                f"{self._host}: the bcc process ended\n{self._process.stderr_tail()}",
                hint=hint,
            )
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise OracleError(f"{self._host}: the bcc process said {line!r}") from error
        if "error" in answer:
            raise OracleError(
                f"{self._host}: bcc: {answer['error']}\n{self._process.stderr_tail()}".rstrip(),
                hint=hint,
            )
        return answer
