"""Where the probes of a benchmark stand: sites that both djprobes and mainline's optimiser
make jumps of, spread over all kernel text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyctl.errors import OracleError
from pyctl.transport import Transport

if TYPE_CHECKING:
    from pyctl.verify.judgements import Judgements

#: Bytes between two of them at least, so that none is in another's way.
APART = 64
SEED = 4


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
