"""What the kernel's own tables say of where control goes, beside its instructions: for the
oracle of live flags (``pyctl.verify.liveness``).

The answer is a JSON object, compressed with zlib:

jumps      pairs of address and target: jump labels, on or off
fixups     pairs of an instruction that may fault, and where it goes on then
warnings   addresses of ud2 behind which control goes on
calls      addresses of static calls, which may be patched to do nothing
traced     pairs of name and module ("" for the kernel): functions with an ftrace site
functions  address, name and module of all text symbols

Tables of the kernel lie between two symbols. Those of a module lie in a section whose end
nobody tells: they are read until an entry makes no sense. Layouts: struct jump_entry,
exception_table_entry (with the member data, since 5.16), bug_entry (relative pointers),
static_call_site.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib

from pyctl.verify.remote.kerneltext import TRACEFS, lines_of
from pyctl.verify.remote.livetext import Memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = "/sys/module"
#: In tracefs: functions with an ftrace site, by name.
TRACED = "available_filter_functions"
CHUNK = 4096
#: Of a bug_entry: control comes back.
WARNING = 1
#: Tables: layout, the kernel's first and last symbol, a module's section, and whether an
#: entry's first and second word are addresses in text, relative to themselves.
TABLES = {
    "jumps": ("<iiq", "__start___jump_table", "__stop___jump_table", "__jump_table", True),
    "fixups": ("<iii", "__start___ex_table", "__stop___ex_table", "__ex_table", True),
    "warnings": ("<iiHH", "__start___bug_table", "__stop___bug_table", "__bug_table", False),
    "calls": (
        "<ii",
        "__start_static_call_sites",
        "__stop_static_call_sites",
        ".static_call_sites",
        False,
    ),
}


class Flow:
    """The answer, as it grows."""

    def __init__(self, ranges: list[list[int]]) -> None:
        self.memory = Memory()
        self.ranges = ranges
        self.found: dict[str, list[object]] = {name: [] for name in TABLES}
        self.missing: list[str] = []
        self.functions: list[tuple[int, str, str]] = []
        self.symbols: dict[str, int] = {}
        with open("/proc/kallsyms") as lines:  # noqa: PTH123
            for line in lines:
                words = line.split()
                address, module = int(words[0], 16), words[3].strip("[]") if words[3:] else ""
                if words[1] in "tTwW":
                    self.functions.append((address, words[2], module))
                elif not module:
                    self.symbols[words[2]] = address
        # Some of the tables' ends are told as text symbols.
        self.symbols.update((name, at) for at, name, module in self.functions if not module)

    def read(self) -> dict[str, object]:
        """All of it."""
        for name, (layout, first, last, section, both) in TABLES.items():
            start, end = self.symbols.get(first), self.symbols.get(last)
            if start and end:
                for _ in self.entries(name, struct.Struct(layout), both, start, end):
                    pass
            else:
                self.missing.append(name)
            for module in sorted(os.listdir(MODULES)):  # noqa: PTH208
                self.module(name, struct.Struct(layout), both, f"{module}/sections/{section}")
        names = next(filter(None, (lines_of(f"{root}/{TRACED}") for root in TRACEFS)), [])
        traced = []
        for line in names:
            words = line.split()
            traced.append((words[0], words[1].strip("[]") if words[1:] else ""))
        return {
            **self.found,
            "traced": traced,
            "functions": self.functions,
            "missing": self.missing if traced else [*self.missing, "traced"],
        }

    def module(self, name: str, layout: struct.Struct, both: bool, path: str) -> None:
        """The table of one module, if it has one."""
        try:
            with open(f"{MODULES}/{path}") as file:  # noqa: PTH123
                start = int(file.read(), 16)
        except OSError:
            return
        at = start
        while True:  # as long as an entry makes sense
            end = min(at + layout.size * 64, (at | (CHUNK - 1)) + 1)
            end = max(at + layout.size, end - (end - at) % layout.size)
            try:
                known = sum(1 for _ in self.entries(name, layout, both, at, end))
            except RuntimeError:  # nothing is mapped there
                return
            if known != (end - at) // layout.size:
                return
            at = end

    def entries(
        self, name: str, layout: struct.Struct, both: bool, start: int, end: int
    ) -> Iterator[int]:
        """Note each entry, until one makes no sense."""
        data = self.memory.read(start, end)
        for offset in range(0, len(data) - layout.size + 1, layout.size):
            values = layout.unpack_from(data, offset)
            at = start + offset
            address, other = at + values[0], at + 4 + values[1]
            if not self.is_text(address) or (both and not self.is_text(other)):
                if start == self.symbols.get(TABLES[name][1]):  # code that is gone after boot
                    continue
                return
            if both:
                self.found[name].append((address, other))
            elif name != "warnings" or values[3] & WARNING:
                self.found[name].append(address)
            yield address

    def is_text(self, address: int) -> bool:
        """Whether it lies in one of the texts."""
        return any(start <= address < start + size for start, size in self.ranges)


def main() -> None:
    """Answer the one question: the first line of stdin has the texts, as pairs of start and
    size."""
    flow = Flow(json.loads(sys.stdin.buffer.readline()))
    sys.stdout.buffer.write(zlib.compress(json.dumps(flow.read()).encode(), 1))


if __name__ == "__main__":
    main()
