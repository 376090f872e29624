"""Why the kernel refused: the codes of ``last_error`` and ``explain``.

One enum in C (``kmod/core/reasons.h``), one here, one table in ``docs/reasons.md``, with the
same words; a test holds them equal. A module newer than this file may send a code that is
not here: :func:`parse_reason` then keeps the text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A reason code, as the kernel writes it, with what it means (``sentence``) and what to
    do about it (``hint``, ``-`` if nothing is wrong)."""

    sentence: str
    hint: str

    def __new__(cls, code: str, sentence: str, hint: str) -> Self:
        """A member: the text ``code``, with two attributes."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        member.hint = hint
        return member

    OK = (
        "ok",
        "a jump can stand here",
        "-",
    )
    SYNTAX = (
        "syntax",
        "this is not a command",
        "p[:NAME] TARGET [count] [method=METHOD] [OPTION...], -:NAME, -*, enable NAME, "
        "disable NAME, commit or reclaim",
    )
    TOO_LONG = (
        "too-long",
        "the write is too large for one batch",
        "at most 16 MiB a write: split it at a line's end",
    )
    BAD_NAME = (
        "bad-name",
        "this is not a probe name",
        "a letter or _, then letters, digits and _; at most 63 characters",
    )
    DUPLICATE_NAME = (
        "duplicate-name",
        "a probe of this name exists",
        "choose another name, or remove that probe first",
    )
    NO_SUCH_PROBE = (
        "no-such-probe",
        "there is no probe of this name",
        "read the file probes for the names",
    )
    NOT_SUPPORTED = (
        "not-supported",
        "this action or argument is not offered",
        "count, method=, if, sample=, hist=, by=, once, soft; "
        "once not with sample=, hist=, by=; hist= not with by=",
    )
    BAD_OFFSET = (
        "bad-offset",
        "this is not an offset or address",
        "decimal, or hexadecimal with 0x",
    )
    BAD_FIELD = (
        "bad-field",
        "this is not a register or a dereference of one",
        "%di, %si:u32, +8(%di):u16: ax bx cx dx si di bp sp r8-r15; u8 to u64, s8 to s64",
    )
    BAD_VALUE = (
        "bad-value",
        "this is not a value that fits here",
        "a number (decimal or 0x) of the field's type; sample= 2 to 32768; by= cpu, pid, comm",
    )
    SYMBOL_NOT_FOUND = (
        "symbol-not-found",
        "no such symbol in the kernel or in a loaded module",
        "look in /proc/kallsyms: the compiler may have inlined or renamed it",
    )
    SYMBOL_AMBIGUOUS = (
        "symbol-ambiguous",
        "more than one function has this name",
        "give the address, from /proc/kallsyms",
    )
    OUTSIDE_SYMBOL = (
        "outside-symbol",
        "the offset is beyond the symbol's end",
        "look the function's size up with explain",
    )
    NOT_TEXT = (
        "not-text",
        "this is not kernel or module text that stays",
        "init code, data and generated code can't be probed",
    )
    MODULE_GOING = (
        "module-going",
        "the module is being loaded or unloaded",
        "try again when it is live",
    )
    OWN_TEXT = (
        "own-text",
        "this is djprobes' own code",
        "a probe there would call itself",
    )
    BLACKLIST = (
        "blacklist",
        "kprobes' blacklist or noinstr code",
        "entry, exception and probe code can't be probed: probe a caller",
    )
    INT3_PATH = (
        "int3-path",
        "the int3 handling itself runs this code",
        "a breakpoint there would recurse: probe a caller",
    )
    NOT_BOUNDARY = (
        "not-boundary",
        "no instruction starts here",
        "see the disassembly for instruction starts",
    )
    UNDECODABLE = (
        "undecodable",
        "the kernel's decoder does not know an instruction here",
        "probe another instruction",
    )
    TOO_NEAR_END = (
        "too-near-end",
        "fewer than 5 bytes to the end of the function",
        "probe an earlier instruction",
    )
    BRANCH_TARGET = (
        "branch-target",
        "something branches into the bytes that the jump would cover",
        "probe the branch's target, or an earlier instruction",
    )
    INSN_BRANCH = (
        "insn-branch",
        "a branch that can't be moved (xbegin, far jump) would be displaced",
        "probe another instruction",
    )
    INSN_CALL = (
        "insn-call",
        "a call would return into the bytes that the jump would cover",
        "probe the call itself, or an instruction behind it",
    )
    INSN_RETURN = (
        "insn-return",
        "a return or jump leaves fewer than 5 bytes, and no padding follows",
        "probe an earlier instruction",
    )
    INSN_TRAP = (
        "insn-trap",
        "a trapping instruction (ud2, int3, int) would be displaced",
        "probe an earlier instruction",
    )
    INSN_PRIVILEGED = (
        "insn-privileged",
        "an instruction that depends on where it runs would be displaced",
        "sti, hlt, mov to ss, swapgs, iret and their like stay where they are",
    )
    EXTABLE = (
        "extable",
        "an instruction with an exception-table entry would be displaced",
        "probe an instruction that can't fault",
    )
    FTRACE = (
        "ftrace",
        "an ftrace site would be overwritten",
        "probe the instruction behind it",
    )
    JUMP_LABEL = (
        "jump-label",
        "a jump label would be overwritten",
        "probe another instruction",
    )
    STATIC_CALL = (
        "static-call",
        "a static call would be overwritten",
        "probe another instruction",
    )
    ALTERNATIVE = (
        "alternative",
        "text that alternatives still patch would be overwritten",
        "probe another instruction",
    )
    KPROBE = (
        "kprobe",
        "a kprobe is here or within reach",
        "see /sys/kernel/debug/kprobes/list",
    )
    KPROBES_BUSY = (
        "kprobes-busy",
        "somebody registers kprobes without pause, or their optimiser waits for a task",
        "try again",
    )
    KPROBE_REFUSED = (
        "kprobe-refused",
        "the kernel's own kprobes do not take this address",
        "leave method=kprobe out, or probe another instruction",
    )
    OTHER_METHOD = (
        "other-method",
        "this address takes, or is probed by, another method",
        "leave the method out, or ask explain which one it takes",
    )
    OVERLAP = (
        "overlap",
        "another djprobe's bytes overlap",
        "probe the same instruction as that probe, or one further away",
    )
    FOREIGN_TEXT = (
        "foreign-text",
        "somebody else has changed the bytes here",
        "remove the other patch (kprobe, livepatch, ...) first",
    )
    OUT_OF_RANGE = (
        "out-of-range",
        "a relative operand does not reach from the detour",
        "probe another instruction",
    )
    GONE = (
        "gone",
        "the probe's module was unloaded",
        "remove the probe; add it again when the module is back",
    )
    DETOURS_BUSY = (
        "detours-busy",
        "tasks are still in detours that were retired",
        "read the file blockers for who and where, and try again",
    )
    NO_MEMORY = (
        "no-memory",
        "out of memory for detours or counters",
        "remove probes, then commit to free their memory",
    )
    LOCKED_DOWN = (
        "locked-down",
        "kernel lockdown forbids probes",
        "as for kprobes: boot without lockdown=confidentiality",
    )


CODES = {reason.value: reason for reason in Reason}


def parse_reason(code: str) -> Reason | str:
    """The :class:`Reason` of ``code``, or ``code`` itself when it is not a known one."""
    return CODES.get(code, code)
