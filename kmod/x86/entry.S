/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From a detour to C and back. A detour does
 *
 *	pushq %rsp; pushq (%rsp); pushfq; incq %gs:COUNTER; pushq $CS; pushq $IP
 *	call djp_handler_entry
 *	lea 40(%rsp),%rsp
 *
 * or so (djp_emit_call()), and has begun with that the pt_regs that the probed code would
 * have had in an exception; the return address stands where orig_ax is. The ORC unwinder
 * finds its way from here to the probed function.
 *
 *	djp_handler_entry	for a handler that is all that there is to be called at a site
 *	djp_reader_entry	for such a one that changes no registers
 *	djp_actions_entry	for all else
 *	djp_map_entry		for hits by task: no struct pt_regs, the map in %rdi
 *
 * Those in "_calm" are for sites where AC and DF are clear, see djp_is_calm().
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/ptrace-abi.h>
#include <asm/segment.h>
#include <asm/smap.h>
#include <asm/unwind_hints.h>

#include "x86/entry.h"

/*
 * C code wants the direction flag clear; memmove() sets it. Between stac and clac the
 * kernel calls nothing, and a switch of tasks does not save AC (__switch_to_asm,
 * arch/x86/entry/entry_64.S, v6.1). A handler may do anything, as in an exception: those
 * close access to user memory too.
 */
.macro DJP_CALM_DOWN calm:req
	.if !\calm
	ASM_CLAC
	cld
	.endif
.endm

/* What C code may change, in the order of pt_regs; but for %rdi, above them. */
.macro DJP_PUSH_SCRATCH
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%rax
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
.endm

.macro DJP_POP_SCRATCH
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rax
	popq	%rcx
	popq	%rdx
	popq	%rsi
.endm

/* The rest of pt_regs. */
.macro DJP_SAVE_REGS calm:req
	ANNOTATE_NOENDBR		/* reached by direct calls only */
	UNWIND_HINT_IRET_REGS offset=8
	DJP_CALM_DOWN \calm
	pushq	%rdi
	DJP_PUSH_SCRATCH
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	UNWIND_HINT_REGS
	movq	$__KERNEL_DS, SS(%rsp)	/* was: sp, to be pushed from there */
.endm

.macro DJP_RESTORE_CALLEE_SAVED
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
.endm

/*
 * Call the handler with preemption disabled. What there is less often is in
 * x86/dispatch.c: another handler is running on this CPU, or this one is to go; then
 * @handler_of is djp_nobody.
 */
.macro DJP_HANDLER_ENTRY calm:req reader:req
	DJP_SAVE_REGS \calm
	movq	%rsp, %rsi
	pushq	PER_CPU_VAR(DJP_PREEMPT_COUNT)	/* struct djp_begun */
	UNWIND_HINT_REGS offset=8
	incl	PER_CPU_VAR(DJP_PREEMPT_COUNT)
	cmpq	$0, PER_CPU_VAR(djp_running)
	jne	.Lnested_\@
	movq	ORIG_RAX(%rsi), %rax
	movq	-DJP_RET_TO_HEADER_ONE(%rax), %rax
	movq	DJP_DETOUR_HANDLER_OF(%rax), %rdi
	movq	%rsp, PER_CPU_VAR(djp_running)
#if defined(CONFIG_CFI_CLANG) || defined(CONFIG_CFI)
	call	djp_call_handler	/* the compiler knows how */
#else
	movq	DJP_PROBE_HANDLER(%rdi), %rax
	CALL_NOSPEC rax
#endif
	movq	$0, PER_CPU_VAR(djp_running)
.Lenable_\@:
	decl	PER_CPU_VAR(DJP_PREEMPT_COUNT)
#ifdef CONFIG_PREEMPTION
	jz	.Lresched_\@
#endif
.Ldone_\@:
	.if \reader
	UNWIND_HINT_IRET_REGS offset=136	/* 8 + 16 * 8 */
	addq	$(8 + 6 * 8), %rsp
	.else
	addq	$8, %rsp
	DJP_RESTORE_CALLEE_SAVED
	.endif
	DJP_POP_SCRATCH
	popq	%rdi
	UNWIND_HINT_FUNC
	RET
.Lnested_\@:
	UNWIND_HINT_REGS offset=8
	movq	%rsp, %rdi
	call	djp_dispatch_nested
	jmp	.Lenable_\@
#ifdef CONFIG_PREEMPTION
.Lresched_\@:
	UNWIND_HINT_REGS offset=8
	call	djp_resched
	jmp	.Ldone_\@
#endif
.endm

	.text
SYM_FUNC_START(djp_handler_entry)
	DJP_HANDLER_ENTRY calm=0 reader=0
SYM_FUNC_END(djp_handler_entry)

SYM_FUNC_START(djp_handler_entry_calm)
	DJP_HANDLER_ENTRY calm=1 reader=0
SYM_FUNC_END(djp_handler_entry_calm)

SYM_FUNC_START(djp_reader_entry)
	DJP_HANDLER_ENTRY calm=0 reader=1
SYM_FUNC_END(djp_reader_entry)

SYM_FUNC_START(djp_reader_entry_calm)
	DJP_HANDLER_ENTRY calm=1 reader=1
SYM_FUNC_END(djp_reader_entry_calm)

SYM_FUNC_START(djp_actions_entry)
	DJP_SAVE_REGS calm=0
	movq	%rsp, %rdi
	movq	ORIG_RAX(%rsp), %rsi
	call	djp_dispatch
	DJP_RESTORE_CALLEE_SAVED
	DJP_POP_SCRATCH
	popq	%rdi
	UNWIND_HINT_FUNC
	RET
SYM_FUNC_END(djp_actions_entry)

.macro DJP_MAP_ENTRY calm:req
	ANNOTATE_NOENDBR
	DJP_CALM_DOWN \calm
	DJP_PUSH_SCRATCH
	incl	PER_CPU_VAR(DJP_PREEMPT_COUNT)
	call	djp_map_hit
	decl	PER_CPU_VAR(DJP_PREEMPT_COUNT)
#ifdef CONFIG_PREEMPTION
	jz	.Lresched_\@
#endif
.Ldone_\@:
	DJP_POP_SCRATCH
	RET
#ifdef CONFIG_PREEMPTION
.Lresched_\@:
	call	djp_resched
	jmp	.Ldone_\@
#endif
.endm

SYM_FUNC_START(djp_map_entry)
	DJP_MAP_ENTRY calm=0
SYM_FUNC_END(djp_map_entry)

SYM_FUNC_START(djp_map_entry_calm)
	DJP_MAP_ENTRY calm=1
SYM_INNER_LABEL(djp_entries_end, SYM_L_GLOBAL)
SYM_FUNC_END(djp_map_entry_calm)

/*
 * A kretprobe would take the return address into the detour off the stack, where
 * the scan looks for it.
 */
_ASM_NOKPROBE(djp_handler_entry)
_ASM_NOKPROBE(djp_handler_entry_calm)
_ASM_NOKPROBE(djp_reader_entry)
_ASM_NOKPROBE(djp_reader_entry_calm)
_ASM_NOKPROBE(djp_actions_entry)
_ASM_NOKPROBE(djp_map_entry)
_ASM_NOKPROBE(djp_map_entry_calm)
