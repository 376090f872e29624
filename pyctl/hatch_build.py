"""Build hook: a wheel holds the folders `pyctl` and `vm`; an editable install holds none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TwoFolders(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """Take this folder and its neighbour `vm` into a wheel under their own names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build; `version` is "editable" for an editable install."""
        if version != "editable":
            here = Path(self.root)
            build_data["force_include"] = {str(here): "pyctl", str(here.parent / "vm"): "vm"}
