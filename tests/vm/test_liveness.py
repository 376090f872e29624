"""Where the kernel module says that no flag is live, nothing reads one: at every site of the
census, by iced-x86 and a data flow of our own."""

from __future__ import annotations

import logging

import pytest

from pyctl import Guest
from pyctl.verify.flow import read_flow
from pyctl.verify.judgements import read_judgements
from pyctl.verify.liveness import Liveness, judge
from pyctl.verify.livetext import read_text

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900), pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)


def test_no_needed_pushf_is_skipped(watched: Guest) -> None:
    parts = read_judgements(watched.transport).parts
    ranges = [(part.start, part.size) for part in parts]
    texts = read_text(watched.transport, ranges)
    oracle = Liveness(texts, read_flow(watched.transport, ranges))
    judged = judge(parts, oracle)
    log.info(
        "%d sites; flags dead but for CF: %d by the module, %d by the oracle (%.2f %%); "
        "CF too: %d and %d (%.2f %%)",
        judged.sites,
        judged.claimed,
        judged.dead,
        100 * judged.precision,
        judged.carry_claimed,
        judged.carry_dead,
        100 * judged.carry_precision,
    )
    words = "\n".join(str(each) for each in judged.wrong[:50])
    assert not judged.wrong, f"{len(judged.wrong)} wrong\n{words}"
    assert judged.sites > 1_000_000
    assert judged.dead > judged.sites / 2
    # Else the detours save what they need not, and nobody would see it.
    assert judged.precision > 0.9
    assert judged.carry_precision > 0.9
