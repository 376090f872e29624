"""Scheduler paths. ``kind`` is ``yield`` (one operation is a sched_yield, several processes
at once) or ``affinity`` (one operation is a sched_setaffinity to the next CPU)."""

from __future__ import annotations

import os

from pyctl.workloads.remote.common import Turn, Work, fan_out, main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Sched(Work):
    """Parameters: kind, processes (0: two for each CPU)."""

    def run(self, turn: Turn) -> dict[str, int]:
        """In all processes at once."""
        cpus = sorted(os.sched_getaffinity(0))
        processes = self.parameters["processes"] or 2 * len(cpus)

        def keep_yielding(_number: int, more: Callable[[int], bool]) -> int:
            done = 0
            while more(done):
                os.sched_yield()
                done += 1
            return done

        def keep_moving(number: int, more: Callable[[int], bool]) -> int:
            done = 0
            while more(done):
                os.sched_setaffinity(0, {cpus[(number + done) % len(cpus)]})
                done += 1
            return done

        if self.parameters["kind"] == "yield":
            return {"sched_yield": fan_out(turn, processes, keep_yielding)}
        return {"sched_setaffinity": fan_out(turn, processes, keep_moving)}


if __name__ == "__main__":
    main(Sched)
