"""Functions of the core kernel on which djprobes can put a jump.

First those that the caller names, then all, spread over the whole kernel text: the list of
functions is walked with a stride, so that neighbours in it (one source file) come late. Each
is asked for with ``explain``; here and not over the network, because it is thousands of
questions.

Arguments: the folder of djprobes in debugfs, how many are wanted, and a JSON list of names
to ask for first.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time

FUNCTIONS = "/sys/kernel/tracing/available_filter_functions"
STRIDE = 17


def candidates(lines: list[str], first: list[str]) -> list[str]:
    """Functions outside modules, without a dot (clones and parts), with a name of their own;
    those of ``first`` come first."""
    count: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if words:
            count[words[0]] = count.get(words[0], 0) + 1
    plain = [line.strip() for line in lines if len(line.split()) == 1]
    names = [name for name in plain if "." not in name and count[name] == 1]
    spread = [name for start in range(STRIDE) for name in names[start::STRIDE]]
    preferred = set(first) & set(names)
    return [name for name in first if name in preferred] + [
        name for name in spread if name not in preferred
    ]


def takes_jump(file: int, name: str) -> bool:
    """Whether ``explain`` says jump; names that it can't resolve are passed over."""
    os.lseek(file, 0, os.SEEK_SET)  # a seq_file: it knows no pread, and answers from its start
    try:
        os.write(file, f"{name}\n".encode())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EADDRNOTAVAIL):
            raise
        return False
    os.lseek(file, 0, os.SEEK_SET)
    return b"\nverdict: jump\n" in os.read(file, 4096)


def main() -> None:
    """One JSON object: the functions, how many were asked for, how long it took."""
    root, wanted, first = sys.argv[-3], int(sys.argv[-2]), json.loads(sys.argv[-1])
    start = time.monotonic()
    with open(FUNCTIONS) as lines:  # noqa: PTH123
        names = candidates(lines.read().splitlines(), first)
    found: list[str] = []
    asked = 0
    file = os.open(f"{root}/explain", os.O_RDWR)
    for name in names:
        if len(found) == wanted:
            break
        asked += 1
        if takes_jump(file, name):
            found.append(name)
    os.close(file)
    answer = {"functions": found, "asked": asked, "seconds": time.monotonic() - start}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
