"""A random sample of instructions all over the kernel, probed at once under load."""

from __future__ import annotations

import logging
import random
from collections import Counter

import numpy as np
import pytest

from pyctl import Guest
from pyctl.methods import Method
from pyctl.verify.judgements import Judgements, MethodCode, RelocationCode, SiteFlag
from pyctl.verify.jumps import commit_all

pytestmark = pytest.mark.vm

log = logging.getLogger(__name__)

#: How many sites of each method are live at once.
SAMPLE = {MethodCode.JUMP: 3000, MethodCode.JUMP_INT3: 700, MethodCode.INT3: 150}
#: Bytes between two of them: one in another's bytes would get another method.
APART = 40
LOADS = ("fileio", "fork", "signals", "timers", "yield", "network")


def sample(judgements: Judgements, seed: int) -> dict[int, MethodCode]:
    """Addresses in the core kernel, and what the census says of each."""
    kernel = judgements.parts[0]
    draw = random.Random(seed)
    chosen: dict[int, MethodCode] = {}
    taken: set[int] = set()
    plain = (kernel.flags & (SiteFlag.PADDING | SiteFlag.FTRACE)) == 0
    for method, wanted in SAMPLE.items():
        offsets = kernel.offset[plain & (kernel.method == method)].tolist()
        draw.shuffle(offsets)
        found = 0
        for offset in offsets:
            slots = {(offset + d) // APART for d in (-APART, 0, APART)}
            if found == wanted:
                break
            if slots & taken:
                continue
            taken.add(offset // APART)
            chosen[kernel.start + offset] = method
            found += 1
        assert found == wanted, f"only {found} sites of {method.word} were found"
    return chosen


def test_a_random_sample_lives_under_load(watched: Guest, judgements: Judgements) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chosen = sample(judgements, seed)
    kernel = judgements.parts[0]
    offsets = [address - kernel.start for address in chosen]
    kinds = Counter(kernel.relocation[np.isin(kernel.offset, offsets)].tolist())
    log.info("seed %d; %s", seed, {RelocationCode(k).name: n for k, n in kinds.items()})
    # The sample is worth something only if it has each common kind of relocation in it.
    common = ("COPY", "RIP", "JCC", "JMP", "CALL", "END")
    assert min(kinds[RelocationCode[kind]] for kind in common) >= 10

    with (
        watched.kernel_text() as text,
        watched.workload("busy").background(),
        watched.probes() as probes,
    ):
        text.save()
        added = probes.add_many([f"{address:#x}" for address in sorted(chosen)])
        methods = {row.address: row.method for row in probes.list()}
        assert methods == {address: method.word for address, method in chosen.items()}
        jumps = [row.name for row in probes.list() if row.method != Method.INT3]
        commit_all(probes, jumps)
        for name in LOADS:
            watched.workload(name).run(operations=100)
        stats = probes.stats()
        assert stats.sites == len(added) == sum(SAMPLE.values())
        assert stats.sites_jump == SAMPLE[MethodCode.JUMP] + SAMPLE[MethodCode.JUMP_INT3], stats
        assert stats.sites_int3 == SAMPLE[MethodCode.INT3]
        hits = {row.address: row.hits for row in probes.list()}
        fired = Counter(chosen[address].word for address, number in hits.items() if number)
        log.info("%d probes, %d hits; %s of them fired", len(added), sum(hits.values()), fired)
        assert min(fired[method.word] for method in SAMPLE) > 0
        log.info("%d bytes of detours", stats.detour_bytes_live)
        probes.remove_all()
        text.diff().check()
