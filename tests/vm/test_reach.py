"""Detours are where all that their instructions refer to is in reach."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pyctl import Guest, Probes
from pyctl.verify.judgements import (
    Judgements,
    MethodCode,
    RelocationCode,
    SiteFlag,
    TextPart,
    read_judgements,
)

pytestmark = pytest.mark.vm

#: Bytes between two sites: one in another's bytes would get another method.
APART = 64
#: Byte 4 of the jump is an int3: its detour is 0x33...... bytes below the site.
FOURTH = 1 << 4
FOURTH_BELOW = 0x33000000
#: From below here a rel32 does not reach the per-CPU area, which begins at 0.
PER_CPU_REACH = (1 << 64) - (1 << 31)
LOW, PLAIN = 8, 200


@pytest.fixture(scope="module")
def kernel(guest: Guest) -> TextPart:
    """This guest's judgements: where there can be a detour depends on where its text is."""
    judged: Judgements = read_judgements(guest.transport)
    return judged.parts[0]


def apart(addresses: NDArray[np.uint64], count: int) -> list[int]:
    """Up to ``count`` of them, none in another's bytes."""
    chosen: list[int] = []
    for address in addresses.tolist():
        if len(chosen) < count and (not chosen or address - chosen[-1] >= APART):
            chosen.append(address)
    return chosen


def per_cpu(kernel: TextPart) -> NDArray[np.bool_]:
    """Sites whose instruction has a RIP-relative operand in the per-CPU area."""
    behind = kernel.address + kernel.length
    operand = behind.astype(np.int64) + kernel.disp
    real = (kernel.flags & (SiteFlag.PADDING | SiteFlag.FTRACE)) == 0
    found: NDArray[np.bool_] = (
        (kernel.relocation == RelocationCode.RIP) & real & (operand >= 0) & (operand < 1 << 24)
    )
    return found


def test_plain_jumps_reach_their_operands_beside_detours_far_below(
    watched: Guest, probes: Probes, kernel: TextPart
) -> None:
    """Memory far below the text that has room is not for those that refer to per-CPU data."""
    low = (
        (kernel.method == MethodCode.JUMP_INT3)
        & ((kernel.traps & FOURTH) != 0)
        & (kernel.address < np.uint64(PER_CPU_REACH + FOURTH_BELOW))
    )
    far = apart(kernel.address[low], LOW)
    if not far:
        pytest.skip(f"text at {kernel.start:#x}: no detour of it can be out of reach")
    probes.add_many([f"{address:#x}" for address in far])
    detours = [row.detour.address for row in probes.list() if row.detour]
    assert len(detours) == len(far)
    assert max(detours) < PER_CPU_REACH

    jumps = per_cpu(kernel) & (kernel.method == MethodCode.JUMP)
    plain = [a for a in apart(kernel.address[jumps], PLAIN) if a not in far]
    assert len(plain) > LOW
    probes.add_many([f"{address:#x}" for address in plain])
    methods = {row.address: row.method for row in probes.list()}
    assert {methods[address] for address in plain} == {MethodCode.JUMP.word}
