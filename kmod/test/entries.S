/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions with neighbours: an entry that is traced, and instructions around a
 * probe point where others put their kprobes.
 */
#include <linux/linkage.h>

	.text

/*
 * long djp_test_endbr(long x): x + 3. An ftrace site behind an endbr64, as the
 * compiler makes it for a kernel that is built for IBT. Another kernel takes it
 * for the site of an overridden weak function (FTRACE_MCOUNT_MAX_OFFSET), and
 * lets nobody trace it.
 */
SYM_FUNC_START(djp_test_endbr)
	.byte	0xf3, 0x0f, 0x1e, 0xfa		/* endbr64 */
1:	call	__fentry__
	leaq	1(%rdi), %rax
	addq	$2, %rax
	nopl	8(%rax,%rax)
	RET
	.pushsection __mcount_loc, "a"
	.balign	8
	.quad	1b
	.popsection
SYM_FUNC_END(djp_test_endbr)

/*
 * long djp_test_neighbours(long x): x + 31. The probe point is the second
 * instruction. Its DCR is two instructions of four bytes, and so has an end that
 * is not overwritten. No label, which the kernel would take for a function.
 */
SYM_FUNC_START(djp_test_neighbours)
	leaq	1(%rdi), %rax
	leaq	2(%rax), %rax		/* +4: the probe point */
	leaq	4(%rax), %rax		/* +8: in the JTPR */
	leaq	8(%rax), %rax		/* +12: behind the DCR */
	leaq	16(%rax), %rax
	RET
SYM_FUNC_END(djp_test_neighbours)

/*
 * The same sum, but the DCR is two instructions of three bytes, and its last
 * byte looks like the first of a "mov imm32", which ends in the middle of an
 * instruction. Who decodes from the jump on gets out of step: it takes +14, in
 * the displacement of the lea, for an instruction, and not +10 or +17.
 */
SYM_FUNC_START(djp_test_out_of_step)
	leaq	1(%rdi), %rax
	leal	2(%rax), %eax			/* +4, the probe point: 3 bytes */
	subl	$-0x48, %eax			/* +7: 83 e8 b8 */
	{disp32} leaq 12(%rax), %rax		/* +10, behind the DCR: 7 bytes */
	subq	$0x38, %rax			/* +17 */
	RET
SYM_FUNC_END(djp_test_out_of_step)
