"""Processes that end, one after the other, on the last CPU, and that nobody waits for: they
leave the list of processes while they still run. Says its pid first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Until it is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    while True:
        if os.fork() == 0:
            os._exit(0)
        # Until there is none any more: it does not get their status.
        with contextlib.suppress(ChildProcessError):
            os.wait()


if __name__ == "__main__":
    main()
