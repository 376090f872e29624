/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/linkage.h>

	.text

/*
 * long djp_cost_NAME(long x): x plus 3. Alike but for what is put into them. Kprobes
 * would make a jump of a kprobe here, if they were let.
 */
.macro target name:req
	.balign	64, 0xcc
SYM_FUNC_START(djp_cost_\name)
	leaq	1(%rdi), %rax
	addq	$1, %rax
	addq	$1, %rax
	RET
SYM_FUNC_END(djp_cost_\name)
.endm

	target bare
	target int3
	target int3_handler
	target jump
	target jump_handler
	target kprobe
