"""Reading the kernel's histogram triggers, and what tasks are told to call."""

from __future__ import annotations

import pytest

from pyctl.errors import OracleError
from pyctl.verify.taken import Take, Task, Watch, parse_hist

HIST = """\
# event histogram
#
# trigger info: hist:keys=common_pid:vals=hitcount:sort=hitcount:size=4096 if a >= 5 && b < 3 [active]
#

{ common_pid:        712 } hitcount:          3
{ common_pid:         -1 } hitcount:         12

Totals:
    Hits: 15
    Entries: 2
    Dropped: 0


# event histogram
#
# trigger info: hist:keys=a_u64:vals=hitcount:sort=hitcount:size=4096 [active]
#

{ a_u64: 18446744073709551615 } hitcount:          1

Totals:
    Hits: 1
    Entries: 1
    Dropped: 0
"""  # noqa: E501


def test_tables_are_told_apart_by_their_triggers() -> None:
    assert parse_hist(HIST) == {
        Watch("common_pid", "a >= 5 && b < 3"): {712: 3, -1: 12},
        Watch("a_u64"): {(1 << 64) - 1: 1},
    }
    assert Watch("a", "b == 1").trigger == "hist:keys=a:size=4096 if b == 1"
    assert Watch("a").trigger == "hist:keys=a:size=4096"


def test_a_table_that_was_too_small_is_an_error() -> None:
    with pytest.raises(OracleError):
        parse_hist(HIST.replace("Dropped: 0", "Dropped: 1"))
    with pytest.raises(OracleError):
        parse_hist(HIST.replace("[active]", "[paused]"))


def test_calls_as_they_are_written() -> None:
    assert str(Take(-1, 5, 3)) == "here 0xffffffffffffffff 0x5 3"
    assert str(Take(where=8)) == "0x8 0x0 0x0 1"
    assert Task([Take(times=3), Take()]).calls == 4
    assert Task([Take(times=3), Take()], threads=10).calls == 40
