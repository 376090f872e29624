"""The grammar of options: the kernel's parser and Python's agree, word by word."""

from __future__ import annotations

import random

import pytest

from pyctl import Guest, Probes
from pyctl.control import DEBUGFS
from pyctl.errors import ControlError, RemoteOSError
from pyctl.options import (
    REGISTERS,
    TYPES,
    By,
    Condition,
    Field,
    Operator,
    OptionError,
    Options,
)
from pyctl.parsing import parse_pairs

pytestmark = pytest.mark.vm

COUNT = 400
TARGETS = ("vfs_read", "vfs_write", "vfs_open", "do_exit")
FIELDS = (
    "%di %si:u32 %r15:s8 +8(%di):u16 -0x10(%bp) 0(%ax):s64 8(%r8) %sp:u64 "
    "+2147483647(%di) -2147483647(%di) 2147483648(%di) -2147483648(%di) 4294967295(%di) "
    "%rdi di % %di: %di:u128 %di:u08 %di:u8: %di:f32 (%di) +(%di) +-8(%di) 8(%di 8(di) 8%di "
    "%DI %r16 0x(%di) 8(%di)x +0x7fffffff(%r15):u64 ++8(%di) %di%si 8(8(%di))"
)
VALUES = (
    "0 1 255 256 65535 65536 4294967295 4294967296 18446744073709551615 18446744073709551616 "
    "-1 -0 -128 -129 127 128 -32768 -32769 0xff 0xFF 0Xff 0x -0x80 +1 five 1_0 1e3 "
    "9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809"
)
WORDS = (
    "once soft sample=2 sample=32768 sample=1 sample=0 sample=32769 sample=-2 sample= sample "
    "sample=x sample=0x10 by=cpu by=pid by=comm by=tid by= by hist hist=%si:u32 hist=%di "
    "hist=8(%di):u16 hist=%si:s32 hist=%rsi hist= twice once=1 if count=1 soft, -"
)


def judged(probes: Probes, words: list[str]) -> tuple[str, str] | None:
    """The kernel's reason and token; None if it takes the words. Nothing is added."""
    transport = probes.control.transport
    try:
        transport.transact(f"{DEBUGFS}/explain", f"vfs_read {' '.join(words)}\n".encode())
    except RemoteOSError:
        told = parse_pairs(transport.read(f"{DEBUGFS}/last_error").decode(), "last_error")
        return told["reason"], told["token"]
    return None


def expected(words: list[str]) -> tuple[str, str] | None:
    try:
        Options.from_words(words)
    except OptionError as error:
        return f"{error.reason}", error.token
    return None


def compare(probes: Probes, tried: list[list[str]]) -> set[str]:
    """Fails with all that is judged differently; the verdicts there were."""
    verdicts, different = set(), []
    for words in tried:
        ours, theirs = expected(words), judged(probes, words)
        verdicts.add(ours[0] if ours else "taken")
        if ours != theirs:
            different.append((" ".join(words), ours, theirs))
    assert different == []
    return verdicts


def test_fields_and_values(probes: Probes) -> None:
    tried = [["if", field, "==", "0"] for field in FIELDS.split()]
    tried += [["if", f"%di:{kind}", "<", value] for kind in TYPES for value in VALUES.split()]
    tried += [["if", "%di", operator, "1"] for operator in (*Operator, "=", "=>", "&&", "<>", "x")]
    assert compare(probes, tried) == {"taken", "bad-field", "bad-value", "syntax"}


def test_words_and_what_goes_together(probes: Probes) -> None:
    tried = [[one] for one in WORDS.split()]
    tried += [[one, other] for [one] in tried for other in WORDS.split() if one != "if" != other]
    tried += [["if", "%di"], ["if", "%di", "=="], ["if", "x"], ["if", "%di", "x"]]
    tried += [["if", "%di", "==", "1", *rest.split()] for rest in ("if", "if %di == 1", "once 1")]
    tried += [["once", "soft", "if", "%di", "==", "1", *rest.split()] for rest in ("", "by=cpu")]
    verdicts = compare(probes, tried)
    assert verdicts == {"taken", "bad-field", "bad-value", "syntax", "not-supported"}


def anything(draw: random.Random) -> Options:
    """Options of all kinds, all of them offered."""
    offset = draw.choice([None, None, draw.randrange(1 - 2**31, 2**31)])
    field = Field(draw.choice(REGISTERS), offset, draw.choice(TYPES))
    value = draw.choice([field.values[0], field.values[-1], draw.choice([0, 1, 100])])
    condition = Condition(field, draw.choice(list(Operator)), value)
    hist = Field(draw.choice(REGISTERS), offset, draw.choice([t for t in TYPES if t[0] == "u"]))
    soft, once = draw.choice([False, True]), draw.randrange(4) == 0
    kind = 0 if once else draw.randrange(3)
    return Options(
        condition=draw.choice([None, condition]),
        sample=None if once else draw.choice([None, draw.randrange(2, 32769)]),
        hist=hist if kind == 1 else None,
        by=draw.choice(list(By)) if kind == 2 else None,
        once=once,
        soft=soft,
    )


def test_what_is_taken_is_shown(watched: Guest, probes: Probes) -> None:
    """The column OPTIONS is what was asked for, in its one way to be written."""
    draw = random.Random(5)
    asked = [anything(draw) for _ in range(COUNT)]
    made = probes.add_many(
        [TARGETS[number % len(TARGETS)] for number in range(COUNT)], options=asked
    )
    shown = {status.name: status.options for status in probes.list()}
    assert [shown[probe.name] for probe in made] == asked
    text = watched.transport.read(f"{DEBUGFS}/probes").decode()
    columns = [line.split()[10] for line in text.splitlines()]
    assert columns == [str(options) for options in asked]
    assert len(set(columns)) > COUNT // 2
    with pytest.raises(ControlError):
        probes.control.submit(["p:one vfs_read once sample=2"])
