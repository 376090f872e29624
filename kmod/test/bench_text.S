/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions to be called and probed, see djp_bench.h. Each is probed where two
 * instructions of four bytes stand which leave the flags alone, and of which kprobes
 * make a jump too; the last one at its entry, too.
 */
#include <linux/linkage.h>
#include <asm/percpu.h>

	.text

	.balign	64, 0xcc
SYM_FUNC_START(djp_bench_dead)
	movq	%rdi, %rax
	leaq	1(%rax), %rax
	leaq	1(%rax), %rax
	addq	$1, %rax
	RET
SYM_FUNC_END(djp_bench_dead)

	.balign	64, 0xcc
SYM_FUNC_START(djp_bench_carry)
	addq	%rdi, %rdi
	leaq	-39(%rdi), %rax
	leaq	2(%rax), %rax
	adcq	$1, %rax
	RET
SYM_FUNC_END(djp_bench_carry)

	.balign	64, 0xcc
SYM_FUNC_START(djp_bench_live)
	testq	%rdi, %rdi
	leaq	1(%rdi), %rax
	leaq	1(%rax), %rax
	jz	1f
	addq	$1, %rax
1:	RET
SYM_FUNC_END(djp_bench_live)

/* Only listed here, as the compiler would. */
	.balign	64, 0xcc
SYM_FUNC_START(djp_bench_entry)
1:	call	__fentry__
	movq	%rdi, %rax
	leaq	1(%rax), %rax
	leaq	1(%rax), %rax
	addq	$1, %rax
	RET
	.pushsection __mcount_loc, "a"
	.balign	8
	.quad	1b
	.popsection
SYM_FUNC_END(djp_bench_entry)

/* At a function's entry nothing lives in the flags. */
SYM_FUNC_START(djp_bench_direct_count)
	incq	PER_CPU_VAR(djp_bench_hits)
	RET
SYM_FUNC_END(djp_bench_direct_count)

/* As a BPF trampoline does: a frame, what the callee may change, a call. */
SYM_FUNC_START(djp_bench_direct_handler)
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	pushq	%r8
	pushq	%r9
	pushq	%rax
	subq	$8, %rsp
	call	djp_bench_on_direct
	addq	$8, %rsp
	popq	%rax
	popq	%r9
	popq	%r8
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	popq	%rbp
	RET
SYM_FUNC_END(djp_bench_direct_handler)
