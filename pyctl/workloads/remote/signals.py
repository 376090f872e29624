"""Signals: one operation is a signal to another process and one back, each waited for, so
that none can be merged with another or lost."""

from __future__ import annotations

import os
import signal

from pyctl.workloads.remote.common import Failed, Turn, Work, _kill, die_with_parent, main

PING, PONG = signal.SIGRTMIN + 2, signal.SIGRTMIN + 3


class Signals(Work):
    """No parameters."""

    peer = 0

    def set_up(self) -> dict[str, object]:
        """Start the process that answers."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [PING, PONG])
        parent = os.getpid()
        self.peer = os.fork()
        if self.peer == 0:
            try:
                die_with_parent(parent)
                while True:
                    signal.sigwaitinfo([PING])
                    os.kill(parent, PONG)
            finally:
                os._exit(1)
        return {"peer": self.peer}

    def run(self, turn: Turn) -> dict[str, int]:
        """Back and forth."""
        done = 0
        while turn.more(done):
            os.kill(self.peer, PING)
            if signal.sigtimedwait([PONG], 30.0) is None:
                raise Failed("no answer to a signal within 30 s")
            done += 1
        return {"round_trip": done, "kill": 2 * done, "signal": 2 * done}

    def clean_up(self) -> None:
        """End the other process."""
        if self.peer:
            _kill(self.peer)


if __name__ == "__main__":
    main(Signals)
