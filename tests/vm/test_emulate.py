"""Rule 1 for thousands of sites of a running kernel: the live detour and the original code,
in an emulator, from the same random states."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from iced_x86 import Mnemonic

from pyctl import Guest
from pyctl.explanation import Flags
from pyctl.methods import Method
from pyctl.verify.decoders import decode_iced
from pyctl.verify.emulate import STATUS, Verdict, emulate, prologue
from pyctl.verify.judgements import (
    MethodCode,
    RelocationCode,
    SiteFlag,
    TextPart,
    read_judgements,
)
from pyctl.verify.jumps import commit_all
from pyctl.verify.liveness import Kernel
from pyctl.verify.livesites import LiveSite, read_sites
from pyctl.verify.livetext import Text, read_text

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900), pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)

#: Sites of the core kernel, by method; those of a jump with as many as there are of each kind
#: of instruction among them, up to KIND.
SAMPLE = {MethodCode.JUMP: 2400, MethodCode.JUMP_INT3: 500, MethodCode.INT3: 400}
KIND = 100
PUSHFQ = Mnemonic.PUSHFQ
#: In rflags.
CARRY = 1
#: Two sites so far apart are not in each other's way.
APART = 32
#: What unicorn does not have, or what has another result each time, at most so much of it.
NOT_EMULATED = 0.02


@dataclass(frozen=True, eq=False)
class Module:
    """The test module: where its instructions are, and its text before a probe is in it."""

    part: TextPart
    text: Text


@pytest.fixture(scope="module")
def module(guest: Guest, targets: None) -> Module:
    judgements = read_judgements(guest.transport)
    symbol = guest.transport.run(["grep", "-w", "djp_test_plain", "/proc/kallsyms"]).text
    address = int(symbol.split()[0], 16)
    (part,) = (it for it in judgements.parts if it.start <= address < it.start + it.size)
    (text,) = read_text(guest.transport, [(part.start, part.size)])
    return Module(part, text)


def displacing(part: TextPart) -> np.ndarray:
    """The records of sites that have a DCR."""
    here = part.flags & (SiteFlag.FTRACE | SiteFlag.PADDING) == 0
    return np.flatnonzero(here & np.isin(part.method, list(SAMPLE)))


def choose(part: TextPart, draw: random.Random) -> Iterator[int]:
    """Addresses for the sample, not too near to each other."""
    numbers = displacing(part).tolist()
    draw.shuffle(numbers)
    wanted: Counter[tuple[MethodCode, RelocationCode | None]] = Counter()
    for method, count in SAMPLE.items():
        wanted[method, None] = count
        wanted.update({(method, kind): KIND for kind in RelocationCode})
    taken: set[int] = set()
    for number in numbers:
        offset, method = int(part.offset[number]), MethodCode(part.method[number])
        kind = RelocationCode(part.relocation[number])
        key = (method, kind) if wanted[method, kind] else (method, None)
        page = offset // APART
        if wanted[key] and taken.isdisjoint({page - 1, page, page + 1}):
            wanted[key] -= 1
            taken.add(page)
            yield part.start + offset


def in_rounds(addresses: Iterable[int]) -> list[list[int]]:
    """The same addresses in as few lists as it takes to have them apart in each."""
    rounds: list[list[int]] = []
    for address in sorted(addresses):
        for known in rounds:
            if address - known[-1] >= APART:
                known.append(address)
                break
        else:
            rounds.append([address])
    return rounds


def probe(
    guest: Guest,
    addresses: list[int],
    originals: Sequence[Text],
    dead: Callable[[int], int] = lambda _address: 0,
) -> list[LiveSite]:
    """Probe them all, read how they stand there, and take the probes out again."""
    targets = [hex(address) for address in addresses]
    with guest.probes() as probes:
        added = probes.add_many(targets)
        commit_all(probes, [each.name for each in added])
        try:
            return read_sites(guest.transport, targets, originals, dead=dead)
        finally:
            probes.remove_all()


def check_patch(live: LiveSite) -> None:
    """What the kernel says of the site is what stands there."""
    site, said = live.site, live.explanation
    assert said.dcr == site.original, said
    assert said.detour is not None
    assert said.detour.code == site.code, said
    assert said.method in {Method.JUMP, Method.JUMP_INT3, Method.INT3}, said
    assert bool(said.traps) == (said.method is Method.JUMP_INT3), said
    assert site.live.hex(" ") == said.text, said
    assert set(site.live[site.patch_len :]) <= {0x90}, "the rest of the region"
    if said.method is Method.INT3:
        assert site.live[0] == 0xCC, said
    else:
        rel = int.from_bytes(site.live[1:5], "little", signed=True)
        assert site.live[0] == 0xE9, said
        assert site.address + 5 + rel == site.detour, said


def run(sites: list[LiveSite], seed: int) -> Mapping[str, int]:
    """Emulate each; how many there are of each outcome and method, and how many with an
    instruction of each kind."""
    counts: Counter[str] = Counter()
    wrong: list[Verdict] = []
    start = time.monotonic()
    for live in sites:
        check_patch(live)
        verdict = emulate(live.site, seed=seed ^ live.site.address)
        if verdict.not_emulated is not None:
            counts["not emulated"] += 1
            counts[f"not emulated: {verdict.not_emulated}"] += 1
            continue
        counts["emulated"] += 1
        counts["runs"] += verdict.runs
        counts[str(live.explanation.method)] += 1
        counts["flags saved" if prologue(live.site)[0].mnemonic == PUSHFQ else "not saved"] += 1
        kinds = decode_iced(Text(live.site.address, live.site.original, ())).kind
        counts.update({RelocationCode(kind).name for kind in kinds.tolist()})
        if not verdict.same:
            wrong.append(verdict)
    log.info("seed %d, %.0f s: %s", seed, time.monotonic() - start, dict(counts))
    shown = [
        f"{each.site.address:#x}: {'; '.join(each.differences)}\n  {each.site}" for each in wrong
    ]
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(shown[:20])
    return counts


def test_a_large_sample_of_the_kernel(watched: Guest, kernel: Kernel) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    log.info("seed %d", seed)
    chosen = list(choose(kernel.judgements.parts[0], random.Random(seed)))
    counts = run(probe(watched, chosen, kernel.texts, kernel.liveness.dead), seed)
    assert counts["not emulated"] <= NOT_EMULATED * len(chosen)
    assert counts["jump"] > 2000
    assert counts["jump+int3"] > 300
    assert counts["int3"] > 200
    assert counts["flags saved"] > 200
    assert counts["not saved"] > 1000
    few = {RelocationCode.LOOP, RelocationCode.CALL_INDIRECT}  # a stock kernel has retpolines
    assert all(counts[kind.name] > KIND / 2 for kind in set(RelocationCode) - few), counts


def claimed_dead(live: LiveSite) -> LiveSite:
    """With the flags that the kernel module says nobody reads. That this is so is shown
    elsewhere, for all of the kernel."""
    flags = live.explanation.flags
    assert isinstance(flags, Flags), live.explanation
    dead = {Flags.DEAD: STATUS, Flags.CARRY: STATUS & ~CARRY, Flags.LIVE: 0}[flags]
    return replace(live, site=replace(live.site, dead=dead))


def test_each_instruction_of_the_test_module(watched: Guest, module: Module) -> None:
    """It has every kind of relocation."""
    counts: Counter[str] = Counter()
    seed = random.SystemRandom().randrange(1 << 32)
    for addresses in in_rounds(module.part.address[displacing(module.part)].tolist()):
        sites = probe(watched, addresses, [module.text])
        counts.update(run([claimed_dead(live) for live in sites], seed))
    assert all(counts[kind.name] > 0 for kind in RelocationCode), counts
    assert counts["not emulated"] == 0
