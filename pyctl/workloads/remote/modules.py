"""Modules: one operation is modprobe and rmmod of a harmless module."""

from __future__ import annotations

import os
import subprocess

from pyctl.workloads.remote.common import Failed, Turn, Work, main

PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Modules(Work):
    """Parameters: module."""

    ours = False

    def set_up(self) -> dict[str, object]:
        """The module must not be in use, and must be there."""
        name = self.parameters["module"]
        if os.path.exists(f"/sys/module/{name}"):  # noqa: PTH110
            raise Failed(f"the module {name} is loaded already; name one that is not in use")
        self._tool("modprobe", "-n", name)
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """In and out."""
        name, done = self.parameters["module"], 0
        while turn.more(done):
            self.ours = True
            self._tool("modprobe", name)
            self._tool("rmmod", name)
            self.ours = False
            done += 1
        return {"load": done, "unload": done}

    def clean_up(self) -> None:
        """Take it out if we were stopped in between."""
        if self.ours:
            subprocess.run(
                ["rmmod", self.parameters["module"]], stderr=subprocess.DEVNULL, check=False
            )

    def _tool(self, *argv: str) -> None:
        done = subprocess.run(list(argv), env=PATH, capture_output=True, check=False, text=True)
        if done.returncode:
            raise Failed(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")


if __name__ == "__main__":
    main(Modules)
