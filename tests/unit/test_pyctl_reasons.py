"""The reason codes of the kernel module, of Python and of the docs are the same, in order."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from pyctl.reasons import Reason, parse_reason

TOP = Path(__file__).parents[2]
HEADER = TOP / "kmod" / "core" / "reasons.h"
PAGE = TOP / "docs" / "reasons.md"
ROW = re.compile(r'^R\((\w+), "([^"]*)", (\w+), "([^"]*)", "([^"]*)"\)', re.MULTILINE)


def in_c() -> list[tuple[str, str, str, str, str]]:
    """Name, code, errno, sentence, hint of each row."""
    text = HEADER.read_text()
    rows = ROW.findall(text)
    # a row that the pattern does not know must not go unnoticed
    assert len(rows) == len(re.findall(r"^R\(", text, re.MULTILINE)) > 0
    return rows


def in_docs() -> list[list[str]]:
    """The cells of each row of the table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_python_has_the_reasons_of_c_word_for_word() -> None:
    assert [(reason.name, reason.value, reason.sentence, reason.hint) for reason in Reason] == [
        (name, code, sentence, hint) for name, code, _errno, sentence, hint in in_c()
    ]


def test_the_docs_have_the_reasons_of_c_word_for_word() -> None:
    wanted = [
        [f"`{code}`", "-" if number == "0" else number, sentence, hint]
        for _name, code, number, sentence, hint in in_c()
    ]
    assert in_docs() == wanted


def test_only_ok_is_no_error() -> None:
    assert [code for _name, code, number, *_words in in_c() if number == "0"] == ["ok"]
    for _name, code, number, sentence, _hint in in_c():
        assert number == "0" or hasattr(errno, number), code
        assert sentence, code


def test_codes_are_words_of_their_own() -> None:
    codes = [reason.value for reason in Reason]
    assert len(set(codes)) == len(codes)
    for reason in Reason:
        assert reason.value == reason.name.lower().replace("_", "-")


def test_unknown_codes_are_kept() -> None:
    assert parse_reason("syntax") is Reason.SYNTAX
    assert f"{Reason.SYNTAX}" == "syntax"
    assert parse_reason("from-the-future") == "from-the-future"
