"""A file of the kernel, compressed as it is read: zlib, level 1, to stdout.

For big files that the kernel makes while they are read, over a slow link. The argument is
the path.
"""

from __future__ import annotations

import sys
import zlib

BLOCK = 1 << 18


def main() -> None:
    """Read to the end."""
    packer = zlib.compressobj(1)
    sink = sys.stdout.buffer
    with open(sys.argv[-1], "rb", buffering=0) as file:  # noqa: PTH123
        for block in iter(lambda: file.read(BLOCK), b""):
            sink.write(packer.compress(block))
    sink.write(packer.flush())
    sink.flush()


if __name__ == "__main__":
    main()
