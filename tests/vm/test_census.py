"""The census of a stock kernel, and what `explain` says beside what stands in memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pyctl import Guest, Method, Probes, Reason
from pyctl.disassembly import compare_on
from pyctl.verify.judgements import REASONS, MethodCode, SiteFlag, read_judgements
from pyctl.verify.jumps import commit_all
from pyctl.verify.livetext import peek

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


#: The int3 in the last one stands behind a jump, where padding would.
PROBED = ("vfs_read", "dput", "schedule+0x2b", "evm_init_hmac+0x5c", "skipn_spaces+0x8")


def test_the_census_is_the_sum_of_the_judgements(watched: Guest) -> None:
    """The kernel adds up by itself; here each instruction is counted once more, with some of
    them probed: they are judged as if they were not."""
    told: list[tuple[int, int]] = []
    census = watched.census(progress=lambda done, total: told.append((done, total)))
    assert len(told) > 10
    assert told == sorted(told)
    with watched.probes() as probes:
        made = [probes.add(target) for target in PROBED]
        made.append(probes.add("vfs_write", method="int3"))
        commit_all(probes, [probe.name for probe in made])
        judgements = read_judgements(watched.transport)
    cells: Counter[tuple[Method, Reason]] = Counter()
    padding = 0
    peers: Counter[str] = Counter()
    for part in judgements.parts:
        filler = (part.flags & SiteFlag.PADDING) != 0
        padding += int(filler.sum())
        sites = part.sites[~filler]
        pairs, counts = np.unique(sites[["method", "reason"]], return_counts=True)
        for (method, reason), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            cells[MethodCode(method).word, REASONS[reason]] += count
        peers["kprobe"] += int(np.count_nonzero(sites["flags"] & SiteFlag.PEER_KPROBE))
        peers["optprobe"] += int(np.count_nonzero(sites["flags"] & SiteFlag.PEER_OPTPROBE))
    assert cells == census.cells
    assert peers == census.peers
    assert sum(cells.values()) == census.sites
    # The kernel does not list int3s that fill space up, but may count them.
    assert padding <= census.padding
    assert [part.size for part in judgements.parts] == [part.size for part in census.parts]


TARGETS = ("vfs_read", "dput", "evm_init_hmac+0x5c", "veth:veth_xmit")


def test_explain_tells_what_stands_in_memory(watched: Guest, probes: Probes) -> None:
    watched.transport.run(["modprobe", "veth"])
    before = {target: probes.explain(target) for target in TARGETS}
    assert before["evm_init_hmac+0x5c"].method is Method.JUMP_INT3
    source = before["evm_init_hmac+0x5c"].source
    assert source is not None
    assert "evm_init_hmac.cold" in str(source)
    for answer in before.values():
        # not probed yet: the region is what is there
        assert answer.address is not None
        assert peek(watched.transport, [answer.address], len(answer.dcr)) == [answer.dcr]
    made = probes.add_many(TARGETS)
    made.append(probes.add("vfs_write", method="int3"))
    commit_all(probes, [probe.name for probe in made])
    for probe in made:
        answer = probes.explain(probe.asked)
        assert (answer.address, answer.method, answer.state) == (
            probe.address,
            probe.method,
            probe.state,
        )
        assert answer.text is not None
        assert answer.detour is not None
        text = bytes.fromhex(answer.text)
        there = peek(watched.transport, [probe.address, answer.detour.address], 64)
        assert there[0].startswith(text)
        assert there[1].startswith(answer.detour.code)
        assert {trap for trap in range(1, len(text)) if text[trap] == 0xCC} >= set(answer.traps)
        rows = compare_on(watched.transport, answer).rows
        assert [row.role for row in rows if row.role != "displaced"][:1] == ["action"]
        moved = [row for row in rows if row.original is not None and row.moved]
        assert len(moved) == len(answer.entries)
        for row in moved:  # what refers to something still refers to it
            assert row.original is not None
            if row.original.refers_to is not None:
                assert row.original.refers_to in {one.refers_to for one in row.moved}
