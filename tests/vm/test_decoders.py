"""iced-x86 and objdump on the guest's real text, against what the kernel module makes of every
instruction of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from pyctl import Guest
from pyctl.verify.audit import audit
from pyctl.verify.decoders import Decoded, decode_iced, decode_objdump
from pyctl.verify.judgements import Judgements, MethodCode, read_judgements
from pyctl.verify.livetext import Text, read_text

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900), pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """Differences in one function that are no fault of the kernel module's: why, and how many
    of each sort there are with iced-x86 and with objdump."""

    why: str
    iced: dict[str, int]
    objdump: dict[str, int]


#: All that there are.
KNOWN = {
    "pvh_start_xen": Known(
        "32-bit code, with a far jump that 64-bit mode does not have; refused as undecodable",
        iced={"boundary": 4},
        objdump={"boundary": 4},
    ),
    "xen_cpuid": Known(
        "a prefix that Xen knows, ud2 and the letters xen; so does the kernel's decoder",
        iced={"boundary": 3, "length": 1},
        objdump={"boundary": 3, "length": 1},
    ),
    "xen_read_cr0": Known(
        "the first of those letters taken for a branch to it",
        iced={"branch": 1},
        objdump={"branch": 1},
    ),
    "djp_test_no_undecodable": Known(
        "made to be no instruction; the kernel's decoder gives it a length",
        iced={"boundary": 3},
        objdump={"boundary": 1},
    ),
}


@dataclass(frozen=True)
class Judged:
    """The judgements, and the texts that they are about, one for each part."""

    judgements: Judgements
    texts: list[Text]


@pytest.fixture(scope="module")
def judged(guest: Guest, targets: None) -> Judged:
    """Read while no probe is in."""
    judgements = read_judgements(guest.transport)
    texts = read_text(guest.transport, [(part.start, part.size) for part in judgements.parts])
    return Judged(judgements, texts)


@pytest.mark.parametrize("decode", [decode_iced, decode_objdump])
def test_every_judgement_agrees(judged: Judged, decode: Callable[[Text], Decoded]) -> None:
    parts = judged.judgements.parts
    decoded = [decode(text) for text in judged.texts]
    found = audit(parts, decoded)
    methods = np.concatenate([part.method for part in parts])
    jumps = int(np.isin(methods, (MethodCode.JUMP, MethodCode.JUMP_INT3)).sum())
    log.info(
        "%d sites in %d parts, %d of them take a jump; %d instructions by %s, %d differences",
        len(methods),
        len(parts),
        jumps,
        sum(len(each) for each in decoded),
        decoded[0].decoder,
        len(found),
    )
    assert len(methods) > 1_000_000
    assert jumps > len(methods) * 0.9
    seen = Counter((each.symbol.rpartition("+")[0], each.what) for each in found)
    known = {
        (function, what): count
        for function, it in KNOWN.items()
        for what, count in (it.iced if decode is decode_iced else it.objdump).items()
    }
    assert seen == known, "\n".join(str(each) for each in found[:100])
