// SPDX-License-Identifier: GPL-2.0
/*
 * Text that the kernel patches while it runs; tests/vm look at each byte of it.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/sched.h>
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

/**
 * djp_test_entered() - has an ftrace site, and a DCR behind it
 * @x: a number
 *
 * Return: @x plus 3.
 */
noinline long djp_test_entered(long x)
{
	asm volatile(FIVE_BYTES);
	return x + 3;
}

static DEFINE_STATIC_KEY_FALSE(djp_test_flip_key);

static noinline long djp_test_plus_1(long x)
{
	return x + 1;
}

static noinline long djp_test_plus_2(long x)
{
	return x + 2;
}

DEFINE_STATIC_CALL(djp_test_flip, djp_test_plus_1);

/* A DCR of five bytes, nothing between it and what the compiler puts next. */
#define PROBE_POINT(name) asm volatile(".globl " name "\n" name ":" FIVE_BYTES)

/**
 * djp_test_flipped() - has probe points on both sides of what is patched
 * @x: a number
 *
 * An ftrace site, djp_test_flipped_1, a jump label, djp_test_flipped_2, a static
 * call, djp_test_flipped_3. The file "flip" patches them.
 *
 * Return: @x plus 1 or 2, and 0x10 more while the key is on.
 */
noinline long djp_test_flipped(long x)
{
	PROBE_POINT("djp_test_flipped_1");
	if (static_branch_unlikely(&djp_test_flip_key))
		x += 0x10;
	PROBE_POINT("djp_test_flipped_2");
	x = static_call(djp_test_flip)(x);
	PROBE_POINT("djp_test_flipped_3");
	return x;
}

static void djp_test_flip_once(void)
{
	static_branch_enable(&djp_test_flip_key);
	static_call_update(djp_test_flip, djp_test_plus_2);
	static_branch_disable(&djp_test_flip_key);
	static_call_update(djp_test_flip, djp_test_plus_1);
}

/* "flip": write N; the key goes on and off, and the call there and back, N times. */
static ssize_t djp_test_flip_write(struct file *file, const char __user *user,
				   size_t len, loff_t *pos)
{
	unsigned long n;
	int ret = kstrtoul_from_user(user, len, 0, &n);

	if (ret)
		return ret;
	while (n--) {
		djp_test_flip_once();
		cond_resched();
	}
	return len;
}

static const struct file_operations djp_test_flip_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = djp_test_flip_write,
	.llseek = noop_llseek,
};

/**
 * djp_test_patched_init() - make the file "flip"
 * @dir: where
 */
void djp_test_patched_init(struct dentry *dir)
{
	debugfs_create_file("flip", 0600, dir, NULL, &djp_test_flip_fops);
}
