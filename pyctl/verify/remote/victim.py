"""A victim: calls a function of djp_test from the last CPU until it is killed.

Arguments: the file to write to, and the function's name. Says its pid first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Has a space in it: tasks are called what they like.
NAME = b"djp user"


def main() -> None:
    """One write is one call."""
    path, function = sys.argv[-2], sys.argv[-1].encode()
    Path("/proc/self/comm").write_bytes(NAME)
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    file = os.open(path, os.O_WRONLY)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    while True:
        os.write(file, function)


if __name__ == "__main__":
    main()
