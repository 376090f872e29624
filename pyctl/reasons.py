"""Why the kernel refused: the codes of ``last_error`` and ``explain``.

One enum in C (``kmod/core/reasons.h``), one here, one table in ``docs/reasons.md``; a test
holds them equal. A module newer than this file may send a code that is not here:
:func:`parse_reason` then keeps the text.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason code, as the kernel writes it."""

    OK = "ok"
    SYNTAX = "syntax"
    TOO_LONG = "too-long"
    BAD_NAME = "bad-name"
    DUPLICATE_NAME = "duplicate-name"
    NO_SUCH_PROBE = "no-such-probe"
    NOT_SUPPORTED = "not-supported"
    BAD_OFFSET = "bad-offset"
    SYMBOL_NOT_FOUND = "symbol-not-found"
    SYMBOL_AMBIGUOUS = "symbol-ambiguous"
    OUTSIDE_SYMBOL = "outside-symbol"
    NOT_TEXT = "not-text"
    MODULE_GOING = "module-going"
    OWN_TEXT = "own-text"
    BLACKLIST = "blacklist"
    INT3_PATH = "int3-path"
    NOT_BOUNDARY = "not-boundary"
    UNDECODABLE = "undecodable"
    TOO_NEAR_END = "too-near-end"
    BRANCH_TARGET = "branch-target"
    INSN_BRANCH = "insn-branch"
    INSN_CALL = "insn-call"
    INSN_RETURN = "insn-return"
    INSN_TRAP = "insn-trap"
    INSN_PRIVILEGED = "insn-privileged"
    EXTABLE = "extable"
    FTRACE = "ftrace"
    JUMP_LABEL = "jump-label"
    STATIC_CALL = "static-call"
    ALTERNATIVE = "alternative"
    KPROBE = "kprobe"
    KPROBE_REFUSED = "kprobe-refused"
    OTHER_METHOD = "other-method"
    OVERLAP = "overlap"
    FOREIGN_TEXT = "foreign-text"
    OUT_OF_RANGE = "out-of-range"
    GONE = "gone"
    NO_MEMORY = "no-memory"
    LOCKED_DOWN = "locked-down"


def parse_reason(code: str) -> Reason | str:
    """The :class:`Reason` of ``code``, or ``code`` itself when it is not a known one."""
    try:
        return Reason(code)
    except ValueError:
        return code
