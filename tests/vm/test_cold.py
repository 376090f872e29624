"""Branches from another symbol into the bytes that a jump covers: foo.cold back into foo.

Mainline's can_optimize() decodes the one symbol that holds the address, and does not see them.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import pytest

from pyctl import Guest, Probes, Reason
from pyctl.control import Explanation
from pyctl.errors import DjprobesError, RemoteOSError
from pyctl.timing import Deadline, attempts
from pyctl.verify.livetext import peek
from pyctl.verify.testmodules import Peers, Targets

pytestmark = pytest.mark.vm

#: kmod/test/strays.S: its .cold part branches back to the second byte of the probe point.
PROBE = "djp_test_cold_probe"
HOT, COLD = "djp_test_cold", "djp_test_cold.cold"
#: What that byte is in an optimised kprobe's jump there: no instruction in 64-bit mode.
NO_INSN = 0x06
#: How many sites of the kernel to look at, and how many kprobes at a time.
CANDIDATES, PEER_KPROBES = 64, 4
#: Bytes of each .cold part that are looked at.
BODY = 256
JMP = 0xE9


def test_the_cold_path_is_right_while_a_probe_is_live(watched: Guest, probes: Probes) -> None:
    functions = Targets(watched)
    before = functions.text(functions.address(PROBE), 8)
    probe = probes.add(f"djp_test:{PROBE}")
    assert (probe.method, probe.reason) == ("jump+int3", Reason.BRANCH_TARGET)
    source = str(probes.explain(f"djp_test:{PROBE}").source)
    assert source.startswith("branch ")
    assert COLD in source
    hot = 0
    for state in ("bypass", "jump"):
        if state == "jump":
            assert probes.commit().complete
        assert probe.state == state
        assert functions.call(HOT, 300) == 0
        assert functions.call(COLD, 500) == 0
        with functions.load(HOT, COLD) as load:
            assert functions.call(HOT, 200) == 0
            assert functions.call(COLD, 100) == 0
        assert load.wrong == 0
        assert load.calls(COLD) > 0
        hot += 500 + load.calls(HOT)
        assert probe.hits == hot, "the cold path does not arrive at the insertion address"
    text = functions.text(probe.address, 5)
    assert (text[0], text[1]) == (0xE9, 0xCC)
    probe.remove()
    assert functions.call(COLD, 10) == 0
    assert functions.text(functions.address(PROBE), 8) == before


def test_an_optimised_kprobe_there_kills() -> None:
    """The counter-example, in a guest of its own."""
    with Guest.boot("bookworm-cloud") as guest:
        guest.load()
        functions, peers = Targets(guest), Peers(guest)
        address = functions.address(PROBE)
        peers.add_kprobe(address)
        assert peers.optimised(address), "mainline takes the site"
        text = functions.text(address, 5)
        assert (text[0], text[1]) == (0xE9, NO_INSN), "the outcome would not be certain"
        assert functions.call(HOT, 100) == 0
        assert peers.kprobe_hits(address) == 100
        assert not guest.crashed()

        wrong = 0
        with contextlib.suppress(DjprobesError):  # who died can't answer
            wrong = functions.call(COLD, 1)
        assert guest.crashed() or wrong, "the cold path went on as if nothing had happened"


@dataclass(frozen=True)
class Entry:
    """A branch from ``cold`` into the middle of the function that it belongs to."""

    cold: str
    target: int


def entries(guest: Guest) -> Iterator[Entry]:
    """What looks like a jump to the inside of foo, anywhere in foo.cold."""
    rows = [line.split() for line in guest.transport.read("/proc/kallsyms").decode().splitlines()]
    text = [row for row in rows if row[1] in "tT" and len(row) == 3]
    at = sorted({int(row[0], 16) for row in text})
    following = dict(pairwise(at))
    named = {row[2]: int(row[0], 16) for row in text}
    colds = {
        name: (named[name], named[name.removesuffix(".cold")])
        for name in named
        if name.endswith(".cold") and name.removesuffix(".cold") in named
    }
    rest = iter(colds.items())
    while batch := list(islice(rest, 128)):
        bodies = peek(guest.transport, [cold for _, (cold, _) in batch], BODY)
        for (name, (cold, function)), body in zip(batch, bodies, strict=True):
            code = body[: following[cold] - cold]
            for index in (i for i in range(len(code) - 4) if code[i] == JMP):
                target = cold + index + 5 + struct.unpack_from("<i", code, index + 1)[0]
                if function < target < following[function]:
                    yield Entry(name, target)


def entered_sites(probes: Probes, found: Iterator[Entry]) -> Iterator[Explanation]:
    """One address for each target: before it, and so near that a jump would cover it."""
    for target, group in groupby(found, key=lambda entry: entry.target):
        cold = next(group).cold
        for address in range(target - 1, target - 5, -1):
            answer = probes.explain(f"{address:#x}")
            if answer.reason is not Reason.BRANCH_TARGET or answer.offending is None:
                continue
            if answer.offending.address == target and cold in str(answer.source):
                yield answer
                break


def test_sites_of_the_kernel_that_mainline_takes(watched: Guest, probes: Probes) -> None:
    """Mainline writes a jump that foo.cold branches into; djprobes never a plain one."""
    peers = Peers(watched)
    sites = islice(entered_sites(probes, entries(watched)), CANDIDATES)
    taken: list[str] = []
    while not taken and (some := list(islice(sites, PEER_KPROBES))):
        here: list[int] = []
        for answer in some:
            assert answer.address is not None
            assert answer.method != "jump"
            assert answer.traps or answer.method != "jump+int3"
            with contextlib.suppress(RemoteOSError):
                peers.add_kprobe(answer.address)
                here.append(answer.address)
        for _ in attempts(Deadline.after(3)):
            jumps = peek(watched.transport, here)
            taken = [f"{a:#x}" for a, byte in zip(here, jumps, strict=True) if byte == b"\xe9"]
            if taken:
                break
        peers.remove_kprobes()
    assert taken, "mainline takes none of them: it looks at other symbols too by now?"
