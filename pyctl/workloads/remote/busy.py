"""CPU hogs: one process on every CPU that computes and makes no system call. One operation
is 10,000 rounds of an empty loop."""

from __future__ import annotations

import os

from pyctl.workloads.remote.common import Turn, Work, fan_out, main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Busy(Work):
    """Parameters: per_cpu (processes for each CPU), nice."""

    def run(self, turn: Turn) -> dict[str, int]:
        """Burn time on all CPUs."""
        cpus = sorted(os.sched_getaffinity(0)) * self.parameters["per_cpu"]

        def burn(number: int, more: Callable[[int], bool]) -> int:
            os.sched_setaffinity(0, {cpus[number]})
            os.nice(self.parameters["nice"])
            done = 0
            while more(done):
                for _ in range(10_000):
                    pass
                done += 1
            return done

        return {"loop": fan_out(turn, len(cpus), burn), "process": len(cpus)}


if __name__ == "__main__":
    main(Busy)
