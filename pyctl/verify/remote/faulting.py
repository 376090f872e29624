"""A process that has a page fault in the kernel with each read, on the last CPU. Says its pid
first, and ends when it has read something wrong.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

#: As in kmod/test/hold.h.
NAME = b"djp_faulting"


def main() -> None:
    """Until it is killed."""
    text = Path("/proc/version").read_bytes()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    file = os.open("/proc/version", os.O_RDONLY)
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    Path("/proc/self/comm").write_bytes(NAME)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    while True:
        memory.madvise(mmap.MADV_DONTNEED)
        if os.preadv(file, [memory], 0) != len(text) or memory[: len(text)] != text:
            sys.exit("it has read something else")


if __name__ == "__main__":
    main()
