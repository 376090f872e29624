"""Name kernel addresses, by /proc/kallsyms.

The last argument is a JSON list of addresses; the answer is one of the same length, of
``[name, offset, module]`` (the module is null for the kernel's own) or null for an address
that no symbol is near. Here and not over the network: kallsyms is megabytes.
"""

from __future__ import annotations

import bisect
import json
import sys

#: kallsyms has no sizes. Behind the last symbol of a section everything is far from one.
FARTHEST = 1 << 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Named = tuple[str, int, str | None]


def nearest(lines: Iterable[str], addresses: list[int]) -> list[Named | None]:
    """The symbol at or below each address; the first one listed where several are.

    Addresses in kallsyms are 16 digits, so they compare as text: a quarter of a million
    lines are not made into numbers.
    """
    ordered = sorted({f"{address:016x}" for address in addresses})
    # best[k] is the highest symbol in (ordered[k - 1], ordered[k]]
    best = [""] * len(ordered)
    last = ordered[-1] if ordered else ""
    for line in lines:
        start = line[:16]
        if start <= last:
            slot = bisect.bisect_left(ordered, start)
            if start > best[slot][:16]:
                best[slot] = line
    named: dict[int, Named | None] = {}
    line = ""
    for text, candidate in zip(ordered, best):  # noqa: B905 (Python 3.9)
        line = candidate or line
        named[int(text, 16)] = _named(line, int(text, 16)) if line else None
    return [named[address] for address in addresses]


def _named(line: str, address: int) -> Named | None:
    words = line.split()
    offset = address - int(words[0], 16)
    module = words[3].strip("[]") if len(words) > 3 else None
    return (words[2], offset, module) if offset < FARTHEST else None


def main() -> None:
    """One JSON list."""
    with open("/proc/kallsyms") as lines:  # noqa: PTH123
        found = nearest(lines, json.loads(sys.argv[-1]))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
