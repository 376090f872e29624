"""Which status flags may be read before they are written, at every instruction of a kernel:
computed from iced-x86's knowledge of instructions, independently of the kernel module.

    oracle = Liveness(texts, read_flow(transport, ranges))
    wrong = judge(judgements.parts, oracle).wrong      # claims that a flag is dead, and is not

It is a backward data flow over all text at once, to its fixed point. A path ends

- at the entry of a compiled C function, and where one returns: by the ABI no flag is passed.
  Compiled is what has an ftrace site, and the cold part of such a function;
- where an instruction writes all flags that are still asked about;
- in ignorance: at an indirect jump or call, at the return of anything else, at a system call,
  outside of known text. There everything counts as read;
- at a ud2 which is no warning: nothing comes behind it.

A flag that an instruction leaves undefined counts as written: code that reads it afterwards
depends on what the architecture does not say. One that an instruction may leave as it was is
not written: a shift by %cl or a repeated string comparison may do nothing at all.

Needs numpy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, Register, RflagsBits
from numpy.typing import NDArray

from pyctl.transport import Transport
from pyctl.verify.calm import Calm
from pyctl.verify.cpu import FLAGS as RFLAGS
from pyctl.verify.decoders import INT3, NEAR_BRANCHES, pieces
from pyctl.verify.flow import SITE_LEN, KernelFlow, read_flow
from pyctl.verify.judgements import Judgements, MethodCode, SiteFlag, TextPart
from pyctl.verify.livetext import Text, read_text


class Flag(IntFlag):
    """The status flags, by iced-x86's bits."""

    OF = RflagsBits.OF
    SF = RflagsBits.SF
    ZF = RflagsBits.ZF
    AF = RflagsBits.AF
    CF = RflagsBits.CF
    PF = RflagsBits.PF


ALL = Flag.OF | Flag.SF | Flag.ZF | Flag.AF | Flag.CF | Flag.PF
#: What an increment changes.
NOT_CARRY = ALL & ~Flag.CF
#: May be found where a function returns.
RETURN_THUNKS = frozenset({"__x86_return_thunk", "zen_untrain_ret", "srso_return_thunk"})
#: They do nothing if %cl is 0.
SHIFTS = frozenset(
    {
        Mnemonic.SHL, Mnemonic.SHR, Mnemonic.SAR, Mnemonic.SAL, Mnemonic.ROL, Mnemonic.ROR,
        Mnemonic.RCL, Mnemonic.RCR, Mnemonic.SHLD, Mnemonic.SHRD,
    }
)  # fmt: skip
#: Calls of something else than a function, behind which control goes on.
HYPERCALLS = frozenset({Mnemonic.VMCALL, Mnemonic.VMMCALL})
#: Successors of an instruction: behind it, where it branches to, by one of the kernel's tables.
BEHIND, BRANCH, TABLE = range(3)
#: Steps of a path that is told.
TOLD = 12

Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Effects:
    """The instructions of all texts, ascending; arrays of shape (number of instructions,).

    ``read`` and ``killed`` are :class:`Flag` bits. ``next`` has three columns of successors,
    each a row, ``dead`` (nothing reads a flag there) or ``live`` (anything might).
    """

    address: NDArray[np.uint64]
    length: NDArray[np.int64]
    read: Bits
    killed: Bits
    next: NDArray[np.int64]

    @property
    def dead(self) -> int:
        """The row behind the last: nothing is read there."""
        return len(self.address)

    @property
    def live(self) -> int:
        """And one more: everything may be."""
        return len(self.address) + 1

    def rows(self, addresses: NDArray[np.uint64]) -> Rows:
        """The instructions at these addresses; ``live`` where there is none."""
        if not len(self.address):
            return np.full(len(addresses), self.live)
        found = np.searchsorted(self.address, addresses)
        found = np.minimum(found, len(self.address) - 1)
        return np.where(self.address[found] == addresses, found, self.live)


class Liveness:
    """The flags that may be read from each instruction of some texts on."""

    def __init__(self, texts: Sequence[Text], flow: KernelFlow) -> None:
        self._texts = sorted(texts, key=lambda text: text.start)
        self.effects = _Graph(self._texts, flow).effects
        #: :class:`Flag` bits of each row, and of the two that stand for ignorance and an end.
        self.flags = _fix(self.effects)

    def at(self, addresses: NDArray[np.uint64]) -> Bits:
        """The flags that may be read from these addresses on, as bits of :class:`Flag`."""
        return self.flags[self.effects.rows(addresses)]

    def dead(self, address: int) -> int:
        """The flags that are not, as bits of the register rflags."""
        (live,) = self.at(np.array([address], np.uint64)).tolist()
        return sum(1 << RFLAGS[str(flag.name)] for flag in Flag if not live & flag)

    def path(self, address: int, flag: Flag) -> str:
        """How a live flag is read: the instructions on the shortest way there, in words."""
        effects = self.effects
        (start,) = effects.rows(np.array([address], np.uint64)).tolist()
        before: dict[int, int] = {start: start}
        queue = [start]
        for row in queue:
            if row >= effects.dead or effects.read[row] & flag:
                if row == effects.dead:
                    continue
                return self._tell(row, before)
            for other in effects.next[row].tolist():
                dead = other == effects.dead or not self.flags[other] & flag
                if other not in before and not dead and not effects.killed[row] & flag:
                    before[other] = row
                    queue.append(other)
        return "nothing reads it"

    def describe(self, address: int) -> str:
        """``symbol+0xOFF``."""
        for text in self._texts:
            if text.start <= address < text.end:
                return text.describe(address)
        return hex(address)

    def _tell(self, row: int, before: dict[int, int]) -> str:
        steps = []
        while True:
            if row == self.effects.live:
                steps.append("the unknown")
            else:
                steps.append(self.describe(int(self.effects.address[row])))
            if before[row] == row:
                break
            row = before[row]
        steps.reverse()
        shown = steps if len(steps) <= TOLD else [*steps[:3], "...", *steps[3 - TOLD :]]
        return " -> ".join(shown)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel's text with that of its modules, in the order of ``judgements.parts``: what the
    kernel module makes of each instruction, which flags are live there, and where AC and DF
    are clear."""

    judgements: Judgements
    texts: Sequence[Text]
    liveness: Liveness
    calm: Calm


def read_kernel(transport: Transport, judgements: Judgements) -> Kernel:
    """Read the texts of these judgements, which must not be probed now."""
    ranges = [(part.start, part.size) for part in judgements.parts]
    texts = read_text(transport, ranges)
    flow = read_flow(transport, ranges)
    return Kernel(judgements, texts, Liveness(texts, flow), Calm(texts, flow))


@dataclass(frozen=True)
class WrongClaim:
    """A site for which the kernel module says that flags are dead, though they may be read."""

    address: int
    symbol: str
    flags: Flag
    path: str

    def __str__(self) -> str:
        return f"{self.address:#x} {self.symbol}: {self.flags!r} is read: {self.path}"


@dataclass(frozen=True)
class Judged:
    """The module's claims held against the oracle: ``sites`` have a DCR; ``claimed`` of them
    are said to have no live flag but CF, ``carry_claimed`` none at all. ``dead`` and
    ``carry_dead`` are the same by the oracle."""

    sites: int
    claimed: int
    carry_claimed: int
    dead: int
    carry_dead: int
    wrong: tuple[WrongClaim, ...]

    @property
    def precision(self) -> float:
        """Of the sites where an increment needs nothing saved, how many the module knows."""
        return self.claimed / self.dead if self.dead else 1.0

    @property
    def carry_precision(self) -> float:
        """The same of those where nothing at all needs saving."""
        return self.carry_claimed / self.carry_dead if self.carry_dead else 1.0


def judge(parts: Sequence[TextPart], oracle: Liveness, *, shown: int = 50) -> Judged:
    """Check every claim. ``wrong`` has them all, the first ``shown`` with their paths."""
    sums = np.zeros(5, np.int64)
    wrong: list[WrongClaim] = []
    for part in parts:
        records = np.isin(part.method, _DISPLACING) & (part.flags & SiteFlag.FTRACE == 0)
        address, flags = part.address[records], part.flags[records]
        live = oracle.at(address)
        claimed = flags & SiteFlag.FLAGS_DEAD_BUT_CARRY > 0
        carry = flags & SiteFlag.CARRY_DEAD > 0
        bad = np.where(claimed, live & int(NOT_CARRY), 0) | np.where(carry, live & int(Flag.CF), 0)
        sums += [
            len(address),
            int(claimed.sum()),
            int((claimed & carry).sum()),
            int((live & int(NOT_CARRY) == 0).sum()),
            int((live == 0).sum()),
        ]
        for n in np.flatnonzero(bad):
            found = Flag(int(bad[n]))
            at = int(address[n])
            first = next(flag for flag in Flag if flag in found)
            path = oracle.path(at, first) if len(wrong) < shown else "-"
            wrong.append(WrongClaim(at, oracle.describe(at), found, path))
    sites, claims, carry_claims, dead, carry_dead = sums.tolist()
    return Judged(sites, claims, carry_claims, dead, carry_dead, tuple(wrong))


_DISPLACING = (MethodCode.JUMP, MethodCode.JUMP_INT3, MethodCode.INT3)


class _Kind(IntFlag):
    """How control goes on behind an instruction."""

    NEXT = 1
    BRANCH = 2
    UNKNOWN = 4
    RETURN = 8
    TRAP = 16


class _Graph:
    """Decodes the texts and connects the instructions."""

    def __init__(self, texts: Sequence[Text], flow: KernelFlow) -> None:
        self._flow = flow
        self._entries = flow.compiled(texts)
        self._thunks = {f.address for f in flow.functions if f.name in RETURN_THUNKS}
        self._address: array[int] = array("Q")
        self._length: array[int] = array("B")
        self._read: array[int] = array("B")
        self._killed: array[int] = array("B")
        self._kind: array[int] = array("B")
        self._target: array[int] = array("Q")
        for text in texts:
            self._decode(text)
        self.effects = self._connect()

    def _decode(self, text: Text) -> None:
        compiled = self._compiled_pieces()
        for start, end in pieces(text):
            address = text.start + start
            self._decode_piece(text.data[start:end], address, address in compiled)

    def _compiled_pieces(self) -> set[int]:
        """Addresses of symbols whose code a C compiler has made."""
        names = {
            (function.name, function.module)
            for function in self._flow.functions
            if function.address in self._entries
        }
        cold = {
            function.address
            for function in self._flow.functions
            if ".cold" in function.name
            and (function.name.partition(".cold")[0], function.module) in names
        }
        return cold | self._entries.keys()

    def _decode_piece(self, data: bytes, address: int, compiled: bool) -> None:
        decoder = Decoder(64, data, ip=address)
        plain = FlowControl.NEXT
        for insn in decoder:
            at = insn.ip
            if data[at - address] == INT3:  # padding
                found = at - address
                while found < len(data) and data[found] == INT3:
                    found += 1
                decoder.position, decoder.ip = found, address + found
                continue
            if insn.is_invalid:
                continue
            self._address.append(at)
            self._length.append(insn.len)
            self._read.append(insn.rflags_read & int(ALL))
            self._killed.append(0 if _may_do_nothing(insn) else insn.rflags_modified & int(ALL))
            if insn.flow_control == plain:
                self._kind.append(_Kind.NEXT)
                self._target.append(0)
            else:
                self._kind.append(self._goes_on(insn, compiled))
                near = insn.op0_kind in NEAR_BRANCHES
                self._target.append(insn.near_branch_target if near else 0)

    def _goes_on(self, insn: Instruction, compiled: bool) -> int:
        if insn.is_jmp_short_or_near:
            thunk = insn.near_branch_target in self._thunks
            returns = _Kind.RETURN if compiled else _Kind.UNKNOWN
            return returns if thunk else _Kind.BRANCH
        if insn.is_call_near:  # what comes back is what the callee leaves
            return _Kind.BRANCH
        kinds = {
            FlowControl.CONDITIONAL_BRANCH: _Kind.NEXT | _Kind.BRANCH,
            FlowControl.RETURN: _Kind.RETURN if compiled else _Kind.UNKNOWN,
            FlowControl.EXCEPTION: _Kind.TRAP,
            FlowControl.XBEGIN_XABORT_XEND: _Kind.NEXT | _Kind.BRANCH,
        }
        if insn.mnemonic in HYPERCALLS:
            return _Kind.NEXT
        return kinds.get(insn.flow_control, _Kind.UNKNOWN)

    def _connect(self) -> Effects:
        address = np.array(self._address, np.uint64)
        length = np.array(self._length, np.int64)
        kind = np.array(self._kind, np.uint8)
        target = np.array(self._target, np.uint64)
        read = np.array(self._read, np.uint8)
        killed = np.array(self._killed, np.uint8)
        effects = Effects(
            address, length, read, killed, np.full((len(address), 3), len(address), np.int64)
        )
        behind = effects.rows(address + length.astype(np.uint64))
        after = effects.next
        warned = np.zeros(len(address), np.bool_)
        warned[self._known(effects, self._flow.warnings)] = True
        called = self._known(effects, self._flow.calls)
        goes = (kind & _Kind.NEXT > 0) | ((kind & _Kind.TRAP > 0) & warned)
        goes[called] = True
        after[goes, BEHIND] = behind[goes]
        branches = kind & _Kind.BRANCH > 0
        after[branches, BRANCH] = effects.rows(target[branches])
        after[kind & _Kind.UNKNOWN > 0, BRANCH] = effects.live
        for pairs in (self._flow.jumps, self._flow.fixups):
            table = np.array(list(pairs), np.uint64).reshape(-1, 2)
            rows, goals = effects.rows(table[:, 0]), effects.rows(table[:, 1])
            known = rows < effects.dead
            after[rows[known], TABLE] = goals[known]
        labels = self._known(effects, [at for at, _ in self._flow.jumps])
        after[labels, BEHIND] = behind[labels]
        killed[called] = 0
        self._begin_functions(effects)
        return effects

    def _begin_functions(self, effects: Effects) -> None:
        """No flag is passed to a compiled function; nor does any reach the instruction behind
        its ftrace site."""
        entries = np.array(
            [at for entry, site in self._entries.items() for at in (entry, site, site + SITE_LEN)],
            np.uint64,
        )
        rows = self._known(effects, entries)
        effects.read[rows] = 0
        effects.killed[rows] = int(ALL)

    @staticmethod
    def _known(effects: Effects, addresses: Sequence[int] | NDArray[np.uint64]) -> Rows:
        rows = effects.rows(np.asarray(addresses, np.uint64))
        return rows[rows < effects.dead]


def _may_do_nothing(insn: Instruction) -> bool:
    """Whether it may leave all flags as they were, though it is said to write them."""
    if insn.mnemonic in SHIFTS:
        last = insn.op_register(insn.op_count - 1)
        return last == Register.CL
    return insn.is_string_instruction and (insn.has_rep_prefix or insn.has_repne_prefix)


def _fix(effects: Effects) -> Bits:
    """Flags that may be read from each row on: read there, or later and not written."""
    number = effects.dead
    flags = np.zeros(number + 2, np.uint8)
    flags[effects.live] = int(ALL)
    flags[:number] = effects.read
    passed = ~effects.killed
    sources, starts = _predecessors(effects)
    rows: Rows = np.arange(number)
    while len(rows):
        later = np.bitwise_or.reduce(flags[effects.next[rows]], axis=1)
        new = effects.read[rows] | (later & passed[rows])
        changed = rows[new != flags[rows]]
        flags[rows] = new
        rows = np.unique(np.concatenate([*_slices(sources, starts, changed)]))
    return flags


def _predecessors(effects: Effects) -> tuple[Rows, Rows]:
    """All rows that go on at a row, one behind the other, and where each row's begin."""
    goals = effects.next.ravel()
    order = np.argsort(goals, kind="stable")
    starts = np.searchsorted(goals[order], np.arange(effects.dead + 1))
    return order // effects.next.shape[1], starts


def _slices(sources: Rows, starts: Rows, rows: Rows) -> Iterator[Rows]:
    """The predecessors of these rows."""
    yield np.zeros(0, np.int64)
    first, count = starts[rows], starts[rows + 1] - starts[rows]
    total = int(count.sum())
    if total:
        ends = np.cumsum(count)
        offsets = np.arange(total) - np.repeat(ends - count, count)
        yield sources[np.repeat(first, count) + offsets]
