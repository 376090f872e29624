/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/linkage.h>
#include <asm/smap.h>

	.text

/*
 * long djp_test_dwell(unsigned long to, unsigned long n): stores n zero bytes,
 * returns n + 3. The probe point is a string instruction: it takes long, interrupts
 * are taken in its midst, and it may fault (AC is set, so on a user page too). All
 * methods can have it: one that displaces a single instruction displaces it.
 */
SYM_FUNC_START(djp_test_dwell)
	movq	%rsi, %rcx
	xorl	%eax, %eax
	ASM_STAC
SYM_INNER_LABEL(djp_test_dwell_probe, SYM_L_GLOBAL)
	rep stosb			/* 2 bytes */
	leaq	3(%rsi), %rax		/* 4: the DCR ends here */
	ASM_CLAC
	RET
SYM_FUNC_END(djp_test_dwell)
