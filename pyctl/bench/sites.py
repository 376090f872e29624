"""Where the probes of a benchmark stand: sites that both djprobes and mainline's optimiser
make jumps of, spread over all kernel text."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyctl.errors import OracleError
from pyctl.transport import Transport

if TYPE_CHECKING:
    from pyctl.verify.judgements import Judgements, TextPart

#: Bytes between two of them at least, so that none is in another's way.
APART = 64
SEED = 4
#: Of an ftrace site, in bytes.
FTRACE_LEN = 5


def choose_sites(
    transport: Transport, count: int, judgements: Judgements | None = None
) -> tuple[int, ...]:
    """``count`` insertion addresses in the core kernel. The same ones on the same kernel;
    fewer are the beginning of more. Without ``judgements`` it asks for a judgement of every
    instruction, which takes tens of seconds on an emulated guest."""
    # numpy comes with the extra `dev`; only this needs it
    from pyctl.verify.judgements import MethodCode, SiteFlag, read_judgements  # noqa: PLC0415

    kernel = (judgements or read_judgements(transport)).parts[0]
    moved = SiteFlag.PADDING | SiteFlag.FTRACE
    both = (
        (kernel.method == MethodCode.JUMP)
        & ((kernel.flags & SiteFlag.PEER_OPTPROBE) != 0)
        & ((kernel.flags & moved) == 0)
    )
    found = spread(kernel.address[both].tolist(), count)
    if len(found) < count:
        raise OracleError(
            f"{transport.host}: only {len(found)} sites take both a djprobe's jump and an "
            f"optimised kprobe's, {count} were wanted"
        )
    return found


def entry_sites(judgements: Judgements) -> tuple[int, ...]:
    """The ftrace sites of all functions at whose entry a probe of ours can stand, a jump or an
    int3 (where only a kprobe can it is the kernel's, registered one by one), in the kernel and in
    all modules but djprobes itself, in random order, the same one each time: first those that
    take a plain jump."""
    import numpy as np  # noqa: PLC0415

    from pyctl.verify.judgements import MethodCode, SiteFlag  # noqa: PLC0415

    jumps: list[int] = []
    others: list[int] = []
    for part in judgements.parts:
        entry = (part.flags & SiteFlag.FTRACE) != 0
        jump = part.method == MethodCode.JUMP
        other = np.isin(part.method, (MethodCode.JUMP_INT3, MethodCode.INT3))
        jumps += part.address[entry & jump].tolist()
        others += part.address[entry & other].tolist()
    shuffle = random.Random(SEED).shuffle
    shuffle(jumps)
    shuffle(others)
    return (*jumps, *others)


@dataclass(frozen=True)
class Entries:
    """Where probes at functions' entries stand; those of ``traced`` stand behind an ftrace
    site."""

    addresses: tuple[int, ...]
    traced: frozenset[int]


def function_sites(judgements: Judgements, symbols: Collection[int]) -> Entries:
    """The insertion addresses of all functions at whose entry a probe of ours can stand, as in
    :func:`entry_sites`, those without an ftrace site too: ``symbols`` are the addresses of all
    text symbols. In random order, the same one each time; none is in another's way."""
    addresses: list[int] = []
    traced: set[int] = set()
    for part in judgements.parts:
        found = _entries_of(part, symbols)
        addresses += found.addresses
        traced |= found.traced
    random.Random(SEED).shuffle(addresses)
    return Entries(tuple(addresses), frozenset(traced))


def _entries_of(part: TextPart, symbols: Collection[int]) -> Entries:
    import numpy as np  # noqa: PLC0415

    from pyctl.verify.judgements import MethodCode, SiteFlag  # noqa: PLC0415

    ftrace = (part.flags & SiteFlag.FTRACE) != 0
    # Such a site can begin with an endbr64, behind which so many bytes there is no instruction.
    behind = np.isin(part.address, part.address[ftrace] + np.uint64(FTRACE_LEN))
    first = np.isin(part.address, np.fromiter(symbols, np.uint64, len(symbols))) & ~ftrace
    can = np.isin(part.method, (MethodCode.JUMP, MethodCode.JUMP_INT3, MethodCode.INT3))
    chosen = (behind | first) & can & ((part.flags & SiteFlag.PADDING) == 0)
    lengths = np.maximum(part.length, part.dcr_len)[chosen].tolist()
    apart = _apart(part.address[chosen].tolist(), lengths)
    return Entries(apart, frozenset(apart) & frozenset(part.address[behind].tolist()))


def _apart(addresses: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...]:
    """Those, of ascending ones, that are not in the bytes of one before."""
    kept: list[int] = []
    end = 0
    for address, length in zip(addresses, lengths, strict=True):
        if address >= end:
            kept.append(address)
            end = address + length
    return tuple(kept)


def spread(addresses: Sequence[int], count: int) -> tuple[int, ...]:
    """Up to ``count`` of them in random order, no two in neighbouring bytes."""
    shuffled = list(addresses)
    random.Random(SEED).shuffle(shuffled)
    taken: set[int] = set()
    chosen: list[int] = []
    for address in shuffled:
        slot = address // APART
        if len(chosen) == count:
            break
        if not taken & {slot - 1, slot, slot + 1}:
            taken.add(slot)
            chosen.append(address)
    return tuple(chosen)
