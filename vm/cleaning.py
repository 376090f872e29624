"""Empty the cache: end the kept guests, then remove all that can be made again."""

from __future__ import annotations

import logging
import sys

from vm.cache import remove_tree
from vm.errors import VmError
from vm.keeper import down
from vm.settings import Settings
from vm.state import guests

log = logging.getLogger(__name__)


def clean_cache(settings: Settings) -> int:
    """Remove the cache folder; returns the number of guests that were ended.

    Raises InfrastructureError when a guest belongs to a program that runs.
    """
    found = guests(settings.cache)
    for state in found:
        down(state.instance, settings)
    remove_tree(settings.cache)
    return len(found)


def main() -> int:
    """`make clean-cache`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings.from_env()
    try:
        count = clean_cache(settings)
    except VmError as exc:
        log.error("%s", exc)
        return 1
    log.info("removed %s (%d guests ended)", settings.cache, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
