/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plans A and B, as they would stand behind a jump at a function's probe point; and the
 * functions themselves, which plans.c also calls with djprobes in them.
 *
 * Nothing here is written over any text: calling djp_plan_a_one() is what calling
 * djp_plan_one() would be like, if plan A had put a jump at its entry.
 */
#include <linux/linkage.h>
#include <asm/percpu.h>
#include <asm/segment.h>
#include <asm/nospec-branch.h>

	.text

/*
 * Two functions of the same kind: long djp_plan_one(void) returns 0x11, djp_plan_two()
 * 0x22, half from the displaced instructions and half from behind them. Who goes from
 * the displaced instructions of one to behind those of two returns 0x21. The DCR is 5
 * bytes, two instructions.
 */
.macro victim name:req, number:req
SYM_FUNC_START(\name)
	xorl	%eax, %eax
	addl	$\number, %eax
SYM_INNER_LABEL(\name\()_back, SYM_L_GLOBAL)
	addl	$(\number << 4), %eax
	RET
SYM_FUNC_END(\name)
.endm

	victim djp_plan_one 1
	victim djp_plan_two 2

/*
 * Plan A: where to go on is kept in a per-CPU variable across the displaced
 * instructions, and gone to without a register: "push target; ret", or iret.
 */
.macro plan_a name:req, victim:req, number:req, leave:req
SYM_CODE_START(\name)
	UNWIND_HINT_FUNC
	movq	$\victim\()_back, PER_CPU_VAR(djp_plan_target)
	xorl	%eax, %eax
SYM_INNER_LABEL(\name\()_displaced, SYM_L_GLOBAL)
	addl	$\number, %eax
	jmp	\leave
SYM_CODE_END(\name)
.endm

SYM_CODE_START_LOCAL(djp_plan_leave_ret)
	UNWIND_HINT_FUNC
	pushq	PER_CPU_VAR(djp_plan_target)
	RET
SYM_CODE_END(djp_plan_leave_ret)

SYM_CODE_START_LOCAL(djp_plan_leave_iret)
	UNWIND_HINT_FUNC
	movq	%rsp, %rcx
	pushq	$__KERNEL_DS
	pushq	%rcx
	pushfq
	pushq	$__KERNEL_CS
	pushq	PER_CPU_VAR(djp_plan_target)
	iretq
SYM_CODE_END(djp_plan_leave_iret)

	plan_a djp_plan_ret_one djp_plan_one 1 djp_plan_leave_ret
	plan_a djp_plan_ret_two djp_plan_two 2 djp_plan_leave_ret
	plan_a djp_plan_iret_one djp_plan_one 1 djp_plan_leave_iret
	plan_a djp_plan_iret_two djp_plan_two 2 djp_plan_leave_iret

/*
 * Functions whose displaced instructions have to do with flags or stack; the probe
 * point is the label _probe. And each by plan B: interrupts are off, and the flags on
 * the stack, from the probe point to the end of the displaced instructions.
 */
.macro plan_b name:req
SYM_CODE_START(djp_plan_b_\name)
	UNWIND_HINT_FUNC
	before_\name
	pushfq
	cli
	displaced_\name
	popfq
	jmp	djp_plan_\name\()_back
SYM_CODE_END(djp_plan_b_\name)
.endm

.macro before_flags
	xorl	%eax, %eax			/* ZF is set */
.endm
.macro displaced_flags
	cmpq	$42, %rdi			/* 4 bytes */
	leaq	1(%rax), %rax			/* 4 */
.endm

/* long djp_plan_flags(long x): 1 if it is 42, 2 if it is below, 3 if above. */
SYM_FUNC_START(djp_plan_flags)
	before_flags
SYM_INNER_LABEL(djp_plan_flags_probe, SYM_L_GLOBAL)
	displaced_flags
SYM_INNER_LABEL(djp_plan_flags_back, SYM_L_GLOBAL)
	je	1f
	jb	2f
	leaq	1(%rax), %rax
2:	leaq	1(%rax), %rax
1:	RET
SYM_FUNC_END(djp_plan_flags)

	plan_b flags

.macro before_if
.endm
.macro displaced_if
	pushfq					/* 1 byte */
	popq	%rax				/* 1 */
	leaq	1(%rax), %rax			/* 4 */
.endm

/* long djp_plan_if(void): the flags, plus 1. */
SYM_FUNC_START(djp_plan_if)
	before_if
SYM_INNER_LABEL(djp_plan_if_probe, SYM_L_GLOBAL)
	displaced_if
SYM_INNER_LABEL(djp_plan_if_back, SYM_L_GLOBAL)
	RET
SYM_FUNC_END(djp_plan_if)

	plan_b if

.macro before_cli
.endm
.macro displaced_cli
	cli					/* 1 byte */
	leaq	1(%rax), %rax			/* 4 */
.endm

/* long djp_plan_cli(void): the flags behind a cli. */
SYM_FUNC_START(djp_plan_cli)
	before_cli
SYM_INNER_LABEL(djp_plan_cli_probe, SYM_L_GLOBAL)
	displaced_cli
SYM_INNER_LABEL(djp_plan_cli_back, SYM_L_GLOBAL)
	pushfq
	popq	%rax
	sti
	RET
SYM_FUNC_END(djp_plan_cli)

	plan_b cli

.macro before_stack
	pushq	$0x59
.endm
.macro displaced_stack
	movq	(%rsp), %rax			/* 4 bytes */
	leaq	1(%rax), %rax			/* 4 */
.endm

/* long djp_plan_stack(void): 0x59, which it has pushed, plus 1. */
SYM_FUNC_START(djp_plan_stack)
	before_stack
SYM_INNER_LABEL(djp_plan_stack_probe, SYM_L_GLOBAL)
	displaced_stack
SYM_INNER_LABEL(djp_plan_stack_back, SYM_L_GLOBAL)
	leaq	8(%rsp), %rsp
	RET
SYM_FUNC_END(djp_plan_stack)

	plan_b stack
