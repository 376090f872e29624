"""Keep a copy of all kernel text, and compare it later, byte for byte.

Text is read through /proc/kcore. Each byte that differs is accounted for by a site that
the kernel itself patches, or it is reported. JSON lines: ``{"cmd": "save"}``, ``diff``,
``quit``. The copy (16-30 MB) stays in this process.

Where the kernel patches its own text, and how each kind is found here:

jump-label   entries between __start___jump_table and __stop___jump_table: s32 code, s32
             target, s64 key, each relative to its own address (include/linux/jump_label.h)
static-call  entries between __start_static_call_sites and __stop_static_call_sites: s32
             site, s32 key, relative (include/linux/static_call_types.h); and the
             trampolines, symbols __SCT__*
ftrace       the 5 bytes at the entry of each function in available_filter_functions, which
             must be the nop or a call, before and after; and the call sites inside
             ftrace's own trampolines
kprobe       the addresses in /sys/kernel/debug/kprobes/list, before or after
smp-lock     entries between __smp_locks and __smp_locks_end: s32 relative
"""

from __future__ import annotations

import bisect
import json
import struct
import sys
from typing import Any

BLOCK = 4096
CHUNK = 1 << 20
KCORE = "/proc/kcore"
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
KPROBES = "/sys/kernel/debug/kprobes/list"
NOP5 = bytes.fromhex("0f1f440000")
ENDBR64 = bytes.fromhex("f30f1efa")
CALL = 0xE8
JUMP_ENTRY = struct.Struct("<iiq")
STATIC_ENTRY = struct.Struct("<ii")
FTRACE_SITES = ("ftrace_call", "ftrace_regs_call", "ftrace_graph_call", "ftrace_graph_regs_call")
#: At most so many differing runs are reported one by one.
REPORTED = 200
PT_LOAD = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Kcore:
    """The kernel's memory by virtual address; ``path`` is an ELF core with it."""

    def __init__(self, path: str = KCORE) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 (kept open)
        head = self.file.read(64)
        if head[:4] != b"\x7fELF" or head[4] != 2:
            raise RuntimeError(f"{path} is not a 64-bit ELF file")
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        self.file.seek(offset)
        table = self.file.read(size * count)
        self.segments: list[tuple[int, int, int]] = []
        for index in range(count):
            kind, _, at, address, _, length = struct.unpack_from("<IIQQQQ", table, index * size)
            if kind == PT_LOAD:
                self.segments.append((address, length, at))

    def read(self, start: int, end: int) -> bytes:
        """The bytes in [start, end)."""
        for address, length, at in self.segments:
            if address <= start and end <= address + length:
                self.file.seek(at + start - address)
                parts: list[bytes] = []
                left = end - start
                while left:
                    part = self.file.read(min(left, CHUNK))
                    if not part:
                        raise RuntimeError(f"{KCORE} ends {left} bytes before {end:#x}")
                    parts.append(part)
                    left -= len(part)
                return b"".join(parts)
        raise RuntimeError(f"{KCORE} has no segment with {start:#x}-{end:#x}")


class Symbols:
    """/proc/kallsyms, without the modules' symbols."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.by_name: dict[str, list[int]] = {}
        text: list[tuple[int, str]] = []
        for line in lines:
            words = line.split()
            if len(words) != 3:  # a fourth word is a module
                continue
            address, kind, name = int(words[0], 16), words[1], words[2]
            self.by_name.setdefault(name, []).append(address)
            if kind in "tTwW":
                text.append((address, name))
        text.sort()
        self.addresses = [address for address, _ in text]
        self.names = [name for _, name in text]

    def address(self, name: str) -> int | None:
        """The address of a symbol that is there once."""
        found = self.by_name.get(name, [])
        return found[0] if len(found) == 1 and found[0] else None

    def describe(self, address: int) -> str:
        """``symbol+0xOFF`` of an address."""
        index = bisect.bisect_right(self.addresses, address) - 1
        if index < 0:
            return hex(address)
        return f"{self.names[index]}+{address - self.addresses[index]:#x}"


class Sites:
    """Byte addresses that the kernel may change, each with its kind; the first kind wins."""

    def __init__(self) -> None:
        self.kinds: dict[int, str] = {}

    def add(self, kind: str, address: int, length: int) -> None:
        """A site of ``length`` bytes."""
        for byte in range(address, address + length):
            self.kinds.setdefault(byte, kind)


def jump_labels(table: bytes, base: int, text: Text) -> Iterator[tuple[int, int]]:
    """Address and length (2 or 5) of each jump label in the text."""
    for offset in range(0, len(table) - JUMP_ENTRY.size + 1, JUMP_ENTRY.size):
        address = base + offset + JUMP_ENTRY.unpack_from(table, offset)[0]
        if text.start <= address < text.end - 5:
            opcode = text.at(address, 2)
            yield address, 2 if opcode[0] == 0xEB or opcode == b"\x66\x90" else 5


def static_calls(table: bytes, base: int, text: Text) -> Iterator[tuple[int, int]]:
    """Address and length of each static call in the text; all are 5 bytes long."""
    for offset in range(0, len(table) - STATIC_ENTRY.size + 1, STATIC_ENTRY.size):
        address = base + offset + STATIC_ENTRY.unpack_from(table, offset)[0]
        if text.start <= address <= text.end - 5:
            yield address, 5


def smp_locks(table: bytes, base: int, text: Text) -> list[tuple[int, int]]:
    """Address and length (1) of each lock prefix. Nothing if the table was freed after boot
    and holds something else now: then the kernel can't patch these any more."""
    found: list[tuple[int, int]] = []
    for offset in range(0, len(table) - 3, 4):
        address = base + offset + struct.unpack_from("<i", table, offset)[0]
        inside = text.start <= address < text.end
        if not inside or text.at(address, 1)[0] not in (0xF0, 0x3E):
            return []
        found.append((address, 1))
    return found


class Text:
    """A copy of kernel text."""

    def __init__(self, start: int, data: bytes) -> None:
        self.start, self.end, self.data = start, start + len(data), data

    def at(self, address: int, length: int) -> bytes:
        """Some bytes of it."""
        return self.data[address - self.start : address - self.start + length]


TABLES = (
    ("jump-label", "__start___jump_table", "__stop___jump_table"),
    ("static-call", "__start_static_call_sites", "__stop_static_call_sites"),
    ("smp-lock", "__smp_locks", "__smp_locks_end"),
)
READERS: dict[str, Callable[[bytes, int, Text], Iterable[tuple[int, int]]]] = {
    "jump-label": jump_labels,
    "static-call": static_calls,
    "smp-lock": smp_locks,
}


def is_ftrace_site(code: bytes) -> bool:
    """Whether these 5 bytes are what ftrace puts at a function's entry."""
    return code == NOP5 or code[0] == CALL


def differing(before: bytes, after: bytes) -> list[int]:
    """Offsets of the bytes that differ. Whole blocks are compared first: they mostly agree."""
    found = []
    for start in range(0, len(before), BLOCK):
        old, new = before[start : start + BLOCK], after[start : start + BLOCK]
        if old != new:
            found += [start + n for n, (a, b) in enumerate(zip(old, new)) if a != b]  # noqa: B905
    return found


def runs(offsets: list[int]) -> Iterator[tuple[int, int]]:
    """Start and length of each run of adjacent offsets."""
    start = previous = -2
    for offset in offsets:
        if offset != previous + 1:
            if start >= 0:
                yield start, previous - start + 1
            start = offset
        previous = offset
    if start >= 0:
        yield start, previous - start + 1


class Comparer:
    """The copy, and what is needed to judge a difference."""

    def __init__(self) -> None:
        with open("/proc/kallsyms") as file:  # noqa: PTH123
            self.symbols = Symbols(file)
        self.kcore = Kcore()
        start, end = self.symbols.address("_stext"), self.symbols.address("_etext")
        if not start or not end:
            raise RuntimeError("/proc/kallsyms shows no _stext and _etext: are we root?")
        self.start, self.end = start, end
        self.before: Text | None = None
        self.kprobes: set[int] = set()

    def save(self) -> dict[str, Any]:
        """Take the copy."""
        self.before = self._text()
        self.kprobes = kprobe_addresses(lines_of(KPROBES))
        return {"bytes": len(self.before.data), "start": self.start, "end": self.end}

    def diff(self) -> dict[str, Any]:
        """Compare with the copy."""
        if self.before is None:
            raise RuntimeError("diff before save")
        before, after = self.before, self._text()
        offsets = differing(before.data, after.data)
        kinds: dict[int, str] = {}
        missing: list[str] = []
        if offsets:
            sites, missing = self.sites(before, after)
            kinds = sites.kinds
        accounted: dict[str, int] = {}
        rest = []
        for offset in offsets:
            kind = kinds.get(self.start + offset)
            if kind is None:
                rest.append(offset)
            else:
                accounted[kind] = accounted.get(kind, 0) + 1
        found = list(runs(rest))
        return {
            "bytes": len(before.data),
            "differing": len(offsets),
            "accounted": accounted,
            "unaccounted_bytes": len(rest),
            "unaccounted": [self._report(before, after, *run) for run in found[:REPORTED]],
            "unaccounted_runs": len(found),
            "tables_missing": missing,
        }

    def sites(self, before: Text, after: Text) -> tuple[Sites, list[str]]:
        """All sites that the kernel patches, and which tables could not be read."""
        sites, missing = Sites(), []
        for kind, first, last in TABLES:
            base, end = self.symbols.address(first), self.symbols.address(last)
            try:
                if not base or not end:
                    raise RuntimeError(f"no symbol {first}")
                table = self.kcore.read(base, end)
            except (RuntimeError, OSError) as error:
                missing.append(f"{kind}: {error}")
                continue
            for address, length in READERS[kind](table, base, before):
                sites.add(kind, address, length)
        for name, addresses in self.symbols.by_name.items():
            if name.startswith("__SCT__") or name in FTRACE_SITES:
                for address in addresses:
                    sites.add("static-call" if name[0] == "_" else "ftrace", address, 5)
        self._add_ftrace(sites, before, after, missing)
        for address in self.kprobes | kprobe_addresses(lines_of(KPROBES)):
            if self.start <= address < self.end - 5:
                jump = 0xE9 in (before.at(address, 1)[0], after.at(address, 1)[0])
                sites.add("kprobe", address, 5 if jump else 1)
        return sites, missing

    def _add_ftrace(self, sites: Sites, before: Text, after: Text, missing: list[str]) -> None:
        file = "available_filter_functions"
        names = [line for root in TRACEFS for line in lines_of(f"{root}/{file}")]
        if not names:
            missing.append("ftrace: no available_filter_functions")
        for line in names:
            words = line.split()
            if len(words) != 1:  # a second word is a module
                continue
            for entry in self.symbols.by_name.get(words[0], ()):
                if not self.start <= entry < self.end - 9:
                    continue
                site = entry + len(ENDBR64) if before.at(entry, 4) == ENDBR64 else entry
                if is_ftrace_site(before.at(site, 5)) and is_ftrace_site(after.at(site, 5)):
                    sites.add("ftrace", site, 5)

    def _report(self, before: Text, after: Text, offset: int, length: int) -> dict[str, Any]:
        address = self.start + offset
        return {
            "address": address,
            "before": before.at(address, length).hex(),
            "after": after.at(address, length).hex(),
            "symbol": self.symbols.describe(address),
        }

    def _text(self) -> Text:
        return Text(self.start, self.kcore.read(self.start, self.end))


def kprobe_addresses(lines: Iterable[str]) -> set[int]:
    """Addresses in kprobes/list."""
    return {int(line.split()[0], 16) for line in lines if line.strip()}


def lines_of(path: str) -> list[str]:
    """A file's lines; none if it is not there."""
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def tell(**facts: object) -> None:
    """One line to the owner."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Answer commands until stdin ends."""
    try:
        comparer = Comparer()
    except Exception as error:
        tell(error=f"{type(error).__name__}: {error}")
        return 1
    tell(ready=True)
    while True:
        line = sys.stdin.buffer.readline()
        command = json.loads(line)["cmd"] if line else "quit"
        if command == "quit":
            return 0
        try:
            tell(**(comparer.save() if command == "save" else comparer.diff()))
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
