"""Settings from the environment, read once and passed on as a value."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vm.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Where things are kept, and how patient to be.

    `scale` multiplies every deadline.  `qemu` and `mirror` override what would
    be found on the host (None: look for it).
    """

    cache: Path
    scale: float = 1.0
    qemu: str | None = None
    mirror: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read DJP_CACHE, DJP_TIMEOUT_SCALE, DJP_QEMU and DJP_MIRROR.

        Raises ConfigError for a scale that is not a positive number.
        """
        env = os.environ if environ is None else environ
        text = env.get("DJP_TIMEOUT_SCALE", "1.0")
        try:
            scale = float(text)
        except ValueError:
            scale = math.nan
        if not (math.isfinite(scale) and scale > 0):
            raise ConfigError(
                "reading DJP_TIMEOUT_SCALE",
                "not a positive number",
                value=repr(text),
                hint="use a factor such as 2 on a machine half as fast, or unset it",
            )
        cache = env.get("DJP_CACHE")
        return cls(
            cache=Path(cache).expanduser().absolute()
            if cache
            else platformdirs.user_cache_path("djprobes", appauthor=False),
            scale=scale,
            qemu=env.get("DJP_QEMU") or None,
            mirror=env.get("DJP_MIRROR") or None,
        )
