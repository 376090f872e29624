"""Detours of probes that split their hits by task, in the emulator, with the module's own code
between them and the C function that does it (``emulate_handlers.Entries``).

    action = ByTask(site, options, read_entries(transport))
    verdict = emulate(site, seed=1, states=20, action=action)

All but that function is run: it is taken to change all registers and flags that it may.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from iced_x86 import Code, Register

from pyctl.options import Options
from pyctl.verify.cpu import Ending, State
from pyctl.verify.emulate import DF_AC, Site, prologue
from pyctl.verify.emulate_handlers import (
    CLOBBERED,
    COUNTS,
    WAITED_FOR,
    WORD,
    Entries,
    ThroughEntries,
)
from pyctl.verify.emulate_options import Optioned


class ByTask(ThroughEntries, Optioned):
    """Each hit calls the function once, with the probe's map and not preempted."""

    #: Flags, a register and two return addresses; and what C code may change but that register.
    dead_stack = WORD * (4 + len(CLOBBERED) - 1)

    def __init__(self, site: Site, options: Options, entries: Entries) -> None:
        super().__init__(site, options)
        self._entries = entries
        self._preemption = WAITED_FOR
        #: The constant that is handed over: the last before the call.
        self._map = 0
        for insn in prologue(site):
            if insn.code == Code.MOV_R64_IMM64 and insn.op0_register == Register.RDI:
                self._map = insn.immediate(1)

    @property
    def code(self) -> Sequence[tuple[int, bytes]]:
        """The entries."""
        return [(self._entries.address, self._entries.code)]

    def draw(self, state: State, draw: random.Random) -> State:
        """In some of them somebody waits for preemption."""
        self._preemption = draw.choice((WAITED_FOR, *COUNTS))
        return super().draw(state, draw)

    def memory(self, state: State) -> Mapping[int, int]:
        """The preemption count, too."""
        slot = self._entries.preemption
        count = self._preemption.to_bytes(slot.size, "little")
        return {**super().memory(state), **dict(zip(slot.bytes(state), count, strict=True))}

    def own(self, state: State) -> set[int]:
        """The preemption count, too."""
        return super().own(state) | set(self._entries.preemption.bytes(state))

    def check_calls(self, state: State, *, hit: bool, calls: Sequence[Ending]) -> Iterator[str]:
        """One if it is a hit; and one more if preemption was waited for."""
        waited = hit and self._preemption == WAITED_FOR
        if len(calls) != hit + waited:
            yield f"{len(calls)} calls, not {hit + waited}"
            return
        if hit:
            yield from self._check_call(state, calls[0])
        if waited and calls[1].next != self._entries.resched:
            yield f"calls {calls[1].next:#x} when preemption was waited for"

    def _check_call(self, state: State, call: Ending) -> Iterator[str]:
        slot = self._entries.preemption
        if call.next != self._entries.map_hit:
            yield f"calls {call.next:#x}, not the function"
        if call.registers["rdi"] != self._map:
            yield f"rdi is {call.registers['rdi']:#x} in the call, not {self._map:#x}"
        if call.flags & DF_AC:
            yield "the call is made with DF or AC set"
        places = slot.bytes(state)
        found = int.from_bytes(bytes(call.memory.get(at, 0) for at in places), "little")
        if found != self._preemption + 1:
            yield f"the preemption count is {found:#x} in the call"
