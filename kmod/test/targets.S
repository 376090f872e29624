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
 * and DF among them, whatever a detour forgets shows.
 */
#define KNOWN 0x1122334455667788
#define FLAGS 0xcd5			/* OF DF SF ZF AF PF CF */

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
 * The DCR is 6 bytes, three instructions. Somebody who goes on from
 * djp_test_victim + DJP_TEST_INSIDE when a jump has been written over it executes three
 * bytes of its displacement, and comes back with something else, or not at all.
 */
SYM_FUNC_START(djp_test_victim)
	xorl	%eax, %eax
	incl	%eax
	incl	%eax
	RET
SYM_FUNC_END(djp_test_victim)

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

	refused insn_branch	je djp_test_plain
	refused insn_call	call djp_test_plain
	refused insn_trap	int $0x80
	refused insn_privileged	sti

SYM_FUNC_START(djp_test_no_insn_return)
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
