"""Processes: one operation is fork, exec (if ``exec``), exit and wait."""

from __future__ import annotations

import os

from pyctl.workloads.remote.common import Failed, Turn, Work, main


class Fork(Work):
    """Parameters: exec (bool), program (absolute path, must end with status 0)."""

    def set_up(self) -> dict[str, object]:
        """Look whether the program is there."""
        if self.parameters["exec"] and not os.access(self.parameters["program"], os.X_OK):
            raise Failed(f"there is no program {self.parameters['program']!r}")
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """One child after the other."""
        program, replace = self.parameters["program"], self.parameters["exec"]
        done = 0
        while turn.more(done):
            pid = os.fork()
            if pid == 0:
                if replace:
                    try:
                        os.execv(program, [program])
                    except OSError:
                        os._exit(126)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            if status:
                raise Failed(f"{program} ended with wait status {status:#x}")
            done += 1
        return {"fork": done, "exec": done if replace else 0, "exit": done, "wait": done}


if __name__ == "__main__":
    main(Fork)
