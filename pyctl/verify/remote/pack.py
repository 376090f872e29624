"""A file of the kernel, compressed as it is read: zlib, level 1, to stdout, in base64 lines.

For big files that the kernel makes while they are read, over a slow link: each line can
travel while the kernel makes the next. The argument is the path.
"""

from __future__ import annotations

import base64
import sys
import zlib

BLOCK = 1 << 18


def main() -> None:
    """Read to the end."""
    packer = zlib.compressobj(1)
    with open(sys.argv[-1], "rb", buffering=0) as file:  # noqa: PTH123
        for block in iter(lambda: file.read(BLOCK), b""):
            tell(packer.compress(block))
    tell(packer.flush())


def tell(packed: bytes) -> None:
    """One line, unless the packer keeps everything to itself for now."""
    if packed:
        sys.stdout.write(base64.b64encode(packed).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
