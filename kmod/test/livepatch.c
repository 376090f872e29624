// SPDX-License-Identifier: GPL-2.0
/*
 * djp_livepatch: replaces djp_test_entered() while it is enabled.
 *
 * The new one returns the same as the old one, and counts its calls: the old body,
 * and what is probed in it, is not reached meanwhile.
 */
#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static atomic_long_t livepatch_calls;

static long livepatch_entered(long x)
{
	atomic_long_inc(&livepatch_calls);
	return x + 3;
}

static int livepatch_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(kp->arg));
}

static const struct kernel_param_ops livepatch_param = {
	.get = livepatch_get,
};

module_param_cb(calls, &livepatch_param, &livepatch_calls, 0400);
MODULE_PARM_DESC(calls, "Calls of djp_test_entered() that came here");

static struct klp_func livepatch_funcs[] = {
	{ .old_name = "djp_test_entered", .new_func = livepatch_entered },
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
