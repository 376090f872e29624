"""Detours of probes with a handler, in the emulator, with the module's own code that calls it.

    entries = read_entries(transport)
    action = Handled(site, entries, handed)
    verdict = emulate(site, seed=1, action=action)

That code, ``kmod/x86/entry.S``, is read from the host's memory and run as it stands there.
What it counts in is found in it: memory that it refers to through %gs. It finds the handler
through the structs of the module, which are read from there too. C code is not run: a run goes
on where it would return, with all registers that a function may change changed.

Half of the arrivals find a handler running on their CPU, or that somebody waits for
preemption to be enabled again. With ``changes`` the handler gives registers, and flags that
somebody reads, other values, which the displaced instructions have to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from iced_x86 import Decoder, Instruction, MemorySize, Mnemonic, OpKind, Register
from iced_x86 import MemorySizeExt as Sizes

from pyctl.errors import OracleError
from pyctl.transport import Transport
from pyctl.verify.cpu import GENERAL, MASK, Ending, State
from pyctl.verify.emulate import DF_AC, STATUS, Action, Site, prologue
from pyctl.verify.emulate_options import SMALL, Slot, find_slots
from pyctl.verify.livetext import read_memory

KERNEL_CS, KERNEL_DS = 0x10, 0x18
WORD = 8
#: A struct pt_regs from its start on: the registers, then what an exception pushes.
PT_REGS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8",
    "rax", "rcx", "rdx", "rsi", "rdi", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
#: That, the preemption count before it, and the return address of a call.
DEAD_STACK = WORD * (len(PT_REGS) + 2)
CLOBBERED = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
#: Preemption counts, as the kernel has them: the highest bit says that nobody waits.
NOBODY_WAITS = 1 << 31
COUNTS = tuple(NOBODY_WAITS | count for count in (0, 1, 2, 0x101, 0x10001))
#: Preemption is enabled, and somebody waits.
WAITED_FOR = 0
#: What is read of the module's structs: as much as the entries look at, and more.
DETOUR_BYTES, PROBE_BYTES = 128, 64
FIRST, LAST = "djp_handler_entry", "djp_entries_end"
NESTED, RESCHED, MAP_HIT = "djp_dispatch_nested", "djp_resched", "djp_map_hit"
DISPATCH = "djp_dispatch"
#: The registers that a handler may change.
CHANGEABLE = tuple(name for name in GENERAL if name != "rsp")


@dataclass(frozen=True)
class Entries:
    """The module's code between detours and C. ``names`` are those of its entries, by their
    addresses; ``nested`` and ``resched`` the C functions that are called now and then,
    ``map_hit`` that for hits by task, ``dispatch`` that for all that is not one handler."""

    address: int
    code: bytes
    names: Mapping[int, str]
    nested: int
    resched: int
    map_hit: int = 0
    dispatch: int = 0

    @cached_property
    def instructions(self) -> list[Instruction]:
        """All of them."""
        return list(Decoder(64, self.code, ip=self.address))

    @cached_property
    def preemption(self) -> Slot:
        """The count that keeps preemption off, of 4 bytes: what is incremented."""
        return self._slot({Mnemonic.INC, Mnemonic.DEC}, MemorySize.UINT32, MemorySize.INT32)

    @cached_property
    def running(self) -> Slot:
        """What says that a handler is running: what is compared."""
        return self._slot({Mnemonic.CMP}, MemorySize.UINT64, MemorySize.INT64)

    def __contains__(self, address: int) -> bool:
        return 0 <= address - self.address < len(self.code)

    def entry(self, name: str) -> int:
        """Its address."""
        return next(address for address, each in self.names.items() if each == name)

    def called(self) -> frozenset[int]:
        """The functions that are called, through a thunk or as they are."""
        return frozenset(
            insn.near_branch_target
            for insn in self.instructions
            if insn.is_call_near and insn.op0_kind == OpKind.NEAR_BRANCH64
        )

    def _slot(self, mnemonics: set[int], *sizes: int) -> Slot:
        found = {
            Slot(insn.memory_displacement & MASK, Sizes.size(insn.memory_size))
            for insn in self.instructions
            if insn.memory_segment == Register.GS
            and insn.mnemonic in mnemonics
            and insn.memory_size in sizes
        }
        if len(found) != 1:
            raise OracleError(f"{len(found)} slots instead of one in the code at {FIRST}: {found}")
        return found.pop()


@dataclass(frozen=True)
class Handed:
    """What a detour has to call: ``handler`` with a struct djprobe at ``probe``. ``header``
    are the bytes before the detour, ``memory`` what else there is, by its address."""

    probe: int
    handler: int
    header: bytes
    memory: Mapping[int, bytes] = field(default_factory=dict)


def read_entries(transport: Transport) -> Entries:
    """Those of the module that is loaded on this host."""
    lines = transport.run(["grep", "-F", "[djprobes]", "/proc/kallsyms"]).text.splitlines()
    found = {name: int(at, 16) for at, kind, name, *_ in map(str.split, lines) if kind in "tT"}
    start, end = found[FIRST], found[LAST]
    (code,) = read_memory(transport, [(start, end - start)])
    names = {at: name for name, at in found.items() if start <= at < end}
    functions = (found[name] for name in (NESTED, RESCHED, MAP_HIT, DISPATCH))
    return Entries(start, code, names, *functions)


def read_handed(
    transport: Transport, sites: Iterable[Site], probes: Mapping[int, int], handler: str
) -> list[Handed]:
    """The same for sites, whose probes are those in ``probes``, by address; each has the
    ``handler`` of this name."""
    line = transport.run(["grep", "-w", "--", re.escape(handler), "/proc/kallsyms"]).text
    address = int(line.split()[0], 16)
    asked = list(sites)
    headers = read_memory(transport, [(site.detour - WORD, WORD) for site in asked])
    detours = [int.from_bytes(header, "little") for header in headers]
    ours = [probes[site.address] for site in asked]
    parts = read_memory(
        transport,
        [*((at, DETOUR_BYTES) for at in detours), *((at, PROBE_BYTES) for at in ours)],
    )
    return [
        Handed(probe, address, header, {detour: parts[n], probe: parts[n + len(asked)]})
        for n, (probe, header, detour) in enumerate(zip(ours, headers, detours, strict=True))
    ]


class ThroughEntries(Action):
    """Of an action whose detour calls one of the entries: they call C code."""

    _entries: Entries

    def calls(self, ending: Ending) -> bool:
        """Whether it is the entries that call. That they are where the stack says to return to
        is not enough: a displaced ``sub`` may move it down to what they have left there."""
        back = read_word(ending.memory, ending.registers["rsp"])
        return ending.last in self._entries and back is not None and back in self._entries

    def clobbered(self, state: State) -> Mapping[str, int]:
        """All that a function may."""
        draw = random.Random(state.seed)
        return {name: draw.getrandbits(64) for name in CLOBBERED}


class Handled(ThroughEntries):
    """The action of a probe with a handler: called once, with the state of the arrival, and
    not preempted; counted once."""

    dead_stack = DEAD_STACK

    def __init__(
        self, site: Site, entries: Entries, handed: Handed, *, changes: bool = False
    ) -> None:
        self._site = site
        self._entries = entries
        self._handed = handed
        self._changes = changes
        #: What the handler makes of the registers, and which flags it flips.
        self._changed: Mapping[str, int] = {}
        self._flipped = 0
        self._given = {
            (start + n) & MASK: byte
            for start, data in handed.memory.items()
            for n, byte in enumerate(data)
        }
        self._counter = find_slots(site).count
        self._call = call_of(site)
        self._written = _gs_slots(site)
        self._preemption = WAITED_FOR
        self._running = 0
        #: Arrivals, those while another handler was running, those that are preempted then.
        self.arrivals = self.nested = self.waited = 0

    @property
    def code(self) -> Sequence[tuple[int, bytes]]:
        """The entries, and what stands before the detour."""
        header = self._handed.header
        return [
            (self._entries.address, self._entries.code),
            (self._site.detour - len(header), header),
        ]

    def draw(self, state: State, draw: random.Random) -> State:
        """Any state; what the entries find in their slots is drawn too."""
        self._preemption = WAITED_FOR if not draw.randrange(4) else draw.choice(COUNTS)
        self._running = 0 if draw.randrange(3) else draw.getrandbits(64) | 1
        if self._changes:
            repeats = state.registers["rcx"] < SMALL
            names = [name for name in CHANGEABLE if name != "rcx" or not repeats]
            chosen = draw.sample(names, draw.randrange(1, len(names) + 1))
            self._changed = {name: draw.getrandbits(64) for name in chosen}
            self._flipped = draw.getrandbits(64) & STATUS & ~self._site.dead
        return state

    def handed_on(self, state: State) -> State:
        """With what the handler has changed."""
        registers = {**state.registers, **self._changed}
        return replace(state, registers=registers, flags=state.flags ^ self._flipped)

    def writes(self, state: State, call: Ending) -> Mapping[int, int]:
        """What it changes in its struct pt_regs."""
        if call.next == self._entries.resched:
            return {}
        words = {**self._changed, "flags": state.flags ^ self._flipped} if self._changes else {}
        return {
            (call.registers["rsi"] + WORD * PT_REGS.index(name) + n) & MASK: byte
            for name, value in words.items()
            for n, byte in enumerate(value.to_bytes(WORD, "little"))
        }

    def memory(self, state: State) -> Mapping[int, int]:
        """The slots, and the module's structs."""
        slots = self._slots()
        return self._given | {
            at: byte
            for slot, value in slots.items()
            for at, byte in zip(slot.bytes(state), value.to_bytes(slot.size, "little"), strict=True)
        }

    def own(self, state: State) -> set[int]:
        """The counter, and the slots."""
        slots = [*self._slots(), *([self._counter] if self._counter else [])]
        return {at & MASK for slot in slots for at in slot.bytes(state)}

    def check(
        self, state: State, arrivals: int, probed: Ending, calls: Sequence[Ending]
    ) -> Iterator[str]:
        """One call for each arrival, and all is as it was before."""
        if self._counter is None or self._call is None:
            yield "the detour has no counter, or calls nothing"
            return
        self.arrivals += arrivals
        nested = arrivals and self._running
        waited = arrivals and self._preemption == WAITED_FOR
        self.nested += bool(nested)
        self.waited += bool(waited)
        if len(calls) != arrivals + bool(waited):
            yield f"{len(calls)} calls"
            return
        if arrivals:
            yield from check_call(self._site, state, calls[0], calls[0].registers["rsi"])
            yield from self._check_nested(calls[0]) if nested else self._check_handler(calls[0])
            yield from self._check_slots(state, calls[0])
        if waited and calls[-1].next != self._entries.resched:
            yield f"calls {calls[-1].next:#x} when preemption was waited for"
        before = int.from_bytes(state.memory(self._counter.at(state), WORD), "little")
        risen = (self._value(self._counter, state, probed, before) - before) & MASK
        if risen != arrivals:
            yield f"the counter goes up by {risen}, not by {arrivals}"
        for slot, value in self._slots().items():
            after = self._value(slot, state, probed, value)
            # Else what the displaced instructions write is compared with the original's.
            if slot.address not in self._written and after != value:
                yield f"{slot.address:#x} is {after:#x} in the end, not {value:#x}"

    def _slots(self) -> dict[Slot, int]:
        return {self._entries.preemption: self._preemption, self._entries.running: self._running}

    def _check_handler(self, call: Ending) -> Iterator[str]:
        handed = self._handed
        called = call.next
        if called in self._entries.called():  # a thunk
            called = call.registers["rax"]
        if called != handed.handler:
            yield f"calls {called:#x}, not the handler"
        if call.registers["rdi"] != handed.probe:
            yield f"the handler's probe is {call.registers['rdi']:#x}, not {handed.probe:#x}"

    def _check_nested(self, call: Ending) -> Iterator[str]:
        if call.next != self._entries.nested:
            yield f"calls {call.next:#x} while another handler runs"
        begun = call.registers["rsi"] - WORD
        if call.registers["rdi"] != begun:
            yield f"rdi is {call.registers['rdi']:#x} in the call, not {begun:#x}"

    def _check_slots(self, state: State, call: Ending) -> Iterator[str]:
        """Preemption is off, and what begins here is known."""
        count, running = self._entries.preemption, self._entries.running
        found = self._value(count, state, call, self._preemption)
        if found != self._preemption + 1:
            yield f"the preemption count is {found:#x} in the call"
        begun = (call.registers["rsi"] - WORD) & MASK
        now = self._value(running, state, call, self._running)
        if now != (self._running or begun):
            yield f"{now:#x} is said to be running"
        noted = read_word(call.memory, begun)
        if noted is None or noted & ((1 << 8 * count.size) - 1) != self._preemption:
            yield "the preemption count is not noted"

    @staticmethod
    def _value(slot: Slot, state: State, ending: Ending, before: int) -> int:
        """What a slot has at an ending."""
        old = before.to_bytes(slot.size, "little")
        places = [at & MASK for at in slot.bytes(state)]
        found = bytes(ending.memory.get(at, old[n]) for n, at in enumerate(places))
        return int.from_bytes(found, "little")


def call_of(site: Site) -> Instruction | None:
    """The call in a detour before the displaced instructions."""
    return next((insn for insn in prologue(site) if insn.is_call_near), None)


def check_call(site: Site, state: State, call: Ending, regs: int) -> Iterator[str]:
    """What is wrong with a call of C code that is handed the struct pt_regs at ``regs``."""
    ours = call_of(site)
    assert ours is not None
    if call.flags & DF_AC:
        yield "the call is made with DF or AC set"
    words = {
        **state.registers,
        "orig_ax": ours.next_ip,
        "ip": site.address,
        "cs": KERNEL_CS,
        "flags": state.flags,
        "sp": state.registers["rsp"],
        "ss": KERNEL_DS,
    }
    for number, name in enumerate(PT_REGS):
        found = read_word(call.memory, regs + WORD * number)
        if found != words[name]:
            shown = "nothing" if found is None else f"{found:#x}"
            yield f"{name} is handed over as {shown}, not {words[name]:#x}"


def _gs_slots(site: Site) -> set[int]:
    """What the displaced instructions refer to through %gs."""
    return {
        insn.memory_displacement & MASK
        for insn in Decoder(64, site.original, ip=site.address)
        if insn.memory_segment == Register.GS
    }


def read_word(memory: Mapping[int, int], address: int) -> int | None:
    """A word of what was written, if it was."""
    places = [(address + n) & MASK for n in range(WORD)]
    if not all(at in memory for at in places):
        return None
    return int.from_bytes(bytes(memory[at] for at in places), "little")
