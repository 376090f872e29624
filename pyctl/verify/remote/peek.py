"""Bytes of kernel memory, through /proc/kcore: what really stands at an address.

The addresses are a JSON list in the last argument, the length of each reading the one before.
"""

from __future__ import annotations

import json
import sys

from pyctl.verify.remote.kerneltext import Kcore


def main() -> None:
    """One JSON list of hexadecimal texts, in the order of the addresses."""
    length, addresses = int(sys.argv[-2]), json.loads(sys.argv[-1])
    kcore = Kcore()
    found = [kcore.read(address, address + length).hex() for address in addresses]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
