"""The kernel's own probes: what our restatement of their rules says, and what they do.

The census judges millions of instructions by mainline's rules as kmod/x86/mainline.c has
them. Here the kernel itself is asked about a sample: a kprobe is registered, its optimiser
waited for, and the byte looked at (kmod/test/peers.c).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from iced_x86 import Decoder
from numpy.typing import NDArray

from pyctl import Guest, Reason
from pyctl.transport import Transport
from pyctl.verify.judgements import (
    REASONS,
    Judgements,
    RelocationCode,
    SiteFlag,
    TextPart,
    read_judgements,
)
from pyctl.verify.livetext import peek

pytestmark = pytest.mark.vm

log = logging.getLogger(__name__)

PEERS = "/sys/kernel/debug/djp_test/peers"
BLACKLIST = "/sys/kernel/debug/kprobes/blacklist"
BOTH = SiteFlag.PEER_KPROBE | SiteFlag.PEER_OPTPROBE

#: Instructions drawn from everywhere, and from the modules.
ANYWHERE = 500
IN_MODULES = 100
#: Instructions drawn from each class, for each answer that its sites have.
EACH = 6
#: Instructions that are decoded, to have some of each mnemonic.
DECODED = 20_000
#: As many addresses fit into one argument of a program.
PEEKED = 4000
#: Addresses for one write to the kernel, which answers when all of them are done.
BATCH = 128
JUMP = 5
JUMP_OPCODE = "e9"


@dataclass(frozen=True)
class PeerAnswer:
    """What the kernel did: ``error`` is register_kprobe()'s errno or 0, ``landed`` the
    address that the kprobe went to, ``byte`` what was there when the optimiser had come
    to rest, as two hex digits; both None if there is an error.
    """

    address: int
    error: int
    landed: int | None
    byte: str | None

    @classmethod
    def parse(cls, line: str) -> PeerAnswer:
        address, error, landed, byte = line.split()
        if error != "0":
            return cls(int(address, 16), int(error), None, None)
        return cls(int(address, 16), 0, int(landed, 16), byte)

    def __str__(self) -> str:
        if self.landed is None:
            return f"refused, errno {self.error}"
        return f"took it at {self.landed:#x}, which reads {self.byte}"

    @property
    def flags(self) -> SiteFlag:
        """The same as a judgement's flags."""
        if self.landed != self.address:
            return SiteFlag(0)
        return BOTH if self.byte == JUMP_OPCODE else SiteFlag.PEER_KPROBE


def ask_kernel(transport: Transport, addresses: Sequence[int]) -> Iterator[PeerAnswer]:
    """Try a kprobe at each address; takes about 50 ms each."""
    for first in range(0, len(addresses), BATCH):
        batch = addresses[first : first + BATCH]
        text = "".join(f"{address:#x}\n" for address in batch)
        answer = transport.transact(PEERS, text.encode()).decode()
        yield from map(PeerAnswer.parse, answer.splitlines())


def without_fill(part: TextPart) -> TextPart:
    """A module's text without what fills its last page: zeros, each two an ``add``.

    The kernel takes kprobes there too, but where an ``add`` reaches over the end of the
    text, jump_label_text_reserved() warns.
    """
    text = np.flatnonzero(part.length != 2)
    return replace(part, sites=part.sites[: int(text[-1]) + 1])


@dataclass(frozen=True, eq=False)
class Sites:
    """Every instruction but padding, as arrays of shape (number of sites,).

    ``module`` is 0 in the kernel, ``near_target`` whether something branches to the 2nd to
    6th byte, ``answer`` the peers' flags by our rules.
    """

    address: NDArray[np.uint64]
    length: NDArray[np.uint8]
    module: NDArray[np.uint8]
    relocation: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    target: NDArray[np.uint64]
    near_target: NDArray[np.bool_]
    answer: NDArray[np.uint8]

    @classmethod
    def of(cls, judgements: Judgements) -> Sites:
        kernel, *modules = judgements.parts
        parts = [kernel, *map(without_fill, modules)]
        sites = np.concatenate([part.sites for part in parts])
        address = np.concatenate([part.address for part in parts])
        module = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(part) for part in parts])
        targets = np.append(address[sites["flags"] & SiteFlag.TARGET != 0], np.uint64(2**64 - 1))
        first = targets[np.searchsorted(targets, address, side="right")]
        real = sites["flags"] & SiteFlag.PADDING == 0
        found = sites[real]
        at = address[real]
        return cls(
            address=at,
            length=found["length"],
            module=module[real],
            relocation=found["relocation"],
            reason=found["reason"],
            target=at + found["length"] + found["disp"].astype(np.int64).astype(np.uint64),
            near_target=first[real] - at <= JUMP,
            answer=found["flags"] & np.uint8(BOTH),
        )


@dataclass(frozen=True, eq=False)
class Functions:
    """The symbols of text: ``start`` ascends, ``name`` is the first one listed there."""

    start: NDArray[np.uint64]
    name: tuple[str, ...]
    value: Mapping[str, int]

    @classmethod
    def of(cls, kallsyms: bytes) -> Functions:
        first: dict[int, str] = {}
        value: dict[str, int] = {}
        for line in kallsyms.decode().splitlines():
            address, kind, name = line.split()[:3]
            value.setdefault(name, int(address, 16))
            if kind in "tTwW":
                first.setdefault(int(address, 16), name)
        start = sorted(first)
        return cls(np.array(start, np.uint64), tuple(first[address] for address in start), value)

    def index(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The function of each address."""
        return np.searchsorted(self.start, addresses, side="right") - 1

    def where(self, address: int) -> str:
        index = int(self.index(np.array([address], np.uint64))[0])
        return f"{self.name[index]}+{address - int(self.start[index]):#x}"


def classes(sites: Sites, functions: Functions, blacklist: str) -> dict[str, NDArray[np.bool_]]:
    """Which sites each rule can be seen at: masks of shape (number of sites,)."""
    function = functions.index(sites.address)
    end = np.append(functions.start, np.uint64(2**64 - 1))[function + 1]
    thunks = [functions.value.get(f"__indirect_thunk_{edge}", 0) for edge in ("start", "end")]
    jumps = sites.relocation == RelocationCode.JMP
    to_thunk = jumps & (sites.target >= thunks[0]) & (sites.target <= thunks[1])
    listed = {line.split()[1] for line in blacklist.splitlines()}
    split_off = np.array(
        ["." in name and name.partition(".")[0] in listed for name in functions.name]
    )

    def because(reason: Reason) -> NDArray[np.bool_]:
        is_it: NDArray[np.bool_] = sites.reason == REASONS.index(reason)
        return is_it

    def in_same_function(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = np.isin(function, np.unique(function[chosen]))
        return inside

    found = {
        "near the end": end - sites.address < JUMP,
        "jump into the region": sites.near_target,
        "indirect jump in the function": in_same_function(to_thunk),
        "extable in the function": in_same_function(because(Reason.EXTABLE)),
        "jump label": because(Reason.JUMP_LABEL),
        "static call": because(Reason.STATIC_CALL),
        "entry, ftrace or not": np.isin(sites.address, functions.start) & (sites.length == JUMP),
        "blacklist": because(Reason.BLACKLIST),
        "split off a listed function": split_off[function],
        "trap, bug entry or not": because(Reason.INSN_TRAP),
        "privileged": because(Reason.INSN_PRIVILEGED),
        "undecodable": because(Reason.UNDECODABLE),
    }
    for code in RelocationCode:
        found[f"relocation {code.name.lower()}"] = sites.relocation == code
    return found


def draw_sample(
    draw: np.random.Generator,
    sites: Sites,
    groups: Mapping[str, NDArray[np.bool_]],
    mnemonics: NDArray[np.int64],
) -> tuple[set[int], Counter[str]]:
    """Indices of sites; and how many were drawn from each group."""

    def some(indices: NDArray[np.int64], count: int) -> list[int]:
        picked = draw.choice(indices, min(count, len(indices)), replace=False)
        return [int(index) for index in picked]

    everywhere = np.arange(len(sites.address))
    chosen = set(some(everywhere, ANYWHERE))
    chosen.update(some(np.flatnonzero(sites.module), IN_MODULES))
    drawn: Counter[str] = Counter()
    for name, mask in groups.items():
        for answer in np.unique(sites.answer):
            picked = some(np.flatnonzero(mask & (sites.answer == answer)), EACH)
            chosen.update(picked)
            drawn[name] += len(picked)
    # One of each mnemonic, for each answer.
    kinds = mnemonics * 256 + np.where(mnemonics < 0, 0, sites.answer)
    shuffled = draw.permutation(np.flatnonzero(mnemonics >= 0))
    _, first = np.unique(kinds[shuffled], return_index=True)
    chosen.update(int(index) for index in shuffled[first])
    return chosen, drawn


def decode_some(transport: Transport, draw: np.random.Generator, sites: Sites) -> NDArray[np.int64]:
    """iced's number of the mnemonic of DECODED sites, -1 for the rest."""
    mnemonics = np.full(len(sites.address), -1, np.int64)
    indices = draw.choice(len(sites.address), DECODED, replace=False)
    for batch in np.split(indices, range(PEEKED, DECODED, PEEKED)):
        texts = peek(transport, [int(address) for address in sites.address[batch]], 15)
        mnemonics[batch] = [Decoder(64, text).decode().mnemonic for text in texts]
    return mnemonics


def test_rules_and_kernel_agree_on_a_sample(watched: Guest, targets: None) -> None:
    transport = watched.transport
    if not transport.exists(PEERS):
        pytest.skip("this kernel has no jump optimisation to compare with")
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    log.info("seed %d", seed)
    draw = np.random.default_rng(seed)

    sites = Sites.of(read_judgements(transport))
    functions = Functions.of(transport.read("/proc/kallsyms"))
    groups = classes(sites, functions, transport.read(BLACKLIST).decode())
    mnemonics = decode_some(transport, draw, sites)
    chosen, drawn = draw_sample(draw, sites, groups, mnemonics)
    expected = {int(sites.address[index]): SiteFlag(int(sites.answer[index])) for index in chosen}
    answers = list(ask_kernel(transport, sorted(expected)))
    wrong = [
        f"{answer.address:#x} {functions.where(answer.address)}: "
        f"rules {expected[answer.address].name or 'refuse'}, kernel {answer}"
        for answer in answers
        if answer.flags != expected[answer.address]
    ]
    tally = Counter(answer.flags for answer in answers)
    log.info("%d sites: %s; %s", len(answers), dict(tally), dict(drawn))
    assert not wrong, f"{len(wrong)} of {len(answers)} differ:\n" + "\n".join(wrong)
    assert [answer.address for answer in answers] == sorted(expected)
    assert len(answers) >= ANYWHERE
    # It is worth something only if each answer, and each refusal, is in it.
    assert min(tally[flags] for flags in (SiteFlag(0), SiteFlag.PEER_KPROBE, BOTH)) >= 50
    rare = {"undecodable", "relocation loop", "static call"}
    assert not {name for name in groups if not drawn[name]} - rare
