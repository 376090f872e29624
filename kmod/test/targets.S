/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions made to be probed. In assembly, so that what is displaced is known.
 */
#include <linux/linkage.h>
#include <asm/nospec-branch.h>
#include <asm/asm.h>

	.text

SYM_FUNC_START(djp_test_plain)
	leaq	1(%rdi), %rax		/* 4 bytes */
	incq	%rax			/* 3: the DCR ends here */
	incq	%rax
	RET
SYM_FUNC_END(djp_test_plain)

SYM_FUNC_START(djp_test_rip)
	incq	djp_test_rip_calls(%rip)
	movl	$7, %eax
	RET
SYM_FUNC_END(djp_test_rip)

/*
 * The probe point is djp_test_state_probe: its DCR is three instructions that
 * change %rcx only and no flag. With every flag that can be set at 1 before it,
 * DF and AC among them, whatever a detour forgets shows.
 */
#define KNOWN 0x1122334455667788
#define FLAGS 0x40cd5			/* AC OF DF SF ZF AF PF CF */

SYM_FUNC_START(djp_test_state)
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	$KNOWN, %rax
	leaq	1(%rax), %rbx
	leaq	2(%rax), %rdx
	leaq	3(%rax), %rsi
	leaq	4(%rax), %rdi
	leaq	5(%rax), %rbp
	leaq	6(%rax), %r8
	leaq	7(%rax), %r9
	leaq	8(%rax), %r10
	leaq	9(%rax), %r11
	leaq	10(%rax), %r12
	leaq	11(%rax), %r13
	leaq	12(%rax), %r14
	leaq	13(%rax), %r15
	xorl	%ecx, %ecx
	pushfq				/* for afterwards */
	pushfq
	orq	$FLAGS, (%rsp)
	popfq
SYM_INNER_LABEL(djp_test_state_probe, SYM_L_GLOBAL)
	leaq	1(%rcx), %rcx
	leaq	1(%rcx), %rcx
	leaq	1(%rcx), %rcx
	pushfq
	xchgq	%rcx, (%rsp)
	andq	$FLAGS, %rcx
	xorq	$FLAGS, %rcx		/* 0 if all are still set */
	xorq	$3, (%rsp)		/* 0 if %rcx was 3 */
	orq	(%rsp), %rcx
	leaq	8(%rsp), %rsp
	popfq
	/* Each register: one that is not what it was leaves a bit. */
	subq	%rax, %rbx
	decq	%rbx
	orq	%rbx, %rcx
	subq	%rax, %rdx
	subq	$2, %rdx
	orq	%rdx, %rcx
	subq	%rax, %rsi
	subq	$3, %rsi
	orq	%rsi, %rcx
	subq	%rax, %rdi
	subq	$4, %rdi
	orq	%rdi, %rcx
	subq	%rax, %rbp
	subq	$5, %rbp
	orq	%rbp, %rcx
	subq	%rax, %r8
	subq	$6, %r8
	orq	%r8, %rcx
	subq	%rax, %r9
	subq	$7, %r9
	orq	%r9, %rcx
	subq	%rax, %r10
	subq	$8, %r10
	orq	%r10, %rcx
	subq	%rax, %r11
	subq	$9, %r11
	orq	%r11, %rcx
	subq	%rax, %r12
	subq	$10, %r12
	orq	%r12, %rcx
	subq	%rax, %r13
	subq	$11, %r13
	orq	%r13, %rcx
	subq	%rax, %r14
	subq	$12, %r14
	orq	%r14, %rcx
	subq	%rax, %r15
	subq	$13, %r15
	orq	%r15, %rcx
	movq	$KNOWN, %rdx
	subq	%rdx, %rax
	orq	%rcx, %rax
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	RET
SYM_FUNC_END(djp_test_state)

SYM_FUNC_START(djp_test_branch)
	xorl	%eax, %eax		/* 2 bytes */
.Lagain:
	incl	%eax			/* 2: branched to */
	cmpl	$5, %eax
	jne	.Lagain
	RET
SYM_FUNC_END(djp_test_branch)

/*
 * The DCR is 5 bytes, two instructions. Somebody who goes on from the second one
 * when a jump has been written over it executes three bytes of its displacement,
 * and comes back with something else, or not at all.
 * Kprobes make a jump of a kprobe here: they copy no inc, and no int3 but where
 * nothing but int3s follows.
 */
SYM_FUNC_START(djp_test_victim)
	xorl	%eax, %eax		/* 2 bytes */
	addl	$1, %eax		/* 3 */
	addl	$1, %eax
	RET
SYM_FUNC_END(djp_test_victim)
	.balign	16, 0xcc

/*
 * The DCR is 9 bytes and ends in the call: who sleeps in it returns to the byte
 * behind, whether the call was made from here or from a detour.
 */
SYM_FUNC_START(djp_test_sleepy)
	leaq	3(%rdi), %rdi		/* 4 bytes */
	call	djp_test_sleeper	/* 5 */
	addq	$4, %rax
	RET
SYM_FUNC_END(djp_test_sleepy)
	.balign	16, 0xcc

/*
 * One for each kind of relocation. Each returns 0 if all went as it should; the
 * probe point is the label _probe, or the entry.
 */

/* Taken and not taken, rel8; other flags than the tested one are kept. */
SYM_FUNC_START(djp_test_jcc)
	movl	$3, %ecx
	xorl	%eax, %eax
	stc
SYM_INNER_LABEL(djp_test_jcc_probe, SYM_L_GLOBAL)
3:	leal	1(%rax), %eax		/* 3 bytes */
	jc	1f			/* 2: taken at first */
	cmpl	$2, %eax		/* the second time: not taken */
	jne	2f
	movl	$0, %eax
2:	RET
1:	clc
	jmp	3b
SYM_FUNC_END(djp_test_jcc)

SYM_FUNC_START(djp_test_jmp)
	xorl	%eax, %eax
	jmp	1f
SYM_INNER_LABEL(djp_test_jmp_probe, SYM_L_GLOBAL)
3:	incl	%eax			/* 2 bytes */
	jmp	2f			/* 2; one int3 of padding follows */
	int3
	int3
1:	movl	$-1, %eax
	jmp	3b
2:	RET
SYM_FUNC_END(djp_test_jmp)

SYM_FUNC_START(djp_test_loop)
	movl	$5, %ecx
	xorl	%eax, %eax
	stc
SYM_INNER_LABEL(djp_test_loop_probe, SYM_L_GLOBAL)
3:	leal	1(%rax), %eax		/* 3 bytes */
	loop	3b			/* 2 */
	jnc	1f			/* loop changes no flag */
	jrcxz	2f			/* and counts %rcx down to 0 */
1:	movl	$-1, %eax
	RET
2:	subl	$5, %eax
	RET
SYM_FUNC_END(djp_test_loop)

/* The callee compares its return address with %rsi: 0 if it is that. */
SYM_FUNC_START_LOCAL(djp_test_callee)
	movq	%rsi, %rax
	subq	(%rsp), %rax
	RET
SYM_FUNC_END(djp_test_callee)

SYM_FUNC_START(djp_test_call)
	movl	$-1, %eax
	leaq	1f(%rip), %rsi
SYM_INNER_LABEL(djp_test_call_probe, SYM_L_GLOBAL)
	call	djp_test_callee
1:	RET
SYM_FUNC_END(djp_test_call)

SYM_FUNC_START(djp_test_icall)
	leaq	djp_test_callee(%rip), %rdx
	leaq	1f(%rip), %rsi
SYM_INNER_LABEL(djp_test_icall_probe, SYM_L_GLOBAL)
	leal	1(%rax), %eax		/* 3 bytes */
	ANNOTATE_RETPOLINE_SAFE
	call	*%rdx			/* 2 */
1:	RET
SYM_FUNC_END(djp_test_icall)

/*
 * A tail call through memory. Its function counts as full of branch targets, so
 * the jump alone has to be long enough.
 */
SYM_FUNC_START_LOCAL(djp_test_tail_call)
SYM_INNER_LABEL(djp_test_ijmp_probe, SYM_L_GLOBAL)
	ANNOTATE_RETPOLINE_SAFE
	jmp	*djp_test_callee_pointer(%rip)
SYM_FUNC_END(djp_test_tail_call)

SYM_FUNC_START(djp_test_ijmp)
	leaq	1f(%rip), %rsi
	call	djp_test_tail_call
1:	RET
SYM_FUNC_END(djp_test_ijmp)

	.data
	.balign	8
SYM_DATA_LOCAL(djp_test_callee_pointer, .quad djp_test_callee)
	.text

/* A return with padding behind it: live text has int3s there. */
SYM_FUNC_START(djp_test_ret)
	movl	$0, %eax
SYM_INNER_LABEL(djp_test_ret_probe, SYM_L_GLOBAL)
	RET
	int3
	int3
	int3
	int3
SYM_FUNC_END(djp_test_ret)

/*
 * Functions that can't take a jump at their first instruction, each for one
 * reason; djp_test_no_REASON, with _ for -. Nobody calls them.
 */
.macro refused name:req, insns:vararg
SYM_FUNC_START(djp_test_no_\name)
	\insns
	nopl	8(%rax,%rax)
	RET
SYM_FUNC_END(djp_test_no_\name)
.endm

	refused insn_branch	xbegin djp_test_plain
	refused insn_trap	int $0x80
	refused insn_privileged	sti

SYM_FUNC_START(djp_test_no_insn_call)
	nop
	ANNOTATE_RETPOLINE_SAFE
	call	*%rax			/* 2 bytes: returns to the fourth */
	nopl	8(%rax,%rax)
	RET
SYM_FUNC_END(djp_test_no_insn_call)

SYM_FUNC_START(djp_test_no_insn_return)
	jmp	1f			/* 2 bytes */
2:	movl	%eax, %eax
	RET
1:	testl	%eax, %eax
	je	2b
	RET
SYM_FUNC_END(djp_test_no_insn_return)

SYM_FUNC_START(djp_test_no_too_near_end)
	nop
	nop
SYM_INNER_LABEL(djp_test_behind_the_end, SYM_L_GLOBAL)
	nopl	8(%rax,%rax)
	RET
SYM_FUNC_END(djp_test_no_too_near_end)

SYM_FUNC_START(djp_test_no_extable)
1:	movl	(%rdi), %eax
2:	nopl	8(%rax,%rax)
	RET
	_ASM_EXTABLE(1b, 2b)
SYM_FUNC_END(djp_test_no_extable)

SYM_FUNC_START(djp_test_no_undecodable)
	.byte	0x0f, 0x04		/* no such instruction */
	nopl	8(%rax,%rax)
	RET
SYM_FUNC_END(djp_test_no_undecodable)
