"""A random sample of instructions all over the kernel, probed at once under load."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter

import pytest

from pyctl import Guest, Reason
from pyctl.verify.jumps import commit_all

pytestmark = pytest.mark.vm

log = logging.getLogger(__name__)

#: Random addresses; about a sixth is the start of an instruction that takes a jump.
ADDRESSES = 6000

#: Asks about many addresses in one process of the guest: argv is a seed and how many.
ASK = """
import json, random, sys
seed, count = map(int, sys.argv[1:])
symbols = {}
with open("/proc/kallsyms") as lines:
    for line in lines:
        address, _, name = line.split()[:3]
        if name in ("_stext", "_etext"):
            symbols[name] = int(address, 16)
draw = random.Random(seed)
found = []
with open("/sys/kernel/debug/djprobes/explain", "r+b", 0) as explain:
    for _ in range(count):
        address = draw.randrange(symbols["_stext"], symbols["_etext"])
        explain.write(hex(address).encode())
        explain.seek(0)
        answer = dict(line.split(": ", 1) for line in explain.read(4096).decode().splitlines())
        found.append((answer["address"], answer["reason"], answer["relocations"]))
print(json.dumps(found))
"""


def test_a_random_sample_lives_under_load(watched: Guest) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    log.info("seed %d", seed)
    asked = watched.transport.run(["python3", "-c", ASK, str(seed), str(ADDRESSES)], timeout=120)
    answers = [tuple(answer) for answer in json.loads(asked.stdout)]
    reasons = Counter(reason for _, reason, _ in answers)
    kinds = Counter(
        word.partition(":")[2] for _, _, relocations in answers for word in relocations.split()
    )
    judged = sum(reasons.values()) - reasons[Reason.NOT_BOUNDARY] - reasons[Reason.INSN_TRAP]
    log.info("%d of %d take a jump; %s; %s", reasons[Reason.OK], judged, reasons, kinds)
    assert reasons[Reason.OK] > ADDRESSES / 10
    # The sample is worth something only if it has each common kind of relocation in it.
    assert min(kinds[kind] for kind in ("rip", "jcc", "jmp", "call")) >= 10

    chosen = sorted({address for address, reason, _ in answers if reason == Reason.OK})
    with (
        watched.kernel_text() as text,
        watched.workload("busy").background(),
        watched.probes() as probes,
    ):
        text.save()
        kept: list[str] = []
        last = 0
        for address in chosen:  # two in each other's bytes would refuse the batch
            if int(address, 16) - last > 32:
                kept.append(address)
                last = int(address, 16)
        added = probes.add_many(kept)
        commit_all(probes, [probe.name for probe in added])
        for name in ("fileio", "fork", "signals", "timers", "yield", "network"):
            watched.workload(name).run(operations=100)
        stats = probes.stats()
        assert stats.sites == len(kept)
        assert stats.sites_jump == len(kept), stats
        hits = sum(probes.hits().values())
        log.info("%d probes, %d hits", len(kept), hits)
        assert hits > 0
        probes.remove_all()
        text.diff().check()
