/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every reason for which something asked of djprobes is refused.
 *
 * One line each: name, code as users see it, errno, sentence, hint. The codes
 * are an interface: pyctl/reasons.py and docs/reasons.md hold the same list, and
 * tests/unit/test_pyctl_reasons.py keeps the three equal.
 */
#ifndef _DJP_REASONS_H
#define _DJP_REASONS_H

#define DJP_REASONS(R) \
R(OK, "ok", 0, "a jump can stand here", "-") \
R(SYNTAX, "syntax", EINVAL, "this is not a command", "p[:NAME] TARGET [count] [method=METHOD] [OPTION...], -:NAME, -*, enable NAME, disable NAME, commit or reclaim") \
R(TOO_LONG, "too-long", E2BIG, "the write is too large for one batch", "at most 16 MiB a write: split it at a line's end") \
R(BAD_NAME, "bad-name", EINVAL, "this is not a probe name", "a letter or _, then letters, digits and _; at most 63 characters") \
R(DUPLICATE_NAME, "duplicate-name", EEXIST, "a probe of this name exists", "choose another name, or remove that probe first") \
R(NO_SUCH_PROBE, "no-such-probe", ENOENT, "there is no probe of this name", "read the file probes for the names") \
R(NOT_SUPPORTED, "not-supported", EOPNOTSUPP, "this action or argument is not offered", "count, method=, if, sample=, hist=, by=, once, soft; once not with sample=, hist=, by=; hist= not with by=") \
R(BAD_OFFSET, "bad-offset", EINVAL, "this is not an offset or address", "decimal, or hexadecimal with 0x") \
R(BAD_FIELD, "bad-field", EINVAL, "this is not a register or a dereference of one", "%di, %si:u32, +8(%di):u16: ax bx cx dx si di bp sp r8-r15; u8 to u64, s8 to s64") \
R(BAD_VALUE, "bad-value", EINVAL, "this is not a value that fits here", "a number (decimal or 0x) of the field's type; sample= 2 to 32768; by= cpu, pid, comm") \
R(SYMBOL_NOT_FOUND, "symbol-not-found", ENOENT, "no such symbol in the kernel or in a loaded module", "look in /proc/kallsyms: the compiler may have inlined or renamed it") \
R(SYMBOL_AMBIGUOUS, "symbol-ambiguous", EADDRNOTAVAIL, "more than one function has this name", "give the address, from /proc/kallsyms") \
R(OUTSIDE_SYMBOL, "outside-symbol", EINVAL, "the offset is beyond the symbol's end", "look the function's size up with explain") \
R(NOT_TEXT, "not-text", EFAULT, "this is not kernel or module text that stays", "init code, data and generated code can't be probed") \
R(MODULE_GOING, "module-going", EAGAIN, "the module is being loaded or unloaded", "try again when it is live") \
R(OWN_TEXT, "own-text", EPERM, "this is djprobes' own code", "a probe there would call itself") \
R(BLACKLIST, "blacklist", EPERM, "kprobes' blacklist or noinstr code", "entry, exception and probe code can't be probed: probe a caller") \
R(INT3_PATH, "int3-path", EPERM, "the int3 handling itself runs this code", "a breakpoint there would recurse: probe a caller") \
R(NOT_BOUNDARY, "not-boundary", EILSEQ, "no instruction starts here", "see the disassembly for instruction starts") \
R(UNDECODABLE, "undecodable", EILSEQ, "the kernel's decoder does not know an instruction here", "probe another instruction") \
R(TOO_NEAR_END, "too-near-end", ENOSPC, "fewer than 5 bytes to the end of the function", "probe an earlier instruction") \
R(BRANCH_TARGET, "branch-target", EBUSY, "something branches into the bytes that the jump would cover", "probe the branch's target, or an earlier instruction") \
R(INSN_BRANCH, "insn-branch", EOPNOTSUPP, "a branch that can't be moved (xbegin, far jump) would be displaced", "probe another instruction") \
R(INSN_CALL, "insn-call", EOPNOTSUPP, "a call would return into the bytes that the jump would cover", "probe the call itself, or an instruction behind it") \
R(INSN_RETURN, "insn-return", EOPNOTSUPP, "a return or jump leaves fewer than 5 bytes, and no padding follows", "probe an earlier instruction") \
R(INSN_TRAP, "insn-trap", EOPNOTSUPP, "a trapping instruction (ud2, int3, int) would be displaced", "probe an earlier instruction") \
R(INSN_PRIVILEGED, "insn-privileged", EOPNOTSUPP, "an instruction that depends on where it runs would be displaced", "sti, hlt, mov to ss, swapgs, iret and their like stay where they are") \
R(EXTABLE, "extable", EOPNOTSUPP, "an instruction with an exception-table entry would be displaced", "probe an instruction that can't fault") \
R(FTRACE, "ftrace", EBUSY, "an ftrace site would be overwritten", "probe the instruction behind it") \
R(JUMP_LABEL, "jump-label", EBUSY, "a jump label would be overwritten", "probe another instruction") \
R(STATIC_CALL, "static-call", EBUSY, "a static call would be overwritten", "probe another instruction") \
R(ALTERNATIVE, "alternative", EBUSY, "text that alternatives still patch would be overwritten", "probe another instruction") \
R(KPROBE, "kprobe", EBUSY, "a kprobe is here or within reach", "see /sys/kernel/debug/kprobes/list") \
R(KPROBES_BUSY, "kprobes-busy", EAGAIN, "somebody registers kprobes without pause, or their optimiser waits for a task", "try again") \
R(KPROBE_REFUSED, "kprobe-refused", EPERM, "the kernel's own kprobes do not take this address", "leave method=kprobe out, or probe another instruction") \
R(OTHER_METHOD, "other-method", EBUSY, "this address takes, or is probed by, another method", "leave the method out, or ask explain which one it takes") \
R(OVERLAP, "overlap", EBUSY, "another djprobe's bytes overlap", "probe the same instruction as that probe, or one further away") \
R(FOREIGN_TEXT, "foreign-text", EBUSY, "somebody else has changed the bytes here", "remove the other patch (kprobe, livepatch, ...) first") \
R(OUT_OF_RANGE, "out-of-range", ERANGE, "a relative operand does not reach from the detour", "probe another instruction") \
R(GONE, "gone", ENODEV, "the probe's module was unloaded", "remove the probe; add it again when the module is back") \
R(DETOURS_BUSY, "detours-busy", EBUSY, "tasks are still in detours that were retired", "read the file blockers for who and where, and try again") \
R(NO_MEMORY, "no-memory", ENOMEM, "out of memory for detours or counters", "remove probes, then commit to free their memory") \
R(LOCKED_DOWN, "locked-down", EPERM, "kernel lockdown forbids probes", "as for kprobes: boot without lockdown=confidentiality")

enum djp_reason {
#define DJP_REASON_ENUM(name, code, err, sentence, hint) DJP_##name,
	DJP_REASONS(DJP_REASON_ENUM)
#undef DJP_REASON_ENUM
	DJP_NR_REASONS
};

const char *djp_reason_code(enum djp_reason reason);
const char *djp_reason_sentence(enum djp_reason reason);
const char *djp_reason_hint(enum djp_reason reason);
int djp_reason_errno(enum djp_reason reason);

#endif /* _DJP_REASONS_H */
