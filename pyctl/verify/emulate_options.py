"""Detours of probes with options, in the emulator.

    action = Optioned(site, options)
    verdict = emulate(site, seed=1, states=40, action=action)
    action.hits, action.arrivals        # it should have been both

What the probe writes is found in its detour: the memory that instructions before the
displaced ones refer to, through %gs or with a lock. What they have to be after an arrival
is computed here, from the registers with which it arrived.

Those that call C code are in ``emulate_actions``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from iced_x86 import (
    Code,
    Instruction,
    InstructionInfoFactory,
    MemorySize,
    Mnemonic,
    OpAccess,
    Register,
)
from iced_x86 import MemorySizeExt as Sizes

from pyctl.options import Field, Operator, Options
from pyctl.verify.cpu import MASK, Ending, State
from pyctl.verify.emulate import DEAD_STACK, Action, Site, prologue

#: The emulator's names of registers, by those that options have.
REGISTERS: Mapping[str, str] = {
    **{name: f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")},
    **{f"r{number}": f"r{number}" for number in range(8, 16)},
}
BUCKETS = 65
#: So small a %rcx is of a state for code that repeats: it stays.
SMALL = 32
#: Tries to draw a register for which a condition holds, or does not.
TRIES = 200


@dataclass(frozen=True)
class Slot:
    """Memory of a probe: per CPU, ``address`` is then from the %gs base on, or one for all."""

    address: int
    size: int
    shared: bool = False

    def at(self, state: State) -> int:
        """Its address on the state's CPU."""
        return (self.address + (0 if self.shared else state.registers["gs_base"])) & MASK

    def bytes(self, state: State) -> range:
        """The addresses of its bytes."""
        return range(self.at(state), self.at(state) + self.size)


@dataclass(frozen=True)
class Slots:
    """What a detour refers to before its displaced instructions: the count, the sum in which
    samples are counted off, the histogram's first bucket, the switch, the bit of ``once``."""

    count: Slot | None = None
    sample: Slot | None = None
    hist: Slot | None = None
    soft: Slot | None = None
    once: Slot | None = None
    calls: bool = False


def find_slots(site: Site) -> Slots:
    """By what is done to each: the switch is only read, the counters incremented (the first
    is the count, the next the histogram's bucket of 0), the bit is locked, the sum is what
    else is changed."""
    constants: dict[int, int] = {}
    found: dict[str, Slot] = {}
    info = InstructionInfoFactory()
    calls = False
    for insn in prologue(site):
        calls |= insn.is_call_near
        if insn.code == Code.MOV_R64_IMM64:
            constants[insn.op0_register] = insn.immediate(1)
        if insn.memory_size == MemorySize.UNKNOWN or insn.is_stack_instruction:
            continue
        if not _is_slot(insn):
            continue
        kind = _kind(insn, info.info(insn).op0_access, found)
        if kind is not None and kind not in found:
            address = constants.get(insn.memory_base, 0) + insn.memory_displacement
            size = Sizes.size(insn.memory_size)
            found[kind] = Slot(address & MASK, size, insn.memory_segment != Register.GS)
    return Slots(**found, calls=calls)


def _is_slot(insn: Instruction) -> bool:
    return insn.memory_segment == Register.GS or insn.has_lock_prefix


def _kind(insn: Instruction, access: int, found: Mapping[str, Slot]) -> str | None:
    if insn.has_lock_prefix:
        return "once"
    if access == OpAccess.READ:
        return "soft"
    if insn.mnemonic != Mnemonic.INC:
        return "sample"
    if insn.memory_index != Register.NONE:
        return None  # a bucket of the histogram, which begins at another one
    return "hist" if "count" in found else "count"


class Optioned(Action):
    """The action of a probe with options, over many arrivals: what it keeps between them is
    carried over."""

    dead_stack = DEAD_STACK

    def __init__(self, site: Site, options: Options) -> None:
        self.options = options
        self.slots = find_slots(site)
        #: Arrivals at the probe, and those that are to be counted.
        self.arrivals = 0
        self.hits = 0
        #: Arrivals that came as far as the sample, and its memory.
        self._offered = 0
        self._sum = bytes(self.slots.sample.size) if self.slots.sample else b""
        self._on = True
        self._fired = False

    def missing(self) -> list[str]:
        """The options for which the detour has no memory."""
        options, slots = self.options, self.slots
        wanted = {
            "count": True,
            "sample": options.sample is not None,
            "hist": options.hist is not None,
            "soft": options.soft,
            "once": options.once,
        }
        return [name for name, is_wanted in wanted.items()
                if is_wanted != (getattr(slots, name) is not None)]  # fmt: skip

    def draw(self, state: State, draw: random.Random) -> State:
        """The condition holds in half of them, and the switch is on in most."""
        self._on = draw.randrange(4) > 0
        self._fired = draw.randrange(3) == 0
        condition, hist = self.options.condition, self.options.hist
        if hist is not None:
            state = _with(state, hist, draw.getrandbits(draw.randrange(8 * hist.size + 1)))
        if condition is None:
            return state
        wanted = bool(draw.getrandbits(1))
        for _ in range(TRIES):
            near = condition.value + draw.choice((0, 0, 1, -1, 1 << draw.randrange(64)))
            value = draw.choice((near, draw.getrandbits(64), condition.value ^ near))
            drawn = _with(state, condition.field, value)
            if self._holds(drawn) == wanted:
                return drawn
        return state

    def memory(self, state: State) -> Mapping[int, int]:
        """What is carried over, the switch and the bit."""
        values = {
            self.slots.sample: self._sum,
            self.slots.soft: self._number(self.slots.soft, self._on),
            self.slots.once: self._number(self.slots.once, self._fired),
        }
        return {
            at: byte
            for slot, data in values.items()
            if slot is not None
            for at, byte in zip(slot.bytes(state), data, strict=True)
        }

    def own(self, state: State) -> set[int]:
        """All slots that an arrival may change; how, is for ``check``."""
        return {at for slot in self._written(state) for at in slot.bytes(state)}

    def check(
        self, state: State, arrivals: int, probed: Ending, calls: Sequence[Ending]
    ) -> Iterator[str]:
        """Each slot, by what should have come of so many arrivals, none or one."""
        missing = self.missing()
        if missing:
            yield f"the detour has too much, or nothing, for {', '.join(missing)}"
            return
        slots, options = self.slots, self.options
        offered = bool(arrivals) and (self._on or not options.soft) and self._holds(state)
        self._offered += offered
        counted = offered and (options.sample is None or self._offered % options.sample == 0)
        hit = counted and not (options.once and self._fired)
        self.arrivals += arrivals
        self.hits += hit
        yield from self.check_calls(state, hit=hit, calls=calls)
        yield from self._expect("count", slots.count, state, probed, 1 if hit else 0)
        bucket = self._bucket(state)
        if bucket is not None:
            yield from self._expect("bucket", bucket, state, probed, 1 if hit else 0)
        if slots.once is not None:
            rise = 1 if counted and not self._fired else 0
            yield from self._expect("bit of once", slots.once, state, probed, rise)
        if slots.sample is not None:
            after = self._after(slots.sample, state, probed)
            if not offered and after != self._sum:
                yield "the sample counts an arrival that is not to be counted"
            self._sum = after

    def check_calls(self, state: State, *, hit: bool, calls: Sequence[Ending]) -> Iterator[str]:
        """What is wrong with the calls of C code, of which there should be none."""
        del state, hit
        if calls:
            yield "the detour calls something"

    def _holds(self, state: State) -> bool:
        condition = self.options.condition
        if condition is None:
            return True
        value, other = _value(condition.field, state), condition.value
        answers = {
            Operator.EQUAL: value == other,
            Operator.UNEQUAL: value != other,
            Operator.LESS: value < other,
            Operator.AT_MOST: value <= other,
            Operator.GREATER: value > other,
            Operator.AT_LEAST: value >= other,
            Operator.AND: bool(value & other),
        }
        return answers[condition.operator]

    def _bucket(self, state: State) -> Slot | None:
        """Bucket k has the values of k bits."""
        hist, slot = self.options.hist, self.slots.hist
        if hist is None or slot is None:
            return None
        return replace(slot, address=slot.address + 8 * _value(hist, state).bit_length())

    def _written(self, state: State) -> list[Slot]:
        slots = self.slots
        written = (slots.count, slots.sample, slots.once, self._bucket(state))
        return [slot for slot in written if slot is not None]

    def _expect(
        self, what: str, slot: Slot | None, state: State, probed: Ending, rise: int
    ) -> Iterator[str]:
        assert slot is not None
        memory = self.memory(state)
        before = bytes(
            memory.get(at, byte)
            for at, byte in zip(
                slot.bytes(state), state.memory(slot.at(state), slot.size), strict=True
            )
        )
        after = self._after(slot, state, probed)
        risen = int.from_bytes(after, "little") - int.from_bytes(before, "little")
        if risen % (1 << 8 * slot.size) != rise:
            yield f"the {what} goes up by {risen}, not by {rise}"

    def _after(self, slot: Slot, state: State, probed: Ending) -> bytes:
        memory = {**self.memory(state), **probed.memory}
        start = state.memory(slot.at(state), slot.size)
        return bytes(
            memory.get(at, byte) for at, byte in zip(slot.bytes(state), start, strict=True)
        )

    @staticmethod
    def _number(slot: Slot | None, value: bool) -> bytes:
        return int(value).to_bytes(slot.size, "little") if slot else b""


def _with(state: State, field: Field, value: int) -> State:
    """A state in which the field, if it is of a register, has this value; the rest of the
    register is as it was."""
    name = REGISTERS[field.register]
    old = state.registers[name]
    if field.offset is not None or name == "rsp" or (name == "rcx" and old < SMALL):
        return state
    mask = (1 << 8 * field.size) - 1
    return replace(
        state, registers={**state.registers, name: (old & ~mask & MASK) | (value & mask)}
    )


def _value(field: Field, state: State) -> int:
    """A register's low bytes, as a number with or without a sign."""
    bits = 8 * field.size
    value = state.registers[REGISTERS[field.register]] & ((1 << bits) - 1)
    return value - (1 << bits) if field.signed and value >> (bits - 1) else value
