/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions where control comes into the JTPR of the probe point from
 * elsewhere: a branch, another symbol, a return. And one whose DCR faults.
 *
 * Each checks itself, or returns what its caller checks; the probe point is the
 * label _probe. "Arrivals" are executions of the instruction at the probe point.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

	.text

/*
 * long djp_test_cold(long x, long cold): x + 5 by the hot path, which arrives
 * once; x + 0x104 by djp_test_cold.cold, which comes back one byte behind the
 * probe point and does not arrive.
 *
 * Where it stands decides what an optimised kprobe does to the cold path. The
 * kernel puts the first optimised kprobe's buffer at the start of a page, so
 * the low byte of its jump's displacement is -(address + 5), 0x06 here: no such
 * instruction in 64-bit mode. Whoever branches to it dies.
 */
#define COLD_PROBE_AT 0xf5
#define COLD_PROBE_OFFSET 12		/* in the function */

	.balign	256, 0xcc
	.fill	COLD_PROBE_AT - COLD_PROBE_OFFSET, 1, 0xcc
SYM_START(djp_test_cold, SYM_L_GLOBAL, SYM_A_NONE)
	movq	%rdi, %rax
	testq	%rsi, %rsi
	jne	djp_test_cold.cold
SYM_INNER_LABEL(djp_test_cold_probe, SYM_L_GLOBAL)
	stc				/* 1 byte */
.Lback_from_cold:
	adcq	$1, %rax		/* 4 */
	leaq	3(%rax), %rax		/* beyond the 5 bytes */
	RET
SYM_FUNC_END(djp_test_cold)

	.pushsection .text.unlikely, "ax"
SYM_FUNC_START_LOCAL(djp_test_cold.cold)
	addq	$0x100, %rax
	clc
	jmp	.Lback_from_cold
SYM_FUNC_END(djp_test_cold.cold)
	.popsection

/*
 * Returns 0 if its callee saw the right return address, which is two bytes
 * behind the probe point, and all behind the call was executed. The address is
 * computed: an instruction that held it would make it a branch target.
 */
SYM_FUNC_START_LOCAL(djp_test_midcall_callee)
	movq	%rsi, %rax
	subq	(%rsp), %rax
	RET
SYM_FUNC_END(djp_test_midcall_callee)

SYM_FUNC_START(djp_test_midcall)
	leaq	djp_test_midcall_callee(%rip), %rdx
	leaq	djp_test_midcall(%rip), %rsi
	addq	$(1f - djp_test_midcall), %rsi
	ANNOTATE_RETPOLINE_SAFE
SYM_INNER_LABEL(djp_test_midcall_probe, SYM_L_GLOBAL)
	call	*%rdx			/* 2 bytes */
1:	incl	%eax			/* 2 */
	decl	%eax			/* 2 */
	RET
SYM_FUNC_END(djp_test_midcall)

/* The block behind the jump is where its target goes next. Returns 0. */
SYM_FUNC_START(djp_test_shortjmp)
	xorl	%eax, %eax
SYM_INNER_LABEL(djp_test_shortjmp_probe, SYM_L_GLOBAL)
	jmp	1f			/* 2 bytes */
2:	addl	$4, %eax		/* 3 */
	subl	$5, %eax
	RET
1:	incl	%eax
	jmp	2b
SYM_FUNC_END(djp_test_shortjmp)

/*
 * long NAME(long k): enters at the probe point plus k, for k in @targets, at the
 * probe point for any other. Five instructions of one byte follow, each of which
 * stores a byte and adds 1 to %rdi. Returns how many were executed.
 */
.macro strays name:req, targets:vararg
SYM_FUNC_START(\name)
	movq	%rdi, %rcx
	subq	$8, %rsp
	movq	%rsp, %rdi
	.irp	k, \targets
	cmpq	$\k, %rcx
	je	.L\name\()_\k
	.endr
SYM_INNER_LABEL(\name\()_probe, SYM_L_GLOBAL)
	stosb
.L\name\()_1:
	stosb
.L\name\()_2:
	stosb
.L\name\()_3:
	stosb
.L\name\()_4:
	stosb
	movq	%rdi, %rax
	subq	%rsp, %rax
	addq	$8, %rsp
	RET
SYM_FUNC_END(\name)
.endm

	strays	djp_test_strays, 1, 2, 3, 4
	strays	djp_test_strays_123, 1, 2, 3
	strays	djp_test_stray_1, 1
	strays	djp_test_stray_2, 2
	strays	djp_test_stray_3, 3
	strays	djp_test_stray_4, 4

/*
 * long djp_test_extable(const u32 *p): *p + 1, or -1 if p can't be read. The
 * load is the second instruction of the DCR, at +2.
 */
SYM_FUNC_START(djp_test_extable)
SYM_INNER_LABEL(djp_test_extable_probe, SYM_L_GLOBAL)
	xorl	%eax, %eax		/* 2 bytes */
1:	movl	(%rdi), %eax		/* 2: may fault */
	incq	%rax			/* 3 */
	nopl	8(%rax,%rax)
2:	RET
3:	movq	$-1, %rax
	jmp	2b
	_ASM_EXTABLE(1b, 3b)
SYM_FUNC_END(djp_test_extable)
