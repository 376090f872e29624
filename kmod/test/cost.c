// SPDX-License-Identifier: GPL-2.0
/*
 * "cost": what a hit costs, ours and a kprobe's, at functions that are alike. Write
 *
 *	CALLS ROUNDS
 *
 * and in each round each function is called so often, one after the other, with
 * interrupts on. Read a line for each: its name, the byte at its entry, calls,
 * wrong results, hits, and the nanoseconds of each round.
 *
 * The kprobe has no post_handler, so the kernel may optimise or boost it as far as it
 * does that; the test keeps it from being optimised by debug.kprobes-optimization.
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"
#include "djprobes.h"

#define DJP_COST_ROUNDS_MAX 64

asmlinkage long djp_cost_bare(long x);
asmlinkage long djp_cost_int3(long x);
asmlinkage long djp_cost_int3_handler(long x);
asmlinkage long djp_cost_jump(long x);
asmlinkage long djp_cost_jump_handler(long x);
asmlinkage long djp_cost_kprobe(long x);

/* What both handlers do. */
static DEFINE_PER_CPU(unsigned long, djp_cost_handled);

static void djp_cost_on_hit(struct djprobe *p, struct pt_regs *regs)
{
	this_cpu_inc(djp_cost_handled);
}

static int djp_cost_on_kprobe(struct kprobe *kp, struct pt_regs *regs)
{
	this_cpu_inc(djp_cost_handled);
	return 0;
}

enum {
	DJP_COST_BARE,
	DJP_COST_INT3,
	DJP_COST_INT3_HANDLER,
	DJP_COST_JUMP,
	DJP_COST_JUMP_HANDLER,
	DJP_COST_KPROBE,
	DJP_COST_NR
};

/**
 * struct djp_cost_site - a function and what is in it
 * @name: as it is shown
 * @fn: the function
 * @method: of the djprobe
 * @handler: of the djprobe, or NULL
 * @first: the byte at the entry while it was called
 * @calls: how often it was
 * @wrong: how many of the results were
 * @hits: what the probe has counted
 * @ns: for each round
 */
struct djp_cost_site {
	const char		*name;
	long			(*fn)(long x);
	enum djprobe_method	method;
	djprobe_handler_t	handler;
	u8			first;
	unsigned long		calls;
	unsigned long		wrong;
	unsigned long		hits;
	u64			ns[DJP_COST_ROUNDS_MAX];
};

static struct djp_cost_site djp_cost_sites[DJP_COST_NR] = {
	[DJP_COST_BARE] = { "bare", djp_cost_bare },
	[DJP_COST_INT3] = { "int3", djp_cost_int3, DJPROBE_INT3 },
	[DJP_COST_INT3_HANDLER] = {
		"int3_handler", djp_cost_int3_handler, DJPROBE_INT3,
		djp_cost_on_hit },
	[DJP_COST_JUMP] = { "jump", djp_cost_jump, DJPROBE_JUMP },
	[DJP_COST_JUMP_HANDLER] = {
		"jump_handler", djp_cost_jump_handler, DJPROBE_JUMP,
		djp_cost_on_hit },
	[DJP_COST_KPROBE] = { "kprobe", djp_cost_kprobe },
};

static DEFINE_MUTEX(djp_cost_mutex);
static struct djprobe djp_cost_probes[DJP_COST_NR];
static struct kprobe djp_cost_kp;
static unsigned int djp_cost_rounds;

static unsigned long djp_cost_handled_sum(void)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(djp_cost_handled, cpu);
	return sum;
}

static u64 djp_cost_time(struct djp_cost_site *site, unsigned long calls)
{
	unsigned long n, wrong = 0;
	u64 begin, end;

	begin = ktime_get_ns();
	for (n = 0; n < calls; n++)
		wrong += site->fn(39) != 42;
	end = ktime_get_ns();
	site->calls += calls;
	site->wrong += wrong;
	return end - begin;
}

static int djp_cost_run(unsigned long calls, unsigned int rounds)
{
	struct djp_cost_site *site;
	unsigned int round;

	djp_cost_rounds = rounds;
	for (site = djp_cost_sites; site < djp_cost_sites + DJP_COST_NR; site++) {
		site->first = READ_ONCE(*(u8 *)site->fn);
		site->calls = 0;
		site->wrong = 0;
		site->hits = 0;
	}
	for (round = 0; round < rounds; round++) {
		for (site = djp_cost_sites;
		     site < djp_cost_sites + DJP_COST_NR; site++) {
			unsigned long handled;

			migrate_disable();
			handled = djp_cost_handled_sum();
			site->ns[round] = djp_cost_time(site, calls);
			if (site == &djp_cost_sites[DJP_COST_KPROBE])
				site->hits += djp_cost_handled_sum() - handled;
			migrate_enable();
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
		}
	}
	return 0;
}

static int djp_cost_with_djprobes(unsigned long calls, unsigned int rounds)
{
	struct djprobe *ps[DJP_COST_NR];
	int nr = 0, i, ret, left;

	memset(djp_cost_probes, 0, sizeof(djp_cost_probes));
	for (i = 0; i < DJP_COST_NR; i++) {
		struct djprobe *p = &djp_cost_probes[i];

		if (djp_cost_sites[i].method == DJPROBE_ANY)
			continue;
		p->addr = djp_cost_sites[i].fn;
		p->method = djp_cost_sites[i].method;
		p->handler = djp_cost_sites[i].handler;
		ps[nr++] = p;
	}
	ret = register_djprobes(ps, nr);
	if (ret)
		return ret;
	ret = commit_djprobes();
	if (ret > 0)
		ret = -EAGAIN;
	if (!ret)
		ret = djp_cost_run(calls, rounds);
	for (i = 0; i < DJP_COST_NR; i++) {
		if (djp_cost_sites[i].method != DJPROBE_ANY)
			djp_cost_sites[i].hits =
				djprobe_hits(&djp_cost_probes[i]);
	}
	left = unregister_djprobes(ps, nr);
	return ret ?: left;
}

static int djp_cost_measure(unsigned long calls, unsigned int rounds)
{
	int ret;

	memset(&djp_cost_kp, 0, sizeof(djp_cost_kp));
	djp_cost_kp.addr = (kprobe_opcode_t *)djp_cost_kprobe;
	djp_cost_kp.pre_handler = djp_cost_on_kprobe;
	ret = register_kprobe(&djp_cost_kp);
	if (ret)
		return ret;
	djp_test_wait_for_optimizer();
	ret = djp_cost_with_djprobes(calls, rounds);
	unregister_kprobe(&djp_cost_kp);
	djp_test_wait_for_optimizer();
	return ret;
}

static ssize_t djp_cost_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	unsigned long calls;
	unsigned int rounds;
	char buf[64] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	if (sscanf(buf, "%lu %u", &calls, &rounds) != 2 ||
	    rounds > DJP_COST_ROUNDS_MAX)
		return -EINVAL;
	mutex_lock(&djp_cost_mutex);
	ret = djp_cost_measure(calls, rounds);
	mutex_unlock(&djp_cost_mutex);
	return ret ?: len;
}

static int djp_cost_show(struct seq_file *m, void *v)
{
	const struct djp_cost_site *site;
	unsigned int round;

	mutex_lock(&djp_cost_mutex);
	for (site = djp_cost_sites; site < djp_cost_sites + DJP_COST_NR; site++) {
		seq_printf(m, "%s 0x%02x %lu %lu %lu", site->name, site->first,
			   site->calls, site->wrong, site->hits);
		for (round = 0; round < djp_cost_rounds; round++)
			seq_printf(m, " %llu", site->ns[round]);
		seq_putc(m, '\n');
	}
	mutex_unlock(&djp_cost_mutex);
	return 0;
}

static int djp_cost_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_cost_show, NULL);
}

static const struct file_operations djp_cost_fops = {
	.owner = THIS_MODULE,
	.open = djp_cost_open,
	.read = seq_read,
	.write = djp_cost_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_cost_init() - make the file "cost"
 * @dir: where
 */
void djp_test_cost_init(struct dentry *dir)
{
	debugfs_create_file("cost", 0600, dir, NULL, &djp_cost_fops);
}
