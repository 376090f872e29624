"""The reason codes of the kernel module and those of Python are the same, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyctl.reasons import Reason, parse_reason

HEADER = Path(__file__).parents[2] / "kmod" / "core" / "reasons.h"


@pytest.mark.skipif(not HEADER.is_file(), reason="no kernel module in this checkout yet")
def test_same_as_in_c() -> None:
    rows = re.findall(r'^R\((\w+), "([^"]+)"', HEADER.read_text(), re.MULTILINE)
    assert rows
    assert [(reason.name, reason.value) for reason in Reason] == rows


def test_unknown_codes_are_kept() -> None:
    assert parse_reason("syntax") is Reason.SYNTAX
    assert parse_reason("from-the-future") == "from-the-future"
