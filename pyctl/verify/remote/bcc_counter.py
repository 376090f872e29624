"""Count function entries with BPF programs on kprobes, through bcc (python3-bpfcc).

One resident process and one program for all: importing bcc and compiling take seconds. The
program includes no kernel header of ours, for the same reason. Commands are JSON lines on
stdin: ``{"cmd": "attach", "functions": [...]}``, ``read``, ``reset``, ``detach``, ``quit``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SLOT_PROGRAM = """
int count_%(slot)d(void *ctx) {
    int slot = %(slot)d;
    u64 *hits = table.lookup(&slot);
    if (hits)
        (*hits)++;
    return 0;
}
"""


def program(slots: int) -> str:
    """A per-CPU counter for each slot, and a program for each that increments it.

    A plain increment is exact: the slot is this CPU's own, and the kernel runs no second
    BPF tracing program on a CPU while one runs.
    """
    head = "BPF_PERCPU_ARRAY(table, u64, %d);\n" % slots  # noqa: UP031 (braces are C here)
    return head + "".join(SLOT_PROGRAM % {"slot": slot} for slot in range(slots))


class Counter:
    """The attached functions, each in its slot."""

    def __init__(self, slots: int) -> None:
        from bcc import BPF  # noqa: PLC0415 (takes seconds, and may not be installed)

        self.slots = slots
        self.bpf: Any = BPF(text=program(slots))
        self.functions: dict[str, int] = {}

    def attach(self, functions: list[str]) -> dict[str, Any]:
        """Put a kprobe at the entry of each; all or none."""
        new = [name for name in functions if name not in self.functions]
        free = [n for n in range(self.slots) if n not in self.functions.values()]
        if len(new) > len(free):
            raise RuntimeError(f"{len(new)} functions, but only {len(free)} free slots")
        done: list[str] = []
        try:
            for name, slot in zip(new, free):  # noqa: B905 (Python 3.9 has no strict=)
                self.bpf.attach_kprobe(event=name.encode(), fn_name=b"count_%d" % slot)
                self.functions[name] = slot
                done.append(name)
        except Exception as error:
            for name in done:
                self._detach(name)
            raise RuntimeError(f"can't attach a kprobe to {name}: {error}") from error
        self.reset()
        return {"attached": sorted(self.functions)}

    def read(self) -> dict[str, Any]:
        """Hits of each function, summed over the CPUs."""
        table = self.bpf["table"]
        return {
            "hits": {
                name: int(sum(table[table.Key(slot)])) for name, slot in self.functions.items()
            }
        }

    def reset(self) -> dict[str, Any]:
        """Begin at 0."""
        self.bpf["table"].clear()
        return {}

    def detach(self) -> dict[str, Any]:
        """Take all kprobes away."""
        for name in list(self.functions):
            self._detach(name)
        return {}

    def _detach(self, name: str) -> None:
        self.bpf.detach_kprobe(event=name.encode())
        del self.functions[name]


def tell(**facts: object) -> None:
    """One line to the owner."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve(commands: Any) -> int:  # noqa: ANN401 (its methods are the commands)
    """Answer commands until stdin ends or one is "quit", which detaches."""
    tell(ready=True)
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        request = json.loads(line)
        command = request.pop("cmd")
        if command == "quit":
            commands.detach()
            return 0
        try:
            tell(**getattr(commands, command)(**request))
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}")


def main() -> int:
    """Answer commands until stdin ends; the kprobes go with the process."""
    try:
        counter = Counter(int(sys.argv[-1]))
    except Exception as error:
        tell(error=f"{type(error).__name__}: {error}")
        return 1
    return serve(counter)


if __name__ == "__main__":
    sys.exit(main())
