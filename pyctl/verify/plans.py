"""Plans A and B of the discussion that djprobes come from, as experiments on functions of a
test module's own (``kmod/test/plans.c``). For guests only.

Nothing selects them for kernel text: the module calls code that is written out in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.parsing import parse_number, parse_pairs

PLANS = "/sys/kernel/debug/djp_test/plans"


class Plan(StrEnum):
    """How the functions are reached."""

    #: As they are, with the probes that are in them.
    CALL = "call"
    #: Plan A: a per-CPU target, gone to by ``push target; ret``.
    PUSH_RET = "push_ret"
    #: Plan A, by ``iret``.
    IRET = "iret"
    #: Plan B: ``pushf; cli; jmp ...; popf`` around the displaced instructions.
    PUSHF = "pushf"


class Trouble(StrEnum):
    """What happens while the CPU is in a function's displaced instructions, for all plans
    but ``PUSHF``."""

    PLAIN = "plain"
    #: The other function is called on the same CPU, in a context like an NMI's.
    NESTING = "nesting"
    #: Another task runs there, and calls the other function.
    PREEMPTION = "preemption"
    #: The task goes on on another CPU.
    MIGRATION = "migration"


class State(StrEnum):
    """What the displaced instructions need, for ``PUSHF`` and ``CALL``."""

    #: They set flags for what is behind them.
    FLAGS = "flags"
    #: They look whether interrupts are on.
    IF = "if"
    #: They switch interrupts off.
    CLI = "cli"
    #: They read the stack.
    STACK = "stack"


@dataclass(frozen=True)
class Outcome:
    """Of ``calls``, ``met`` were disturbed in their displaced instructions. ``right``
    results, ``strayed`` ones - what the plan's fault makes of them - and ``other``."""

    calls: int
    met: int
    right: int
    strayed: int
    other: int


class Plans:
    """The experiments, on a guest."""

    def __init__(self, guest: Guest) -> None:
        self._transport = guest.transport
        if not self._transport.exists(PLANS):
            guest.load_extra("djp_test", source=SOURCE)

    def run(
        self, plan: Plan, experiment: Trouble | State, times: int, *, displaced: int = 0
    ) -> Outcome:
        """Call ``times`` times. ``displaced`` is for ``CALL`` with a trouble: the address of
        a displaced instruction in the first function's detour."""
        self._transport.write(PLANS, f"{plan} {experiment} {times} {displaced:#x}".encode())
        pairs = parse_pairs(self._transport.read(PLANS).decode(), "plans", separator=" ")
        return Outcome(
            **{key: parse_number(value, f"plans: {key}") for key, value in pairs.items()}
        )
