"""Build the kernel modules with every warning of W=1 and of sparse an error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from vm.builder import build_modules
from vm.errors import VmError

log = logging.getLogger(__name__)

KMOD = Path(__file__).resolve().parent.parent / "kmod"


def check_modules(kmod_dir: Path = KMOD, kernel: str = "bookworm-cloud") -> list[str]:
    """Check the modules in `kmod_dir` with a kernel's own compiler; returns their names.

    Raises BuildError with the compiler's and sparse's words.
    """
    return sorted(build_modules(kmod_dir, kernel, targets=("check",), progress=log.info))


def main() -> int:
    """`make check`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        names = check_modules()
    except VmError as exc:
        log.error("%s", exc)
        return 1
    log.info("clean under W=1 and sparse: %s", ", ".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
