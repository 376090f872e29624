// SPDX-License-Identifier: GPL-2.0
/*
 * djp_livepatch: replaces two functions of djp_test while it is enabled.
 *
 * The new ones return the same as the old ones, and count their calls: the old
 * bodies, and what is probed in them, are not reached meanwhile.
 */
#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static atomic_long_t entered_calls;
static atomic_long_t endbr_calls;

static long livepatch_entered(long x)
{
	atomic_long_inc(&entered_calls);
	return x + 3;
}

static long livepatch_endbr(long x)
{
	atomic_long_inc(&endbr_calls);
	return x + 3;
}

static int livepatch_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(kp->arg));
}

static const struct kernel_param_ops livepatch_param = {
	.get = livepatch_get,
};

module_param_cb(entered, &livepatch_param, &entered_calls, 0400);
MODULE_PARM_DESC(entered, "Calls of djp_test_entered() that came here");
module_param_cb(endbr, &livepatch_param, &endbr_calls, 0400);
MODULE_PARM_DESC(endbr, "Calls of djp_test_endbr() that came here");

static struct klp_func livepatch_funcs[] = {
	{ .old_name = "djp_test_entered", .new_func = livepatch_entered },
	{ .old_name = "djp_test_endbr", .new_func = livepatch_endbr },
	{ }
};

static struct klp_object livepatch_objs[] = {
	{ .name = "djp_test", .funcs = livepatch_funcs },
	{ }
};

static struct klp_patch livepatch_patch = {
	.mod = THIS_MODULE,
	.objs = livepatch_objs,
};

static int __init livepatch_init(void)
{
	return klp_enable_patch(&livepatch_patch);
}

static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("A livepatch, for djprobes' tests");
