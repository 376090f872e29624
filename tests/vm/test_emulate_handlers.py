"""Rule 1 for detours of probes with a handler: hundreds of sites, live detours of a running
kernel and the module's own code between them and the handler, in an emulator."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from iced_x86 import Instruction, Mnemonic

from pyctl import Guest
from pyctl.verify.calm import Calm
from pyctl.verify.emulate import STATUS, Site, Verdict, emulate, prologue
from pyctl.verify.emulate_handlers import (
    Entries,
    Handed,
    Handled,
    call_of,
    read_entries,
    read_handed,
)
from pyctl.verify.judgements import MethodCode, SiteFlag, TextPart
from pyctl.verify.jumps import commit_all
from pyctl.verify.liveness import ALL, Flag, Kernel
from pyctl.verify.livesites import read_sites
from pyctl.verify.testmodules import ManyHandlers

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

log = logging.getLogger(__name__)

METHODS = (MethodCode.JUMP, MethodCode.JUMP_INT3, MethodCode.INT3)
APART = 32
#: Sites of each class of live flags, calm ones and as many others.
LIVE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda live: live == 0,
    "carry": lambda live: live == Flag.CF,
    "some": lambda live: (live != 0) & (live != Flag.CF) & (live != ALL),
    "all": lambda live: live == ALL,
}
EACH = 40
STATES = 4
#: States for a fault that does not show in all.
MANY = 12
NOT_EMULATED = 0.03
NOP = 0x90
READERS = ("djp_reader_entry", "djp_reader_entry_calm")
CALM = {
    "djp_handler_entry": "djp_handler_entry_calm",
    "djp_reader_entry": "djp_reader_entry_calm",
}


@dataclass(frozen=True)
class Handler:
    """A site with a handler, and whether that one only reads."""

    site: Site
    handed: Handed
    reads: bool

    def entry(self, entries: Entries) -> str:
        """What its detour calls."""
        call = call_of(self.site)
        assert call is not None
        return entries.names[call.near_branch_target]

    @property
    def restores(self) -> bool:
        return any(insn.mnemonic == Mnemonic.POPFQ for insn in prologue(self.site))


@dataclass(frozen=True)
class Found:
    handlers: list[Handler]
    entries: Entries


def choose(part: TextPart, kernel: Kernel, draw: random.Random) -> Iterator[int]:
    """Addresses: as many of each class of flags, calm and not."""
    own = part.flags & (SiteFlag.FTRACE | SiteFlag.PADDING) == 0
    can = np.flatnonzero(own & np.isin(part.method, METHODS))
    live = kernel.liveness.at(part.address[can])
    taken: set[int] = set()
    for is_so in LIVE.values():
        numbers = can[is_so(live)].tolist()
        draw.shuffle(numbers)
        left = {True: EACH, False: EACH}
        for number in numbers:
            offset = int(part.offset[number])
            page = offset // APART
            calm = kernel.calm.at(part.start + offset)
            if left[calm] and taken.isdisjoint({page - 1, page, page + 1}):
                taken.add(page)
                left[calm] -= 1
                yield part.start + offset
            if not any(left.values()):
                break


@pytest.fixture(scope="module")
def seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    log.info("seed %d", seed)
    return seed


@pytest.fixture(scope="module")
def found(guest: Guest, kernel: Kernel, seed: int) -> Found:
    """Probe them all, read how they stand there, and take the probes out again."""
    quiet = guest.kernel_log()
    draw = random.Random(seed)
    addresses = list(choose(kernel.judgements.parts[0], kernel, draw))
    reads = set(draw.sample(addresses, len(addresses) // 2))
    many = ManyHandlers(guest)
    with guest.probes() as probes, many.at(addresses, reads) as ours:
        commit_all(probes, [status.name for status in probes.list()])
        live = read_sites(
            guest.transport,
            map(hex, addresses),
            kernel.texts,
            dead=kernel.liveness.dead,
            calm=kernel.calm.at,
        )
        sites = [each.site for each in live]
        entries = read_entries(guest.transport)
        handed = read_handed(guest.transport, sites, ours, many.HANDLER)
    quiet.check()
    handlers = [
        Handler(site, given, site.address in reads)
        for site, given in zip(sites, handed, strict=True)
    ]
    return Found(handlers, entries)


def run(
    each: Handler, entries: Entries, seed: int, states: int = STATES, *, changes: bool = False
) -> tuple[Verdict, Handled]:
    action = Handled(each.site, entries, each.handed, changes=changes)
    return emulate(each.site, seed=seed ^ each.site.address, states=states, action=action), action


def seen(
    handlers: Iterable[Handler],
    entries: Entries,
    seed: int,
    states: int = STATES,
    *,
    changes: bool = False,
) -> float:
    """The share of these with a difference."""
    counts: Counter[str] = Counter()
    for each in handlers:
        verdict, _ = run(each, entries, seed, states, changes=changes)
        if verdict.not_emulated is None:
            counts["seen" if verdict.differences else "not seen"] += 1
            if not verdict.differences:
                log.info("not seen: %r", each.site)
    log.info("%s", dict(counts))
    assert counts.total() >= EACH
    return counts["seen"] / counts.total()


def test_nothing_changes_but_the_count(found: Found, seed: int) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for each in found.handlers:
        verdict, action = run(each, found.entries, seed)
        if verdict.not_emulated is not None:
            counts["not emulated"] += 1
            continue
        counts["emulated"] += 1
        counts["arrivals"] += action.arrivals
        counts["nested"] += action.nested
        counts["waited for"] += action.waited
        counts[each.entry(found.entries)] += 1
        if not verdict.same:
            wrong.append(verdict)
    log.info("%s", dict(counts))
    shown = [f"{it.site.address:#x}: {'; '.join(it.differences)}\n  {it.site}" for it in wrong]
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(shown[:10])
    assert counts["not emulated"] <= NOT_EMULATED * len(found.handlers)
    assert counts["emulated"] >= 6 * EACH
    assert all(counts[name] >= EACH / 2 for pair in CALM.items() for name in pair), counts
    assert min(counts["nested"], counts["waited for"]) > counts["arrivals"] / 10


def test_what_a_handler_changes_takes_effect(found: Found, seed: int) -> None:
    """But where it is said to read only: there it is lost, which is seen."""
    for each in found.handlers:
        if not each.reads:
            verdict, _ = run(each, found.entries, seed, changes=True)
            assert verdict.not_emulated or verdict.same, verdict
    readers = [each for each in found.handlers if each.reads]
    assert seen(readers, found.entries, seed, changes=True) > 0.95


def test_what_is_left_out_is_not_needed(found: Found) -> None:
    """By the oracle: AC and DF are cleared, and flags restored, wherever it matters; and not
    everywhere."""
    counts: Counter[str] = Counter()
    for each in found.handlers:
        entry = each.entry(found.entries)
        calm = entry in CALM.values()
        assert (entry in READERS) == each.reads
        assert not calm or each.site.calm, f"{each.site.address:#x} is not calm"
        if not each.restores:
            assert each.site.dead == STATUS, f"{each.site.address:#x} has live flags"
            assert each.site.calm, f"{each.site.address:#x} is not calm"
        counts["calm"] += calm
        counts["calm by the oracle"] += each.site.calm
        counts["not restored"] += not each.restores
        counts["need not be"] += each.site.calm and each.site.dead == STATUS
    log.info("%s of %d", dict(counts), len(found.handlers))
    assert counts["calm"] > 0.9 * counts["calm by the oracle"] > EACH
    assert counts["not restored"] > 0.7 * counts["need not be"] > EACH / 4


def test_much_of_the_kernel_is_calm(kernel: Kernel) -> None:
    part, calm = kernel.judgements.parts[0], kernel.calm
    assert isinstance(calm, Calm)
    draw = random.Random(1)
    addresses = part.address[np.isin(part.method, METHODS)].tolist()
    share = sum(calm.at(at) for at in draw.sample(addresses, 20000)) / 20000
    log.info("%.3f of the sites are calm", share)
    assert 0.5 < share < 0.99


def with_nops(site: Site, insns: Iterable[Instruction], extra: Mapping[int, int]) -> Site:
    """The same site, with nops for some instructions, and some other bytes."""
    code = bytearray(site.code)
    for insn in insns:
        start = insn.ip - site.detour
        code[start : start + insn.len] = bytes([NOP]) * insn.len
    for at, byte in extra.items():
        code[at - site.detour] = byte
    return replace(site, code=bytes(code))


def without_popf(each: Handler) -> Handler:
    """The flags are dropped, not restored."""
    insns = prologue(each.site)
    (popf,) = (n for n, insn in enumerate(insns) if insn.mnemonic == Mnemonic.POPFQ)
    behind = insns[popf + 1]  # lea 16(%rsp),%rsp becomes lea 24(%rsp),%rsp
    assert behind.mnemonic == Mnemonic.LEA
    site = with_nops(each.site, [insns[popf]], {behind.next_ip - 1: 24})
    return replace(each, site=site)


def test_a_missing_popf_would_be_seen(found: Found, seed: int) -> None:
    restoring = [each for each in found.handlers if each.restores]
    live = [without_popf(each) for each in restoring if each.site.dead != STATUS]
    assert seen(live, found.entries, seed, MANY) > 0.98
    # Nobody reads the status flags; but those that C code finds clear may have been set.
    stirred = [
        without_popf(each) for each in restoring if each.site.dead == STATUS and not each.site.calm
    ]
    assert seen(stirred, found.entries, seed, MANY) > 0.97


def changed(entries: Entries, change: Callable[[list[bytes]], None]) -> Entries:
    """The same entries, with other instructions that are as long together."""
    start = entries.address
    parts = [entries.code[insn.ip - start : insn.next_ip - start] for insn in entries.instructions]
    change(parts)
    code = b"".join(parts)
    assert len(code) == len(entries.code)
    return replace(entries, code=code)


def swap(first: bytes, second: bytes) -> Callable[[list[bytes]], None]:
    """Exchanges two instructions, of one length, wherever they are."""
    others = {first: second, second: first}

    def change(parts: list[bytes]) -> None:
        assert {first, second} <= set(parts)
        parts[:] = [others.get(part, part) for part in parts]

    return change


def drop(insn: bytes) -> Callable[[list[bytes]], None]:
    """Nops for an instruction, wherever it is."""

    def change(parts: list[bytes]) -> None:
        assert insn in parts
        parts[:] = [bytes([NOP]) * len(part) if part == insn else part for part in parts]

    return change


#: What is made wrong in the entries; and whether a handler that only reads shows it.
WRONG: Mapping[str, tuple[Callable[[list[bytes]], None], bool]] = {
    "pop %rdx left out": (drop(b"\x5a"), True),
    "pop %rax, pop %rcx the other way round": (swap(b"\x58", b"\x59"), True),
    "pop %r8, pop %r11 the other way round": (swap(b"\x41\x58", b"\x41\x5b"), True),
    "pop %r12, pop %r15 the other way round": (swap(b"\x41\x5c", b"\x41\x5f"), False),
    "push %rbx, push %rbp the other way round": (swap(b"\x53", b"\x55"), True),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_entries_would_be_seen(found: Found, seed: int, what: str) -> None:
    change, with_reader = WRONG[what]
    wrong = changed(found.entries, change)
    show = [each for each in found.handlers if with_reader or not each.reads]
    assert seen(random.Random(seed).sample(show, 2 * EACH), wrong, seed) == 1.0


def with_entry(each: Handler, address: int) -> Handler:
    """The same, with a detour that calls another entry."""
    call = call_of(each.site)
    assert call is not None
    rel = (address - call.next_ip).to_bytes(4, "little", signed=True)
    places = range(call.next_ip - 4, call.next_ip)
    return replace(each, site=with_nops(each.site, [], dict(zip(places, rel, strict=True))))


def test_a_calm_entry_elsewhere_would_be_seen(found: Found, seed: int) -> None:
    entries = found.entries
    wrong = [
        with_entry(each, entries.entry(CALM[each.entry(entries)]))
        for each in found.handlers
        if not each.site.calm
    ]
    assert seen(wrong, entries, seed, MANY) == 1.0
