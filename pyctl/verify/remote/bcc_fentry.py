"""Count the entries of one kernel function with a BPF program on a trampoline (fentry).

A resident process, for the reasons of ``bcc_counter``; the function is the last argument.
Commands are JSON lines on stdin: ``{"cmd": "attach"}``, ``detach``, ``read``, ``quit``.
"""

from __future__ import annotations

import sys
from typing import Any

from pyctl.verify.remote.bcc_counter import serve, tell

PROGRAM = """
BPF_PERCPU_ARRAY(table, u64, 1);
KFUNC_PROBE(%s)
{
    int slot = 0;
    u64 *hits = table.lookup(&slot);
    if (hits)
        (*hits)++;
    return 0;
}
"""


class Fentry:
    """The program. bcc attaches it when it is made, which is undone."""

    def __init__(self, function: str) -> None:
        from bcc import BPF  # noqa: PLC0415 (takes seconds, and may not be installed)

        self._function = function.encode()
        self._bpf: Any = BPF(text=PROGRAM % function)
        self._attached = True
        self.detach()

    def attach(self) -> dict[str, Any]:
        """A trampoline at the function's ftrace site."""
        self._bpf.attach_kfunc(self._function)
        self._attached = True
        return {}

    def detach(self) -> dict[str, Any]:
        """Take it away."""
        if self._attached:
            self._bpf.detach_kfunc(self._function)
            self._attached = False
        return {}

    def read(self) -> dict[str, Any]:
        """Entries counted, ever, on all CPUs."""
        table = self._bpf["table"]
        return {"hits": int(sum(table[table.Key(0)]))}


def main() -> int:
    """Answer commands until stdin ends; the program goes with the process."""
    try:
        fentry = Fentry(sys.argv[-1])
    except Exception as error:
        tell(error=f"{type(error).__name__}: {error}")
        return 1
    return serve(fentry)


if __name__ == "__main__":
    sys.exit(main())
