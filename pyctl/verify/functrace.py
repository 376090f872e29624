"""Which functions are reached, by the kernel's own function tracer."""

from __future__ import annotations

from collections.abc import Callable

from pyctl.transport import Transport
from pyctl.transport.base import Closing
from pyctl.verify.tracefs import TRACEFS

#: KiB for each CPU: a moment of everything, and read in a second.
BUFFER_KIB = 1024
DEFAULT_KIB = 1408
#: The traced function is the word before "<-caller".
NAMES = "!/^#/ {n[$(NF-1)]++} END {for (f in n) print f}"


class FunctionTracer(Closing):
    """The tracer, switched on but not recording; a context manager that switches it off.

    It slows the whole host down while it is there.
    """

    def __init__(self, transport: Transport, root: str = TRACEFS) -> None:
        self._transport = transport
        self._root = root
        self._write("tracing_on", "0")
        self._write("buffer_size_kb", str(BUFFER_KIB))
        self._write("current_tracer", "function")

    def during(self, what: Callable[[], object]) -> set[str]:
        """The functions that were entered in the last moments of ``what``, by anyone."""
        self._write("trace", "")
        self._write("tracing_on", "1")
        try:
            what()
        finally:
            self._write("tracing_on", "0")
        return set(self._transport.run(["awk", NAMES, f"{self._root}/trace"]).text.split())

    def close(self) -> None:
        """As before."""
        self._write("current_tracer", "nop")
        self._write("buffer_size_kb", str(DEFAULT_KIB))
        self._write("tracing_on", "1")

    def _write(self, file: str, text: str) -> None:
        self._transport.write(f"{self._root}/{file}", text.encode() or b"\n")
