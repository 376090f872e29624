"""Detours that leave all that there is to do to C code - for a field in memory, or several
probes with handlers -, in the emulator, with the module's own code between
(``emulate_handlers.Entries``).

    action = InC(site, read_entries(transport))
    verdict = emulate(site, seed=1, action=action)

That function is called once for each arrival, with the state of it; and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyctl.verify.cpu import Ending, State
from pyctl.verify.emulate import Site
from pyctl.verify.emulate_handlers import (
    PT_REGS,
    WORD,
    Entries,
    ThroughEntries,
    call_of,
    check_call,
)


class InC(ThroughEntries):
    """The action of a site with nothing in its detour but a call."""

    #: A struct pt_regs, and the return address.
    dead_stack = WORD * (len(PT_REGS) + 1)

    def __init__(self, site: Site, entries: Entries) -> None:
        self._site = site
        self._entries = entries
        self.arrivals = 0

    @property
    def code(self) -> Sequence[tuple[int, bytes]]:
        """The entries."""
        return [(self._entries.address, self._entries.code)]

    def own(self, state: State) -> set[int]:
        """What the callee writes is not here."""
        del state
        return set()

    def check(
        self, state: State, arrivals: int, probed: Ending, calls: Sequence[Ending]
    ) -> Iterator[str]:
        """Each arrival is handed over whole, and from where."""
        del probed
        self.arrivals += arrivals
        if len(calls) != arrivals:
            yield f"{arrivals} arrivals, but {len(calls)} calls"
        ours = call_of(self._site)
        for call in calls:
            assert ours is not None
            if call.next != self._entries.dispatch:
                yield f"calls {call.next:#x}, not the function"
            if call.registers["rsi"] != ours.next_ip:
                yield f"it is told that {call.registers['rsi']:#x} calls, not {ours.next_ip:#x}"
            yield from check_call(self._site, state, call, call.registers["rdi"])
