// SPDX-License-Identifier: GPL-2.0
/*
 * What must not be probed because a bypass's int3 would reach it again.
 *
 * Between the exception and our notifier the kernel runs code that is not on
 * kprobes' blacklist: kprobes is asked first, from a hook of its own, and has no
 * need for it. An int3 there recurses until the stack is gone. The set differs
 * between kernels and configurations, so it is found by following the calls of
 * the running kernel's own int3 path.
 *
 * Followed is the half of exc_int3() that handles kernel mode
 * (arch/x86/kernel/traps.c): irqentry_nmi_enter(), kprobe_int3_handler(),
 * notify_die() and the die chain, irqentry_nmi_exit().
 */
#include <linux/kallsyms.h>
#include <linux/notifier.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include "x86/x86.h"

#define DJP_PATH_MAX 512

/**
 * struct djp_range - a function
 * @start: its first byte
 * @end: one behind its last
 * @leaf: its callees do not run on this path
 */
struct djp_range {
	unsigned long	start;
	unsigned long	end;
	bool		leaf;
};

static struct djp_range *djp_path;
static unsigned int djp_path_nr;

static const char * const djp_path_roots[] = {
	"exc_int3",
	"notify_die",
};

/*
 * Not followed: exc_int3()'s user-mode half, what ends in an oops anyway, and
 * what reports.
 */
static const char * const djp_path_not[] = {
	"irqentry_enter_from_user_mode",
	"irqentry_exit_to_user_mode",
	"do_int3_user",
	"do_trap",
	"die",
	"panic",
	"_printk",
	"__warn_printk",
	"dump_kprobe",
	"__stack_chk_fail",
	"lockdep_rcu_suspicious",
};

/*
 * Called for other contexts, or left at once in this one, because in_nmi():
 * kernel/rcu/tree_plugin.h, ct_nmi_enter() in kernel/context_tracking.c. What
 * they call would lead through half of the kernel.
 */
static const char * const djp_path_leaves[] = {
	"rcu_read_unlock_special",
	"__rcu_irq_enter_check_tick",
};

static bool djp_is_one_of(unsigned long addr, const char * const *names, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		if (djp_k.lookup_name(names[i]) == addr)
			return true;
	}
	return false;
}

static int djp_path_add(unsigned long addr, bool leaf)
{
	unsigned long size, offset;
	unsigned int i;

	if (addr < (unsigned long)djp_k._stext ||
	    addr >= (unsigned long)djp_k._etext)
		return 0;
	if (!djp_k.kallsyms_lookup_size_offset(addr, &size, &offset))
		return 0;
	addr -= offset;
	for (i = 0; i < djp_path_nr; i++) {
		if (djp_path[i].start == addr)
			return 0;
	}
	if (djp_is_one_of(addr, djp_path_not, ARRAY_SIZE(djp_path_not)))
		return 0;
	if (djp_path_nr == DJP_PATH_MAX)
		return -E2BIG;
	if (djp_is_one_of(addr, djp_path_leaves, ARRAY_SIZE(djp_path_leaves)))
		leaf = true;
	djp_path[djp_path_nr++] = (struct djp_range) {
		.start = addr, .end = addr + size, .leaf = leaf,
	};
	return 0;
}

/* Where a direct call or jump goes, or 0. */
static unsigned long djp_path_target(const struct insn *insn, unsigned long next)
{
	u8 op1 = insn->opcode.bytes[0];
	u8 op2 = insn->opcode.bytes[1];

	if (insn->vex_prefix.nbytes)
		return 0;
	if (op1 == 0xe8 || op1 == 0xe9 || op1 == 0xeb ||
	    (op1 >= 0x70 && op1 <= 0x7f) ||
	    (op1 == 0x0f && op2 >= 0x80 && op2 <= 0x8f))
		return next + (long)(s32)insn->immediate.value;
	return 0;
}

static int djp_path_follow(const struct djp_range *fn)
{
	unsigned long addr, target;
	struct insn insn;
	int ret = 0;
	int len;

	for (addr = fn->start; addr < fn->end && !ret; addr += len) {
		len = djp_decode(&insn, addr, fn->end);
		if (len < 0)
			break;
		target = djp_path_target(&insn, addr + len);
		if (target && (target < fn->start || target >= fn->end))
			ret = djp_path_add(target, false);
	}
	return ret;
}

/*
 * The chain's members before ours. Each looks at what happened and returns at
 * once for an int3 that is not its own, so their callees are not followed.
 */
static int djp_path_add_die_chain(void)
{
	struct notifier_block *nb;
	int ret = 0;

	if (!djp_k.die_chain)
		return -ENOENT;
	rcu_read_lock();
	for (nb = rcu_dereference(djp_k.die_chain->head); nb && !ret;
	     nb = rcu_dereference(nb->next))
		ret = djp_path_add((unsigned long)nb->notifier_call, true);
	rcu_read_unlock();
	return ret;
}

static int djp_range_cmp(const void *a, const void *b)
{
	const struct djp_range *ra = a, *rb = b;

	return ra->start < rb->start ? -1 : ra->start > rb->start;
}

/**
 * djp_int3_path_init() - find the functions that the int3 path runs
 *
 * Context: module load, after djp_textmap_init().
 * Return: 0 or a negative errno, named in the log.
 */
int djp_int3_path_init(void)
{
	unsigned int i;
	int ret = 0;

	djp_path = kcalloc(DJP_PATH_MAX, sizeof(*djp_path), GFP_KERNEL);
	if (!djp_path)
		return -ENOMEM;

	mutex_lock(&djp_mutex);
	for (i = 0; i < ARRAY_SIZE(djp_path_roots) && !ret; i++) {
		unsigned long addr = djp_k.lookup_name(djp_path_roots[i]);

		ret = addr ? djp_path_add(addr, false) : -ENOENT;
	}
	if (!ret)
		ret = djp_path_add_die_chain();
	for (i = 0; i < djp_path_nr && !ret; i++) {
		if (!djp_path[i].leaf)
			ret = djp_path_follow(&djp_path[i]);
	}
	mutex_unlock(&djp_mutex);
	if (ret) {
		pr_err("can't follow the int3 path of this kernel (%d, %u functions)\n",
		       ret, djp_path_nr);
		djp_int3_path_exit();
		return ret;
	}
	sort(djp_path, djp_path_nr, sizeof(*djp_path), djp_range_cmp, NULL);
	return 0;
}

/**
 * djp_int3_path_exit() - free what djp_int3_path_init() found
 */
void djp_int3_path_exit(void)
{
	kfree(djp_path);
	djp_path = NULL;
	djp_path_nr = 0;
}

/**
 * djp_on_int3_path() - would an int3 here recurse?
 * @addr: a kernel text address
 */
bool djp_on_int3_path(unsigned long addr)
{
	unsigned int lo = 0, hi = djp_path_nr;

	while (lo < hi) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (addr < djp_path[mid].start)
			hi = mid;
		else if (addr >= djp_path[mid].end)
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

/**
 * djp_int3_path_show() - for debugfs' features file
 * @m: where to
 */
void djp_int3_path_show(struct seq_file *m)
{
	unsigned int i, open = 0;

	seq_puts(m, "int3_path");
	for (i = 0; i < djp_path_nr; i++) {
		if (djp_k.within_kprobe_blacklist(djp_path[i].start))
			continue;
		seq_printf(m, " %ps", (void *)djp_path[i].start);
		open++;
	}
	seq_putc(m, '\n');
	seq_printf(m, "int3_path_functions %u\n", djp_path_nr);
	seq_printf(m, "int3_path_not_blacklisted %u\n", open);
}
