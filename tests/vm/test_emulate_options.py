"""Rule 1 for detours of probes with options, and what they count: hundreds of sites for each
kind, live detours of a running kernel, in an emulator."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from iced_x86 import Mnemonic

from pyctl import Guest, Probes, Reason
from pyctl.errors import RefusedError
from pyctl.options import REGISTERS, TYPES, Condition, Field, Operator, Options
from pyctl.verify.emulate import STATUS, Site, Verdict, emulate, prologue
from pyctl.verify.emulate_actions import InC
from pyctl.verify.emulate_handlers import read_entries
from pyctl.verify.emulate_options import Optioned
from pyctl.verify.emulate_tasks import ByTask
from pyctl.verify.judgements import MethodCode, SiteFlag, TextPart
from pyctl.verify.jumps import commit_all
from pyctl.verify.liveness import ALL, Flag, Kernel
from pyctl.verify.livesites import LiveSite, read_sites

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

log = logging.getLogger(__name__)

METHODS = (MethodCode.JUMP, MethodCode.JUMP_INT3, MethodCode.INT3)
APART = 32
#: Sites for each kind, by the flags that are live there.
LIVE: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "none": (lambda live: live == 0, 60),
    "carry": (lambda live: live == Flag.CF, 40),
    "zero": (lambda live: live == Flag.ZF, 40),
    "some": (lambda live: (live != 0) & (live != ALL), 20),
    "all": (lambda live: live == ALL, 20),
}
PER_KIND = sum(count for _, count in LIVE.values())
#: A value that no register has by chance: a live probe that waits for it is not spent.
RARE = 0x6B8B4567327B23C6
NOT_EMULATED = 0.03
OUT_OF_REACH = 10
NOP = 0x90


def field(draw: random.Random, types: tuple[str, ...] = TYPES, *, sp: bool = False) -> Field:
    names = [name for name in REGISTERS if (name == "sp") == sp]
    return Field(draw.choice(names), None, draw.choice(types))


def condition(draw: random.Random, of: Field | None = None) -> Condition:
    of = of or field(draw)
    value = draw.choice((draw.randrange(100), draw.getrandbits(64) % len_of(of) + of.values[0]))
    return Condition(of, draw.choice(list(Operator)), min(value, of.values[-1]))


def len_of(of: Field) -> int:
    return 1 << 8 * of.size


UNSIGNED = tuple(name for name in TYPES if name[0] == "u")
MEMORY = Field("bx", -16, "u16")

#: Kinds of options that detours look at themselves.
INLINE: Mapping[str, Callable[[random.Random], Options]] = {
    "count": lambda draw: Options(by=draw.choice((None, "cpu"))),
    "if": lambda draw: Options(condition(draw)),
    "sample": lambda draw: Options(sample=draw.choice((2, 3, 5, 7, 16))),
    "hist": lambda draw: Options(hist=field(draw, UNSIGNED)),
    "once": lambda draw: Options(Condition(Field("r9"), Operator.EQUAL, RARE), once=True),
    "soft": lambda _draw: Options(soft=True),
    "all": lambda draw: Options(condition(draw), draw.choice((2, 3)), field(draw, UNSIGNED),
                                soft=True),
}  # fmt: skip
#: And kinds for which they call C code.
IN_C: Mapping[str, Callable[[random.Random], Options]] = {
    "memory": lambda draw: Options(condition(draw, MEMORY)),
    "hist of memory": lambda _draw: Options(hist=MEMORY),
}
#: And the one for which they call it with nothing but a map.
BY_TASK: Mapping[str, Callable[[random.Random], Options]] = {
    "task": lambda draw: Options(draw.choice((None, condition(draw))), draw.choice((None, 3)),
                                 by=draw.choice(("pid", "comm"))),
}  # fmt: skip
#: Runs of each: those that keep something need more of them.
STATES = {"count": 3, "if": 8, "hist": 4, "sample": 20, "once": 8, "soft": 6, "all": 20}
C_STATES = 3
TASK_STATES = 10


def choose(part: TextPart, kernel: Kernel, draw: random.Random, kinds: int) -> Iterator[int]:
    """Addresses: enough of each class of flags for so many kinds, one kind after the other."""
    own = part.flags & (SiteFlag.FTRACE | SiteFlag.PADDING) == 0
    can = np.flatnonzero(own & np.isin(part.method, METHODS))
    live = kernel.liveness.at(part.address[can])
    taken: set[int] = set()
    found: dict[str, list[int]] = {}
    for name, (is_so, count) in LIVE.items():
        numbers = can[is_so(live)].tolist()
        draw.shuffle(numbers)
        found[name] = []
        for number in numbers:
            page = int(part.offset[number]) // APART
            if len(found[name]) == count * kinds:
                break
            if taken.isdisjoint({page - 1, page, page + 1}):
                taken.add(page)
                found[name].append(part.start + int(part.offset[number]))
    for kind in range(kinds):
        for name, (_, count) in LIVE.items():
            yield from found[name][kind * count : (kind + 1) * count]


def add(probes: Probes, asked: dict[str, Options]) -> dict[str, str]:
    """Probe them in one batch: names by target. A few may be out of reach of what detour memory
    there is now; they are left out."""
    left = dict(asked)
    while True:
        try:
            made = probes.add_many(left, options=list(left.values()))
        except RefusedError as error:
            enough = len(left) > len(asked) - OUT_OF_REACH
            if error.reason != Reason.OUT_OF_RANGE or error.line is None or not enough:
                raise
            del left[list(left)[error.line - 1]]
        else:
            return {target: each.name for target, each in zip(left, made, strict=True)}


def probe(guest: Guest, kernel: Kernel, seed: int) -> dict[str, list[tuple[LiveSite, Options]]]:
    """Probe them all, read how they stand there, and take the probes out again."""
    draw = random.Random(seed)
    kinds = {**INLINE, **IN_C, **BY_TASK}
    addresses = list(choose(kernel.judgements.parts[0], kernel, draw, len(kinds)))
    assert len(addresses) == PER_KIND * len(kinds)
    names = [name for name in kinds for _ in range(PER_KIND)]
    options = [kinds[name](draw) for name in names]
    asked = {hex(address): each for address, each in zip(addresses, options, strict=True)}
    kind_of = dict(zip(asked, names, strict=True))
    with guest.probes() as probes:
        added = add(probes, asked)
        commit_all(probes, list(added.values()))
        try:
            live = read_sites(
                guest.transport,
                added,
                kernel.texts,
                dead=kernel.liveness.dead,
                calm=kernel.calm.at,
            )
        finally:
            probes.remove_all()
    found: dict[str, list[tuple[LiveSite, Options]]] = {name: [] for name in kinds}
    for target, site in zip(added, live, strict=True):
        found[kind_of[target]].append((site, asked[target]))
    return found


@pytest.fixture(scope="module")
def seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    log.info("seed %d", seed)
    return seed


@pytest.fixture(scope="module")
def sites(guest: Guest, kernel: Kernel, seed: int) -> dict[str, list[tuple[LiveSite, Options]]]:
    quiet = guest.kernel_log()
    found = probe(guest, kernel, seed)
    quiet.check()
    return found


def saves(live: LiveSite) -> bool:
    return any(insn.mnemonic == Mnemonic.PUSHFQ for insn in prologue(live.site))


def restores(live: LiveSite) -> bool:
    return any(insn.mnemonic == Mnemonic.POPFQ for insn in prologue(live.site))


def report(kind: str, counts: Counter[str], wrong: list[tuple[Verdict, Options]]) -> None:
    log.info("%s: %s", kind, dict(counts))
    shown = [
        f"{each.site.address:#x} {options}: {'; '.join(each.differences)}\n  {each.site}"
        for each, options in wrong
    ]
    assert not wrong, f"{kind}: {len(wrong)} differ\n" + "\n".join(shown[:10])
    assert counts["not emulated"] <= NOT_EMULATED * PER_KIND
    assert counts["emulated"] + counts["not emulated"] >= PER_KIND - OUT_OF_REACH


@pytest.mark.parametrize("kind", INLINE)
def test_the_detour_does_it_all_itself(
    sites: dict[str, list[tuple[LiveSite, Options]]], kind: str, seed: int
) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    start = time.monotonic()
    for live, options in sites[kind]:
        action = Optioned(live.site, options)
        verdict = emulate(
            live.site, seed=seed ^ live.site.address, states=STATES[kind], action=action
        )
        if verdict.not_emulated is not None:
            counts["not emulated"] += 1
            continue
        counts["emulated"] += 1
        counts["runs"] += verdict.runs
        counts["arrivals"] += action.arrivals
        counts["hits"] += action.hits
        counts["saved" if saves(live) else "not saved"] += 1
        if not verdict.same:
            wrong.append((verdict, options))
    counts["seconds"] = int(time.monotonic() - start)
    report(kind, counts, wrong)
    assert counts["saved"] > PER_KIND / 5
    assert counts["not saved"] > PER_KIND / 5
    if kind in {"count", "hist"}:
        assert counts["hits"] == counts["arrivals"]
    else:
        low, high = (0.03, 0.5) if kind == "all" else (0.05, 0.8)
        assert low < counts["hits"] / counts["arrivals"] < high, counts


def test_a_count_lets_the_carry_live(sites: dict[str, list[tuple[LiveSite, Options]]]) -> None:
    """Where nothing but CF is live a count saves nothing, a comparison does."""
    shares = {}
    for kind in ("count", "if"):
        carry = [live for live, _ in sites[kind] if live.site.dead and not live.site.dead & 1]
        only = [live for live in carry if live.site.dead == 0x8D4]
        shares[kind] = sum(map(saves, only)) / len(only)
    assert shares["count"] < 0.5
    assert shares["if"] == 1.0


@pytest.mark.parametrize("kind", IN_C)
def test_the_detour_hands_over_the_state(
    guest: Guest, sites: dict[str, list[tuple[LiveSite, Options]]], kind: str, seed: int
) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    entries = read_entries(guest.transport)
    for live, options in sites[kind]:
        action = InC(live.site, entries)
        verdict = emulate(live.site, seed=seed ^ live.site.address, states=C_STATES, action=action)
        if verdict.not_emulated is not None:
            counts["not emulated"] += 1
            continue
        counts["emulated"] += 1
        counts["restored" if restores(live) else "not restored"] += 1
        assert saves(live), "for C code to see"
        assert restores(live) or (live.site.calm and live.site.dead == STATUS)
        if not verdict.same:
            wrong.append((verdict, options))
    report(kind, counts, wrong)
    assert counts["restored"] > PER_KIND / 5
    assert counts["not restored"] > PER_KIND / 10


def test_the_detour_calls_for_the_task(
    guest: Guest, sites: dict[str, list[tuple[LiveSite, Options]]], seed: int
) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    entries = read_entries(guest.transport)
    for live, options in sites["task"]:
        action = ByTask(live.site, options, entries)
        verdict = emulate(
            live.site, seed=seed ^ live.site.address, states=TASK_STATES, action=action
        )
        if verdict.not_emulated is not None:
            counts["not emulated"] += 1
            continue
        counts["emulated"] += 1
        counts["arrivals"] += action.arrivals
        counts["hits"] += action.hits
        counts["saved" if saves(live) else "not saved"] += 1
        assert saves(live) or (live.site.calm and live.site.dead == STATUS)
        if not verdict.same:
            wrong.append((verdict, options))
    report("task", counts, wrong)
    assert counts["saved"] > PER_KIND / 5
    assert counts["not saved"] > PER_KIND / 10
    assert 0.05 < counts["hits"] / counts["arrivals"] < 0.95, counts


def unsaved(live: LiveSite) -> Site:
    """The same site, with nops in its detour for what saves and restores the flags."""
    site = live.site
    code = bytearray(site.code)
    for insn in prologue(site):
        if insn.mnemonic in {Mnemonic.PUSHFQ, Mnemonic.POPFQ}:
            code[insn.ip - site.detour] = NOP
    return replace(site, code=bytes(code))


@pytest.mark.parametrize("kind", ["if", "sample"])
def test_a_missing_pushf_would_be_seen(
    sites: dict[str, list[tuple[LiveSite, Options]]], kind: str, seed: int
) -> None:
    """Where the oracle knows a live flag. Else the tests above would prove nothing."""
    counts: Counter[str] = Counter()
    for live, options in sites[kind]:
        if not saves(live) or live.site.dead == STATUS:
            continue
        site = unsaved(live)
        verdict = emulate(site, seed=seed, states=20, action=Optioned(site, options))
        if verdict.not_emulated is None:
            counts["seen" if verdict.differences else "not seen"] += 1
    log.info("%s: %s", kind, dict(counts))
    assert counts["seen"] > 50
    assert counts["seen"] > 0.9 * counts.total()
