/* SPDX-License-Identifier: GPL-2.0 */
/*
 * djp_handler_entry - from a detour to djp_dispatch() and back
 *
 * A detour with handlers does "pushfq; cld; clac; call djp_handler_entry; popfq". So on
 * entry there are, from the top of the stack: the return address into the
 * detour, the probed code's flags, the probed code's stack. Builds the pt_regs
 * that the probed code would have had in an exception; the ORC unwinder then
 * finds its way from here to the probed function.
 *
 * Flags are the detour's to restore, so they may be changed here.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/ptrace-abi.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>

/* Above struct pt_regs, whose last member is ss. */
#define DETOUR_RET	(SS + 8)
#define DETOUR_FLAGS	(SS + 16)

	.text
SYM_FUNC_START(djp_handler_entry)
	ANNOTATE_NOENDBR		/* reached by direct calls only */
	pushq	$__KERNEL_DS		/* ss */
	pushq	%rsp			/* sp */
	addq	$24, (%rsp)		/* was: below ss, return address, flags */
	pushq	24(%rsp)		/* flags */
	pushq	$__KERNEL_CS		/* cs */
	pushq	$0			/* ip: djp_dispatch() knows it */
	pushq	$-1			/* orig_ax: not a system call */
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	UNWIND_HINT_REGS
	movq	%rsp, %rdi
	movq	DETOUR_RET(%rsp), %rsi
	call	djp_dispatch
	movq	EFLAGS(%rsp), %rax
	movq	%rax, DETOUR_FLAGS(%rsp)
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rax
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	addq	$(6 * 8), %rsp
	UNWIND_HINT_FUNC
	RET
SYM_INNER_LABEL(djp_handler_entry_end, SYM_L_GLOBAL)
SYM_FUNC_END(djp_handler_entry)
/*
 * A kretprobe would take the return address into the detour off the stack, where
 * the scan looks for it.
 */
_ASM_NOKPROBE(djp_handler_entry)
