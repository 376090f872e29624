"""Function entries counted by bcc: BPF programs on kprobes, or on a trampoline (fentry)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pyctl.errors import OracleError, TransportError
from pyctl.transport import Process, Transport
from pyctl.transport.base import Closing
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.verify.remote.bcc_counter"
FENTRY_SCRIPT = "pyctl.verify.remote.bcc_fentry"
#: Seconds, before scaling: importing bcc and compiling the program on a slow guest.
START_SECONDS = 180.0
ANSWER_SECONDS = 60.0
INSTALL = "bcc needs python3-bpfcc and the running kernel's headers on that host"


class BccProcess(Closing):
    """A resident script that has bcc's objects, and answers."""

    def __init__(self, transport: Transport, process: Process) -> None:
        self._host = transport.host
        self._process = process
        try:
            self._answer(START_SECONDS, INSTALL)
        except BaseException:
            self._process.close()
            raise

    def close(self) -> None:
        """End the process; the kernel takes away with it what it attached."""
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


class BccCounter(BccProcess):
    """One resident bcc process on a host; a context manager.

    Its kprobes have the limits of all kprobes: an entry that happens while another kprobe's
    handler runs on the same CPU (from an interrupt, say) is not counted. So attach only
    functions that do not nest in each other, if equality is to be demanded. At most
    ``slots`` functions at a time.
    """

    def __init__(self, transport: Transport, *, slots: int = 16) -> None:
        super().__init__(transport, start_script(transport, "djp-bcc", SCRIPT, (), str(slots)))

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


class FentryCounter(BccProcess):
    """A BPF program on a trampoline at one function's ftrace site, not attached yet; a
    context manager. The kernel needs BTF of the function."""

    def __init__(self, transport: Transport, function: str) -> None:
        process = start_script(transport, "djp-fentry", FENTRY_SCRIPT, (SCRIPT,), function)
        super().__init__(transport, process)

    def attach(self) -> None:
        """Count from now on."""
        self._ask(cmd="attach")

    def detach(self) -> None:
        """Count no more."""
        self._ask(cmd="detach")

    def read(self) -> int:
        """Entries counted, ever."""
        hits: int = self._ask(cmd="read")["hits"]
        return hits
