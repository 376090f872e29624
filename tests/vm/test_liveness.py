"""Where the kernel module says that no flag is live, nothing reads one: at every site of the
census, by iced-x86 and a data flow of our own."""

from __future__ import annotations

import logging

import pytest

from pyctl.verify.liveness import Kernel, judge

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

log = logging.getLogger(__name__)

#: 32-bit code: the two decoders are out of step in it. One site each.
KNOWN = frozenset({"pvh_start_xen"})


def test_no_needed_pushf_is_skipped(kernel: Kernel) -> None:
    judged = judge(kernel.judgements.parts, kernel.liveness)
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
    wrong = [each for each in judged.wrong if each.symbol.partition("+")[0] not in KNOWN]
    words = "\n".join(str(each) for each in wrong[:50])
    assert not wrong, f"{len(wrong)} wrong\n{words}"
    assert len(judged.wrong) <= len(KNOWN)
    assert judged.sites > 1_000_000
    assert judged.dead > judged.sites / 2
    # Else the detours save what they need not, and nobody would see it.
    assert judged.precision > 0.85
    assert judged.carry_precision > 0.85
