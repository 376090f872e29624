/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From a detour to C and back. A detour does
 *
 *	pushq %rsp; pushq (%rsp); pushfq; cld; clac; pushq $CS; pushq $IP
 *	call djp_handler_entry
 *	lea 16(%rsp),%rsp; popfq; lea 16(%rsp),%rsp
 *
 * and has begun with that the pt_regs that the probed code would have had in an
 * exception; the return address stands where orig_ax is. The ORC unwinder finds its way
 * from here to the probed function.
 *
 * djp_handler_entry is for a handler that is all that there is to be called at a site,
 * djp_actions_entry for the rest.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/ptrace-abi.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>

.macro DJP_ENTRY dispatch:req
	ANNOTATE_NOENDBR		/* reached by direct calls only */
	UNWIND_HINT_IRET_REGS offset=8
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
	movq	$__KERNEL_DS, SS(%rsp)	/* was: sp, to be pushed from there */
	movq	%rsp, %rdi
	movq	ORIG_RAX(%rsp), %rsi
	call	\dispatch
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
	UNWIND_HINT_FUNC
	RET
.endm

	.text
SYM_FUNC_START(djp_handler_entry)
	DJP_ENTRY djp_dispatch_one
SYM_FUNC_END(djp_handler_entry)

SYM_FUNC_START(djp_actions_entry)
	DJP_ENTRY djp_dispatch
SYM_INNER_LABEL(djp_entries_end, SYM_L_GLOBAL)
SYM_FUNC_END(djp_actions_entry)

/*
 * A kretprobe would take the return address into the detour off the stack, where
 * the scan looks for it.
 */
_ASM_NOKPROBE(djp_handler_entry)
_ASM_NOKPROBE(djp_actions_entry)
