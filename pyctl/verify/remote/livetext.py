"""Ranges of kernel memory, through /proc/kcore, and the symbols that lie in them.

The first line of stdin is a JSON object: ``ranges``, a list of start and length, and
``symbols``, whether to list them. The answer is compressed with zlib: a JSON list of address
and name for each symbol, ascending, on one line; then the bytes of all ranges, in the order
in which they were asked for.
"""

from __future__ import annotations

import bisect
import json
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
    kcore = Kcore()
    for start, length in asked["ranges"]:
        sink.write(packer.compress(kcore.read(start, start + length)))
    sink.write(packer.flush())
    sink.flush()


if __name__ == "__main__":
    main()
