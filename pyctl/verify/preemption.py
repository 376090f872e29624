"""How far a host's kernel is preemptible, read and switched while it runs.

A kernel with PREEMPT_DYNAMIC has the three models in one, and a file in debugfs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from pyctl.errors import ProtocolError, UnsupportedError, UsageError
from pyctl.transport import Transport

FILE = "/sys/kernel/debug/sched/preempt"


class Preemption(StrEnum):
    """A preemption model, as on the kernel's command line (``preempt=``)."""

    NONE = "none"
    VOLUNTARY = "voluntary"
    FULL = "full"


def parse_preemption(text: str) -> Preemption:
    """The model in use, from the file's text: it is the one in parentheses."""
    chosen = [word[1:-1] for word in text.split() if word.startswith("(") and word.endswith(")")]
    if len(chosen) != 1 or chosen[0] not in list(Preemption):
        raise ProtocolError(f"{FILE}: which preemption model is this: {text!r}")
    return Preemption(chosen[0])


def read_preemption(transport: Transport) -> Preemption:
    """The model in use; UnsupportedError where it can't be switched."""
    if not transport.exists(FILE):
        raise UnsupportedError(
            f"{transport.host}: the preemption model of this kernel is fixed",
            hint="it needs CONFIG_PREEMPT_DYNAMIC, and debugfs at /sys/kernel/debug",
        )
    return parse_preemption(transport.read(FILE).decode())


def switch_preemption(transport: Transport, model: Preemption) -> None:
    """Use another model from now on."""
    if read_preemption(transport) is model:
        return
    transport.write(FILE, f"{model}\n".encode())
    now = read_preemption(transport)
    if now is not model:
        raise UsageError(f"{transport.host}: preemption was to be {model}, and is {now}")


@contextmanager
def preemption(transport: Transport, model: Preemption) -> Iterator[None]:
    """Use another model while the context is open."""
    before = read_preemption(transport)
    switch_preemption(transport, model)
    try:
        yield
    finally:
        switch_preemption(transport, before)
