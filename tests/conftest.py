"""What runs in one process when several run tests."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

#: They share what takes minutes to make: judgements of all instructions, and which flags are
#: live there.
TOGETHER = frozenset(
    f"test_{name}.py"
    for name in (
        "emulate", "emulate_handlers", "emulate_options", "liveness", "peers", "reach", "sample",
    )
)  # fmt: skip


class Scheduling(LoadFileScheduling):
    """A file stays together, for it has a guest of its own; and some files do."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return "together" if scope.rpartition("/")[2] in TOGETHER else scope


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Asked by pytest-xdist where several processes run. Its own groups (xdist_group, 3.8) are
    lost on pytest 9, whose test ids can't be written to."""
    return Scheduling(config, log)
