"""Hits inside hits: a probe that is hit while the CPU stands in another one's handler, or in
the instructions that it displaced (``kmod/test/nest.c``). For guests only.

The functions' callers count, and so do the probes; kprobes can be put at the same two places
instead of djprobes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pyctl.guest import Guest
from pyctl.module import SOURCE
from pyctl.parsing import parse_number, parse_pairs

NEST = "/sys/kernel/debug/djp_test/nest"
#: Where the outer and the inner probe are, without the module's name.
OUTER = "djp_test_dwell_probe"
INNER = "djp_test_plain"
#: Seconds, before scaling; longer than nest.c tries.
PINNED_SECONDS = 60.0


class Form(StrEnum):
    """What stands in the text at both places."""

    BYPASS = "bypass"
    JUMP = "jump"
    INT3 = "int3"
    #: The kernel's own, as an int3 or as a jump: see ``testmodules.kprobe_optimisation()``.
    KPROBE = "kprobe"
    #: Whatever the caller has put there; the hits in the result are then 0.
    GIVEN = "given"


class Action(StrEnum):
    """What the djprobes do."""

    COUNT = "count"
    HANDLER = "handler"


class Event(StrEnum):
    """What interrupts the outer probe's hit and hits the inner probe."""

    #: A call by the outer probe's handler.
    CALL = "call"
    TIMER = "timer"
    SOFTIRQ = "softirq"
    #: An IPI from another CPU.
    NMI = "nmi"
    #: A hardware breakpoint.
    DEBUG = "debug"
    FAULT = "fault"


class Place(StrEnum):
    """What is interrupted."""

    #: The outer probe's handler.
    HANDLER = "handler"
    #: The first of the instructions that it displaced, or the one that is single-stepped.
    COPIED = "copied"
    #: The kernel's int3 handler, on the way to either.
    TRAP = "trap"
    #: Whatever it is at between one hit and the next.
    ANYWHERE = "anywhere"
    #: A given instruction of its detour, for ``JUMP`` and ``DEBUG``.
    DETOUR = "detour"


@dataclass(frozen=True)
class Nested:
    """One run: ``landed`` events met the place, ``elsewhere`` others did not and did nothing.

    ``*_calls`` are the functions' calls as their callers counted them, ``*_hits`` what the
    probes counted, ``*_missed`` what they say they have not. ``wrong`` results, or calls of
    a djprobe's handler that its count does not know. ``first`` is the byte that stood at the
    outer probe's address, ``copied`` the address of the instruction in the detour that
    was interrupted, 0 if none was.
    """

    landed: int
    elsewhere: int
    inner_calls: int
    inner_hits: int
    inner_missed: int
    outer_calls: int
    outer_hits: int
    outer_missed: int
    wrong: int
    first: int
    copied: int

    @property
    def lost(self) -> int:
        """Calls of the inner function that its probe has not counted."""
        return self.inner_calls - self.inner_hits


class Nest:
    """The experiment, on a guest."""

    def __init__(self, guest: Guest) -> None:
        self._transport = guest.transport
        if not self._transport.exists(NEST):
            guest.load_extra("djp_test", source=SOURCE)

    def run(
        self,
        form: Form,
        event: Event,
        place: Place,
        times: int,
        *,
        action: Action = Action.HANDLER,
        offset: int = 0,
        cpu: int | None = None,
    ) -> Nested:
        """Put both probes in, let ``times`` events happen at the place, take them out.

        Fewer are had where the event can't get there: an interrupt, in a handler that runs
        with interrupts off. The outer djprobe has a handler if that is the place, whatever
        ``action`` says. ``offset`` is for ``DETOUR``, bytes from its start; the outer probe
        has to be a jump then. With ``cpu`` all of it happens there, else on one CPU or the
        other. RemoteOSError when there is no such experiment.
        """
        line = f"{form} {action} {event} {place} {times} {offset}"
        if cpu is None:
            self._transport.write(NEST, line.encode())
        else:
            pinned = ["taskset", "--cpu-list", str(cpu), "sh", "-c", 'printf %s "$1" > "$2"']
            self._transport.run([*pinned, "sh", line, NEST], timeout=PINNED_SECONDS)
        pairs = parse_pairs(self._transport.read(NEST).decode(), "nest", separator=" ")
        return Nested(**{key: parse_number(value, f"nest: {key}") for key, value in pairs.items()})
