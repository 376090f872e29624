"""Rule 1 in an emulator: a probed site, and the same site without its probe, run from the
same random state, have to end in the same state.

    verdict = emulate(site, seed=1)
    verdict.differences            # a sentence each; none if all is well

The original is run from the insertion address until control leaves the DCR. The probed site
is run from there, too: its live bytes (a jump, or an int3) and its live detour; where control
meets an int3 of ours, what the int3 handler does is done. Compared are all registers, the
flags, the address at which it goes on, each byte of memory that either wrote, and output to
ports. Two things are the probe's own: its counter, which has to go up by exactly 1, and the
dead stack below the stack pointer.

A detour may change flags that nobody reads: those that ``Site.dead`` says. The original is
then run with them as the detour has left them, and all has to be the same again.

What a detour does besides counting (``emulate_options``, ``emulate_handlers`` and so on) is an
:class:`Action`. If it calls C code before the displaced instructions, that is taken to keep
no status flag, to leave DF and AC clear, and to keep all registers but what the action says.
Code that it calls and that the action brings along is run, up to where that calls C code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from iced_x86 import (
    Code,
    CpuidFeature,
    Decoder,
    EncodingKind,
    Instruction,
    InstructionInfoFactory,
    MemorySize,
    Mnemonic,
    OpAccess,
    Register,
)

from pyctl.errors import UsageError
from pyctl.verify.cpu import FLAGS, MASK, TRAP_FLAG, Cpu, Ending, State, draw_state

#: Random states from which a site is run.
STATES = 3
#: So often a state is drawn again because the original does not end, or single-steps.
TRIES = 16
#: What a detour may leave below the stack pointer if it calls nothing: the flags, and one
#: register.
DEAD_STACK = 16
COUNTER = 8
#: Calls of C code that one arrival may make.
CALLS = 4
#: The status flags: CF PF AF ZF SF OF.
STATUS = sum(1 << FLAGS[name] for name in ("CF", "PF", "AF", "ZF", "SF", "OF"))
#: C code must find them clear, and leaves them so.
DF_AC = 1 << FLAGS["DF"] | 1 << FLAGS["AC"]
JUMP_LEN = 5
JUMP, INT3 = 0xE9, 0xCC
#: They have another result each time.
FICKLE = frozenset({Mnemonic.RDTSC, Mnemonic.RDTSCP, Mnemonic.RDRAND, Mnemonic.RDSEED})
#: What unicorn has of the instructions with a VEX prefix. It takes others for something else.
VEX_KNOWN = frozenset({CpuidFeature.BMI1, CpuidFeature.BMI2})
NAMES: Mapping[int, str] = {
    value: name for name, value in vars(Mnemonic).items() if isinstance(value, int)
}
WIDE = frozenset({MemorySize.UINT64, MemorySize.INT64})
WRITES = frozenset({OpAccess.WRITE, OpAccess.READ_WRITE})


@dataclass(frozen=True)
class Site:
    """A probed site as it stands in a live kernel.

    ``original`` are the bytes of the DCR without the probe, ``live`` the same bytes now;
    ``code`` is the detour, which is at the address ``detour``. ``entries`` says where each
    displaced instruction begins in the detour, by its offset in the DCR; ``traps`` are the
    offsets of the branch targets that have an int3 among the jump's bytes. ``dead`` are the
    flags, as in rflags, that nobody reads before they are written from the address on.
    ``calm`` says that AC and DF are clear whenever control gets there.
    """

    address: int
    original: bytes
    live: bytes
    detour: int
    code: bytes
    entries: Mapping[int, int]
    traps: tuple[int, ...] = ()
    dead: int = 0
    calm: bool = False

    def __post_init__(self) -> None:
        if not self.original or len(self.original) != len(self.live):
            raise UsageError(f"{self.address:#x}: the original and the live bytes differ in length")
        if 0 not in self.entries:
            raise UsageError(f"{self.address:#x}: no entry for the first instruction")

    @property
    def patch_len(self) -> int:
        """How many bytes of the DCR are written over."""
        return JUMP_LEN if self.live[0] == JUMP else 1


@dataclass(frozen=True)
class Verdict:
    """What was found at one site: ``runs`` pairs of runs were compared. With
    ``not_emulated``, the name of an instruction, nothing is known of the site."""

    site: Site
    runs: int
    differences: tuple[str, ...] = ()
    not_emulated: str | None = None

    @property
    def same(self) -> bool:
        """Whether the probed site always ended as the original did."""
        return self.runs > 0 and not self.differences and self.not_emulated is None


class Action(Protocol):
    """What a detour does besides the displaced instructions."""

    @property
    def dead_stack(self) -> int:
        """How many bytes it may leave below the stack pointer."""

    def draw(self, state: State, draw: random.Random) -> State:
        """A state for it: registers and flags may be others, not the seed."""
        del draw
        return state

    def memory(self, state: State) -> Mapping[int, int]:
        """Bytes of memory that are other than the state's before the run."""
        del state
        return {}

    def own(self, state: State) -> set[int]:
        """Addresses that it may write, beside the dead stack."""

    def check(
        self, state: State, arrivals: int, probed: Ending, calls: Sequence[Ending]
    ) -> Iterator[str]:
        """What is wrong with what it wrote, after so many arrivals at the probe, and with the
        calls of C code, each as the CPU stood at the callee's first instruction."""

    @property
    def code(self) -> Sequence[tuple[int, bytes]]:
        """Code that the detour calls and that is to be run, as address and bytes."""
        return ()

    def calls(self, ending: Ending) -> bool:
        """Whether this is a call of C code by the action's own code."""
        del ending
        return False

    def clobbered(self, state: State) -> Mapping[str, int]:
        """Registers that C code changes."""
        del state
        return {}

    def writes(self, state: State, call: Ending) -> Mapping[int, int]:
        """Bytes of memory that C code changes when it is called like that; they have been
        written before."""
        del state, call
        return {}

    def handed_on(self, state: State) -> State:
        """What the displaced instructions find at an arrival in that state: it, unless C code
        changes what they get."""
        return state


def emulate(
    site: Site, *, seed: int, states: int = STATES, action: Action | None = None
) -> Verdict:
    """Run a site with and without its probe from ``states`` random states each, from its
    first byte and from each of its traps. Ends at the first state that shows a difference.
    Without an ``action`` the detour has to count."""
    displaced = {insn.ip: insn for insn in _decode(site.original, site.address)}
    strange = [insn for insn in displaced.values() if not _emulated(insn)]
    if strange:
        return Verdict(site, 0, not_emulated=_name(strange[0]))
    pair = _Pair(site, displaced, action or Counting(site))
    draw = random.Random(seed)
    runs = 0
    for offset in (0, *site.traps):
        for _ in range(states):
            state, original = pair.usable(draw, offset)
            if original.unknown is not None:
                return Verdict(
                    site, runs, not_emulated=_name(_decode(original.unknown, original.next)[0])
                )
            if original.endless:
                return Verdict(site, runs, not_emulated="endless")
            found = tuple(pair.compare(state, offset, original))
            runs += 1
            if found:
                start = f"from +{offset:#x}: " if offset else ""
                return Verdict(site, runs, tuple(f"{start}{words}" for words in found))
    return Verdict(site, runs)


class _Pair:
    """Two CPUs: one with the site as it was, one with the site as it is."""

    def __init__(self, site: Site, displaced: Mapping[int, Instruction], action: Action) -> None:
        self._site = site
        self._action = action
        self._reads_dead_stack = any(
            insn.memory_base == Register.RSP and insn.memory_displacement >> 63
            for insn in displaced.values()
        )
        self._repeats = {ip for ip, insn in displaced.items() if _repeats(insn)}
        code = [(site.detour, site.code), *action.code]
        self._original = Cpu([(site.address, site.original), *code])
        self._probed = Cpu([(site.address, site.live), *code])
        self._own = [range(address, address + len(data)) for address, data in code]
        #: What the detour calls before the displaced instructions.
        self._callee = next(
            (insn.near_branch_target for insn in prologue(site) if insn.is_call_near), None
        )

    def usable(self, draw: random.Random, offset: int) -> tuple[State, Ending]:
        """A state from which the original ends, and its end."""
        for _ in range(TRIES):
            state = self._action.draw(draw_state(draw, short=bool(self._repeats)), draw)
            if self._site.calm:
                state = replace(state, flags=state.flags & ~DF_AC)
            begun, dead_stack = self._arrive(state, offset)
            memory = {**self._action.memory(state), **dead_stack}
            self._original.start(begun, memory)
            ending = self._original.run(self._site.address + offset, self._leaves_original())
            if not ending.endless and not ending.flags & TRAP_FLAG:
                break
        return state, ending

    def _arrive(self, state: State, offset: int) -> tuple[State, Mapping[int, int]]:
        """The state with which the displaced instructions begin, as far as a detour may change
        flags; and what it leaves below the stack pointer, if the original reads there, which
        an interrupt might have written to as well. A memory barrier is such an instruction:
        lock addl $0,-4(%rsp)."""
        if offset:
            return state, {}
        begun = self._action.handed_on(state)
        if not (self._site.dead or self._reads_dead_stack):
            return begun, {}
        first = self._site.entries[0]
        self._probed.start(state, self._action.memory(state))
        done, _ = self._call_out(
            state, self._probed.run(self._site.detour, self._leaves_prologue(first)), first
        )
        flags = begun.flags ^ (begun.flags ^ done.flags) & self._site.dead
        begun = replace(begun, flags=flags)
        if not self._reads_dead_stack:
            return begun, {}
        dead = self._below(state)
        return begun, {at: byte for at, byte in done.memory.items() if at in dead}

    def _leaves_prologue(self, first: int) -> Callable[[int], bool]:
        """Stops at the first displaced instruction, and where something is called."""
        return lambda address: address == first or not self._is_own(address)

    def _is_own(self, address: int) -> bool:
        """Whether it is in the detour, or the action's code."""
        return any(address in places for places in self._own)

    def _call_out(
        self, state: State, ending: Ending, first: int | None = None
    ) -> tuple[Ending, list[Ending]]:
        """Go on behind the calls of C code; also how the CPU stood at each."""
        calls: list[Ending] = []
        while self._is_call(ending) and len(calls) < CALLS:
            calls.append(ending)
            back = self._probed.leave_call(
                _flags_after_call(state),
                self._action.clobbered(state),
                self._action.writes(state, ending),
            )
            leaves = self._leaves_probed() if first is None else self._leaves_prologue(first)
            ending = self._probed.run(back, leaves)
        return ending, calls

    def _is_call(self, ending: Ending) -> bool:
        if ending.exception is not None or self._is_own(ending.next):
            return False
        return ending.next == self._callee or self._action.calls(ending)

    def compare(self, state: State, offset: int, original: Ending) -> Iterator[str]:
        """How the probed site ends otherwise."""
        probed, calls, wrong = self._run_probed(state, offset)
        if wrong is not None:
            yield wrong
            return
        if probed.unknown is not None:
            yield f"an instruction that does not exist is run at {probed.next:#x}"
            return
        if probed.endless:
            yield "the detour does not end"
            return
        ends = self._describe_end(original), self._describe_end(probed)
        if ends[0] != ends[1]:
            yield f"{ends[1]}, but {ends[0]} without the probe"
        yield from _compare_registers(original, probed)
        if original.ports != probed.ports:
            yield f"writes {probed.ports} to ports, not {original.ports}"
        yield from self._action.check(state, 0 if offset else 1, probed, calls)
        own = self._below(state) | self._action.own(state)
        yield from _compare_memory(original.memory, probed.memory, own)

    def _below(self, state: State) -> set[int]:
        """The addresses below the stack pointer at which a detour may leave something."""
        rsp = state.registers["rsp"]
        return {at & MASK for at in range(rsp - self._action.dead_stack, rsp)}

    def _leaves_original(self) -> Callable[[int], bool]:
        """Stops outside the DCR; at its first byte, too, if it is reached again: that is a
        new arrival at the probe."""
        site, repeats = self._site, self._repeats
        previous: int | None = None

        def leaves(address: int) -> bool:
            nonlocal previous
            before, previous = previous, address
            if before is None or (address == before and address in repeats):
                return False
            return not 0 < address - site.address < len(site.original)

        return leaves

    def _leaves_probed(self) -> Callable[[int], bool]:
        """Stops outside the DCR and the detour, and wherever our bytes have been written,
        except at the jump itself on the first arrival."""
        site = self._site
        fresh = True

        def leaves(address: int) -> bool:
            nonlocal fresh
            first, fresh = fresh, False
            place = address - site.address
            if place == 0 and first and site.live[0] == JUMP:
                return False
            return place in range(site.patch_len) or not (
                place in range(len(site.live)) or self._is_own(address)
            )

        return leaves

    def _run_probed(self, state: State, offset: int) -> tuple[Ending, list[Ending], str | None]:
        """Until it leaves for good; with a word if it goes where nothing may go."""
        site = self._site
        self._probed.start(state, self._action.memory(state))
        start = site.address + offset
        if site.live[offset] == INT3:
            start = self._handle_int3(offset) or start
        ending, calls = self._call_out(state, self._probed.run(start, self._leaves_probed()))
        while ending.exception is None and ending.unknown is None and not ending.endless:
            place = ending.next - site.address
            if place not in range(1, site.patch_len):
                break
            entry = self._handle_int3(place)
            if entry is None:
                return ending, calls, f"goes to +{place:#x}, into the bytes of the jump"
            ending = self._probed.run(entry, self._leaves_probed())
        return ending, calls, None

    def _handle_int3(self, place: int) -> int | None:
        """Where the int3 handler sends an arrival."""
        site = self._site
        if site.live[place] != INT3:
            return None
        return site.entries.get(place) if place else site.detour

    def _describe_end(self, ending: Ending) -> str:
        if ending.exception is None:
            return f"goes on at {ending.next:#x}"
        return f"ends with {ending.exception} at {self._displaced(ending.next)}"

    def _displaced(self, address: int) -> str:
        """The displaced instruction that an address belongs to."""
        site = self._site
        if address - site.address in range(len(site.original)):
            return f"+{address - site.address:#x}"
        if address - site.detour not in range(len(site.code)):
            return f"{address:#x}"
        before = [offset for offset, entry in site.entries.items() if entry <= address]
        return f"+{max(before):#x}" if before else "the count"


class Counting(Action):
    """Each arrival increments a per-CPU counter."""

    dead_stack = DEAD_STACK

    def __init__(self, site: Site) -> None:
        self._prologue = prologue(site)

    def own(self, state: State) -> set[int]:
        """The counter."""
        counter = self._counter(state)
        return set() if counter is None else {(counter + n) & MASK for n in range(COUNTER)}

    def check(
        self, state: State, arrivals: int, probed: Ending, calls: Sequence[Ending]
    ) -> Iterator[str]:
        """It goes up by 1."""
        if calls:
            yield "the detour calls something"
        counter = self._counter(state)
        if counter is None:
            yield "the detour has no counter"
        else:
            yield from _compare_counter(state, counter, arrivals, probed)

    def _counter(self, state: State) -> int | None:
        """The address that the detour writes through %gs: before it comes to the displaced
        instructions."""
        constants: dict[int, int] = {}
        info = InstructionInfoFactory()
        for insn in self._prologue:
            if insn.code == Code.MOV_R64_IMM64:
                constants[insn.op0_register] = insn.immediate(1)
            writes = info.info(insn).op0_access in WRITES
            if insn.memory_segment == Register.GS and writes and insn.memory_size in WIDE:
                base = constants.get(insn.memory_base, 0)
                return (state.registers["gs_base"] + base + insn.memory_displacement) & MASK
        return None


def prologue(site: Site) -> list[Instruction]:
    """The instructions of a detour before the displaced ones."""
    return _decode(site.code[: site.entries[0] - site.detour], site.detour)


def _compare_registers(original: Ending, probed: Ending) -> Iterator[str]:
    for name, value in original.registers.items():
        if probed.registers[name] != value:
            yield f"{name} is {probed.registers[name]:#x}, not {value:#x}"
    changed = original.flags ^ probed.flags
    for name, bit in FLAGS.items():
        if changed >> bit & 1:
            yield f"{name} is {probed.flags >> bit & 1}, not {original.flags >> bit & 1}"
    rest = changed & ~sum(1 << bit for bit in FLAGS.values())
    if rest:
        yield f"the flags differ in {rest:#x}"


def _compare_counter(state: State, counter: int, times: int, probed: Ending) -> Iterator[str]:
    before = state.memory(counter, COUNTER)
    after = bytes(probed.memory.get((counter + n) & MASK, byte) for n, byte in enumerate(before))
    delta = (int.from_bytes(after, "little") - int.from_bytes(before, "little")) & MASK
    if delta != times:
        yield f"the counter goes up by {delta}, not by {times}"


def _compare_memory(
    original: Mapping[int, int], probed: Mapping[int, int], own: set[int]
) -> Iterator[str]:
    """``own`` are the bytes that the probe may write, if the original does not."""
    lost = sorted(original.keys() - probed.keys())
    if lost:
        yield f"does not write {len(lost)} bytes at {lost[0]:#x}"
    extra = sorted(probed.keys() - original.keys() - own)
    if extra:
        yield f"writes {len(extra)} bytes at {extra[0]:#x}, which are not its own"
    other = sorted(at for at in original.keys() & probed.keys() if original[at] != probed[at])
    if other:
        values = [bytes(memory[at] for at in other).hex(" ") for memory in (probed, original)]
        yield f"writes {values[0]} at {other[0]:#x}, not {values[1]}"


def _flags_after_call(state: State) -> int:
    """What C code leaves: from each other state all status flags are others, from the rest
    some are, for what looks at whether two are equal."""
    flipped = STATUS if state.seed & 1 else STATUS & (state.seed >> 1)
    return (state.flags ^ flipped) & ~DF_AC


def _decode(code: bytes, address: int) -> list[Instruction]:
    return list(Decoder(64, code, ip=address))


def _repeats(insn: Instruction) -> bool:
    return insn.is_string_instruction and (insn.has_rep_prefix or insn.has_repne_prefix)


def _emulated(insn: Instruction) -> bool:
    vector = insn.encoding != EncodingKind.LEGACY and VEX_KNOWN.isdisjoint(insn.cpuid_features())
    return insn.mnemonic not in FICKLE and not vector


def _name(insn: Instruction) -> str:
    return NAMES[insn.mnemonic].lower()
