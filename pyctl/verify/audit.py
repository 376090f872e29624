"""The kernel module's judgement of every instruction, held against other decoders.

    differences = audit(judgements.parts, [decode_iced(text) for text in texts])

Compared are, for each record: the instruction's boundary and length, how it is displaced,
and the displacement of its branch or RIP-relative operand. Where a jump or a lasting int3 can
stand: the DCR's length and number of instructions, computed anew from the decoder's. And that
no direct branch of any text goes into the bytes behind a jump's first, but for those that have
an int3 there.

Needs numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyctl.verify.decoders import INT3, OTHER, Decoded
from pyctl.verify.judgements import MethodCode, RelocationCode, SiteFlag, TextPart

JUMP_LEN = 5
#: A DCR may not reach so far behind the text.
MARGIN = 32
#: Methods with a DCR.
DISPLACING = (MethodCode.JUMP, MethodCode.JUMP_INT3, MethodCode.INT3)
JUMPS = (MethodCode.JUMP, MethodCode.JUMP_INT3)
#: Control does not come behind these.
ENDING = (RelocationCode.JMP, RelocationCode.END)
CALLS = (RelocationCode.CALL, RelocationCode.CALL_INDIRECT)

Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """One disagreement at one instruction. ``what`` was compared; ``kernel`` and ``decoder``
    are the two opinions; ``code`` are bytes of the text from ``address`` on."""

    decoder: str
    what: str
    address: int
    symbol: str
    code: bytes
    kernel: str
    oracle: str

    def __str__(self) -> str:
        return (
            f"{self.decoder}: {self.what} at {self.address:#x} {self.symbol}: the kernel has "
            f"{self.kernel}, not {self.oracle}; {self.code.hex(' ')}"
        )


def audit(parts: Sequence[TextPart], decoded: Sequence[Decoded]) -> list[Difference]:
    """All differences between the judgements and one decoder's view of the same texts, which
    are in the same order."""
    targets = np.unique(np.concatenate([each.targets for each in decoded]))
    found: list[Difference] = []
    for part, each in zip(parts, decoded, strict=True):
        found += _Audit(part, each, targets).run()
    return found


class _Audit:
    """One part against one decoder."""

    def __init__(self, part: TextPart, decoded: Decoded, targets: NDArray[np.uint64]) -> None:
        size = len(decoded.text.data)
        self._part = part
        self._decoded = decoded
        self._at = part.offset.astype(np.int64)
        #: The decoder's row by offset, -1 where it has no instruction.
        self._row = np.full(size + MARGIN, -1, np.int64)
        self._row[decoded.offset] = np.arange(len(decoded))
        self._rows = self._row[self._at]
        self._known = self._rows >= 0
        #: Where the record has a DCR of its own.
        self._here = self._known & (part.flags & SiteFlag.FTRACE == 0)
        inside = targets[(targets >= decoded.text.start) & (targets < decoded.text.end)]
        #: How many branch targets there are before each offset.
        hits = np.zeros(len(self._row) + 1, np.int64)
        hits[(inside - np.uint64(decoded.text.start)).astype(np.int64) + 1] = 1
        self._before = np.cumsum(hits)

    def run(self) -> Iterator[Difference]:
        """Everything."""
        yield from self._boundaries()
        yield from self._instructions()
        yield from self._behind_ftrace()
        yield from self._regions()
        yield from self._branches()

    def _boundaries(self) -> Iterator[Difference]:
        """Each record is at an instruction of the decoder's, and the other way round."""
        decoded = self._decoded
        single = np.frombuffer(decoded.text.data, np.uint8)[self._at] == INT3
        # Int3s were left out as padding; they may not be inside an instruction.
        previous = np.searchsorted(decoded.offset, self._at, "right") - 1
        ends = np.where(previous >= 0, decoded.offset[previous] + decoded.length[previous], 0)
        free = ~self._known & single & (ends <= self._at)
        for n in np.flatnonzero(~self._known & ~free):
            yield self._difference("boundary", n, "an instruction", "none there")
        judged = np.zeros(len(self._row), np.bool_)
        judged[self._at] = True
        for n in np.flatnonzero(~judged[decoded.offset]):
            at = int(decoded.offset[n])
            yield self._difference_at("boundary", at, "none", f"{int(decoded.length[n])} bytes")

    def _instructions(self) -> Iterator[Difference]:
        """Length, kind and displacement."""
        decoded, part, rows = self._decoded, self._part, self._rows
        displaced = np.isin(part.method, DISPLACING)
        yield from self._compare("length", self._known, part.length, decoded.length[rows])
        yield from self._compare(
            "relocation", self._known & displaced, part.relocation, decoded.kind[rows]
        )
        near = self._known & (decoded.kind[rows] != OTHER)
        yield from self._compare("displacement", near, part.disp, decoded.disp[rows])

    def _behind_ftrace(self) -> Iterator[Difference]:
        """A probe at an ftrace site, or at the endbr64 before it, is one behind it."""
        part = self._part
        moved = part.flags & SiteFlag.FTRACE > 0
        sites = np.flatnonzero(moved & self._known)
        for what in (part.dcr_len, part.nr_insns, part.traps):
            for n in sites[what[sites] != 0]:
                yield self._difference("ftrace", n, "a DCR", "none at an ftrace site")
        record = np.full(len(self._row), -1, np.int64)
        record[self._at] = np.arange(len(self._at))
        goal = sites
        for _ in range(2):
            following = record[self._at[goal] + part.length[goal]]
            goal = np.where((goal >= 0) & moved[goal], following, goal)
        judged = (goal >= 0) & (part.flags[goal] & SiteFlag.PADDING == 0)
        for n, there in zip(sites[judged], goal[judged], strict=True):
            mine, theirs = part.method[n], part.method[there]
            if mine != theirs:
                yield self._difference("ftrace", n, f"method {mine}", f"{theirs}, as behind it")

    def _regions(self) -> Iterator[Difference]:
        """What a jump, or an int3 that stays, displaces."""
        part, decoded = self._part, self._decoded
        single = self._here & (part.method == MethodCode.INT3)
        yield from self._compare("DCR bytes", single, part.dcr_len, decoded.length[self._rows])
        yield from self._compare("DCR instructions", single, part.nr_insns, np.ones_like(self._at))
        jumps = np.flatnonzero(self._here & np.isin(part.method, JUMPS))
        length, number, wrong = self._extents(jumps)
        for n in jumps[wrong]:
            yield self._difference("DCR", n, "a jump", "other code in the way")
        for what, mine, theirs in (
            ("DCR bytes", length, part.dcr_len[jumps]),
            ("DCR instructions", number, part.nr_insns[jumps]),
        ):
            for n in np.flatnonzero((mine != theirs) & ~wrong):
                yield self._difference(what, jumps[n], str(theirs[n]), str(mine[n]))

    def _extents(self, sites: Offsets) -> tuple[Offsets, Offsets, Mask]:
        """Bytes and instructions that a jump at each of these records displaces, and whether
        it can't: behind a call, and behind what does not go on, control comes in by another
        way, so there has to be an int3; or, in the second case, padding."""
        decoded, start = self._decoded, self._at[sites]
        text = np.frombuffer(decoded.text.data + bytes(MARGIN), np.uint8)
        traps = self._part.traps[sites].astype(np.int64)
        row = self._rows[sites]
        length = decoded.length[row]
        number = np.ones_like(length)
        wrong = np.zeros(len(sites), np.bool_)
        for _ in range(JUMP_LEN):
            short = (length < JUMP_LEN) & ~wrong
            at = start + length
            follows = self._row[at]
            trap = traps >> length & 1 > 0
            ended = np.isin(decoded.kind[row], ENDING)
            called = np.isin(decoded.kind[row], CALLS)
            padding = short & ended & ~trap
            nop = padding & (follows >= 0) & decoded.nop[follows]
            int3 = padding & (follows < 0) & (text[at] == INT3)
            wrong |= padding & ~nop & ~int3
            wrong |= short & ~padding & ((follows < 0) | (called & ~trap))
            length += int3
            length[nop] += decoded.length[follows[nop]]
            more = short & ~padding & ~wrong
            length[more] += decoded.length[follows[more]]
            number[more] += 1
            row[more] = follows[more]
        return length, number, wrong

    def _branches(self) -> Iterator[Difference]:
        """Nothing goes into the bytes that a jump covers."""
        part, at = self._part, self._at
        jump = self._here & (part.method == MethodCode.JUMP)
        last = at + part.dcr_len
        into = self._before[last] - self._before[at + 1] > 0
        for n in np.flatnonzero(jump & into):
            yield self._difference("branch", n, "a jump", "a branch into the DCR")
        caught = self._here & (part.method == MethodCode.JUMP_INT3)
        for k in range(1, JUMP_LEN):
            hit = self._before[at + k + 1] - self._before[at + k] > 0
            trap = part.traps >> k & 1 > 0
            for n in np.flatnonzero(caught & hit & ~trap & (k < part.dcr_len)):
                yield self._difference("branch", n, f"no int3 at +{k}", f"a branch to +{k}")
        beyond = self._before[last] - self._before[np.minimum(at + JUMP_LEN, last)] > 0
        for n in np.flatnonzero(caught & beyond):
            yield self._difference("branch", n, "a jump", "a branch behind its fifth byte")

    def _compare(
        self, what: str, where: Mask, kernel: NDArray[np.generic], oracle: NDArray[np.generic]
    ) -> Iterator[Difference]:
        for n in np.flatnonzero(where & (kernel != oracle)):
            yield self._difference(what, n, str(kernel[n]), str(oracle[n]))

    def _difference(self, what: str, record: np.int64, kernel: str, oracle: str) -> Difference:
        return self._difference_at(what, int(self._at[record]), kernel, oracle)

    def _difference_at(self, what: str, offset: int, kernel: str, oracle: str) -> Difference:
        text = self._decoded.text
        address = text.start + offset
        return Difference(
            decoder=self._decoded.decoder,
            what=what,
            address=address,
            symbol=text.describe(address),
            code=text.at(address, 16),
            kernel=kernel,
            oracle=oracle,
        )
