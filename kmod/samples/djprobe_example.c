// SPDX-License-Identifier: GPL-2.0
/*
 * A handler on a kernel function, through the in-kernel interface.
 *
 *	insmod djprobe_example.ko symbol=vfs_write
 *	... grep djprobe_example /sys/kernel/debug/djprobes/probes
 *	rmmod djprobe_example
 *
 * At unload it logs how often the function was called, and the largest second
 * argument that it was called with.
 */
#include <linux/module.h>

#include "djprobes.h"

static char *symbol = "vfs_write";
module_param(symbol, charp, 0444);
MODULE_PARM_DESC(symbol, "the function to probe");

static atomic_long_t example_largest = ATOMIC_LONG_INIT(0);

/* Any context, preemption disabled: no sleeping, no FPU. */
static void example_handler(struct djprobe *p, struct pt_regs *regs)
{
	long arg = regs_get_kernel_argument(regs, 1);
	long seen = atomic_long_read(&example_largest);

	while (arg > seen &&
	       !atomic_long_try_cmpxchg(&example_largest, &seen, arg))
		;
}

static struct djprobe example_probe = {
	.handler = example_handler,
};

static int __init example_init(void)
{
	int ret;

	example_probe.symbol_name = symbol;
	ret = register_djprobe(&example_probe);
	if (ret)
		return ret;

	/* Without this the probe works too, at the cost of a trap a hit. */
	ret = commit_djprobes();
	if (ret < 0) {
		unregister_djprobe(&example_probe);
		return ret;
	}
	pr_info("probe on %s at %pS\n", symbol, example_probe.addr);
	return 0;
}

static void __exit example_exit(void)
{
	u64 hits = djprobe_hits(&example_probe);
	int ret = unregister_djprobe(&example_probe);

	WARN_ON(ret);	/* somebody else patched the same bytes */
	pr_info("%s: %llu hits, largest second argument 0x%lx\n", symbol, hits,
		atomic_long_read(&example_largest));
}

module_init(example_init);
module_exit(example_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sample user of djprobes");
