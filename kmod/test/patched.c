// SPDX-License-Identifier: GPL-2.0
/*
 * Text that the kernel patches while it runs; tests/vm look at each byte of it.
 */
#include <linux/jump_label.h>
#include <linux/static_call.h>

#include "djp_test.h"

void djp_test_nothing(void);

static DEFINE_STATIC_KEY_FALSE(djp_test_key);

/* Without a function: a nop, until there is one. */
DEFINE_STATIC_CALL_NULL(djp_test_static, djp_test_nothing);

#define FIVE_BYTES "nopl 8(%rax,%rax)"

/**
 * djp_test_patched() - has an ftrace site, a jump label and a static call
 * @x: a number
 *
 * Return: @x plus 3, or plus 4 if the key is on, which it never is.
 */
noinline long djp_test_patched(long x)
{
	if (static_branch_unlikely(&djp_test_key))
		x++;
	asm volatile(FIVE_BYTES);
	static_call_cond(djp_test_static)();
	asm volatile(FIVE_BYTES);
	return x + 3;
}
