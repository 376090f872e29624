"""Ranges of kernel memory, through /proc/kcore, and the symbols that lie in them.

What djprobes maps below the kernel's image is in none of kcore's segments; it is found through
the kernel's own page tables, which are.

The first line of stdin is a JSON object: ``ranges``, a list of start and length, and
``symbols``, whether to list them. The answer is compressed with zlib: a JSON list of address
and name for each symbol, ascending, on one line; then the bytes of all ranges, in the order
in which they were asked for.
"""

from __future__ import annotations

import bisect
import json
import struct
import sys
import zlib

from pyctl.verify.remote.kerneltext import Kcore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def symbols_in(ranges: list[list[int]], lines: Iterable[str]) -> list[tuple[int, str]]:
    """Address and name of each symbol that lies in a range, by lines of /proc/kallsyms."""
    ordered = sorted(ranges)
    starts = [start for start, _length in ordered]
    found = []
    for line in lines:
        address_text, _, name = line.split(None, 3)[:3]
        address = int(address_text, 16)
        index = bisect.bisect_right(starts, address) - 1
        if index >= 0 and address < starts[index] + ordered[index][1]:
            found.append((address, name))
    return sorted(found)


PAGE = 4096
#: Bits of a page-table entry: there is one; it is no table but a big page; its address.
PRESENT, BIG = 1, 1 << 7
FRAME = 0x000FFFFFFFFFF000
#: Where all memory is mapped, unless the kernel says another address.
PAGE_OFFSET = 0xFFFF888000000000


class PageTables:
    """The kernel's page tables, read from its memory (arch/x86/mm/init_64.c)."""

    def __init__(self, kcore: Kcore, lines: Iterable[str]) -> None:
        wanted = {"init_top_pgt", "page_offset_base", "__pgtable_l5_enabled"}
        found = {}
        for line in lines:
            words = line.split()
            if words[2] in wanted and len(words) == 3:
                found[words[2]] = int(words[0], 16)
        self.kcore = kcore
        self.top = found["init_top_pgt"]
        self.base = PAGE_OFFSET
        if "page_offset_base" in found:
            self.base = self._number(found["page_offset_base"], "<Q")
        five = found.get("__pgtable_l5_enabled")
        self.shift = 48 if five is not None and self._number(five, "<I") else 39
        self.pages: dict[int, bytes] = {}

    def read(self, start: int, end: int) -> bytes:
        """The bytes in [start, end)."""
        first = start & -PAGE
        data = b"".join(self._page(page) for page in range(first, end, PAGE))
        return data[start - first : end - first]

    def _page(self, page: int) -> bytes:
        if page not in self.pages:
            at = self.base + self._physical(page)
            self.pages[page] = self.kcore.read(at, at + PAGE)
        return self.pages[page]

    def _physical(self, address: int) -> int:
        table, shift = self.top, self.shift
        while True:
            entry = self._number(table + 8 * (address >> shift & 511), "<Q")
            if not entry & PRESENT:
                raise RuntimeError(f"nothing is mapped at {address:#x}")
            size = 1 << shift
            if shift == 12 or (shift < 39 and entry & BIG):
                return (entry & FRAME & -size) + (address & (size - 1))
            table, shift = self.base + (entry & FRAME), shift - 9

    def _number(self, address: int, form: str) -> int:
        data = self.kcore.read(address, address + struct.calcsize(form))
        number: int = struct.unpack(form, data)[0]
        return number


class Memory:
    """All kernel memory."""

    def __init__(self) -> None:
        self.kcore = Kcore()
        self.tables: PageTables | None = None

    def read(self, start: int, end: int) -> bytes:
        """The bytes in [start, end)."""
        if any(at <= start and end <= at + length for at, length, _ in self.kcore.segments):
            return self.kcore.read(start, end)
        if self.tables is None:
            with open("/proc/kallsyms") as lines:  # noqa: PTH123
                self.tables = PageTables(self.kcore, lines)
        return self.tables.read(start, end)


def main() -> None:
    """Answer the one question."""
    asked = json.loads(sys.stdin.buffer.readline())
    packer = zlib.compressobj(1)
    sink = sys.stdout.buffer
    symbols: list[tuple[int, str]] = []
    if asked["symbols"]:
        with open("/proc/kallsyms") as lines:  # noqa: PTH123
            symbols = symbols_in(asked["ranges"], lines)
    sink.write(packer.compress(json.dumps(symbols).encode() + b"\n"))
    memory = Memory()
    for start, length in asked["ranges"]:
        sink.write(packer.compress(memory.read(start, start + length)))
    sink.write(packer.flush())
    sink.flush()


if __name__ == "__main__":
    main()
