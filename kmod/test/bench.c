// SPDX-License-Identifier: GPL-2.0
/*
 * djp_bench: what a hit costs, in ticks of the TSC, which are instructions in a guest
 * that counts them (QEMU's -icount). Who puts a probe there is elsewhere: the files of
 * djprobes, or "peer".
 *
 * "run": write "FUNCTION CALLS ROUNDS", and it is called so often, each round with
 * interrupts off. Read
 *
 *	FUNCTION CALLS WRONG TICKS...
 *
 * the calls of all rounds, how many results were wrong, and the ticks of each round.
 *
 * "points": read a line for each function: its name, the address at which it is to be
 * probed, and 16 bytes from there on as they are now.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/msr.h>

#include "djp_bench.h"

#define DJP_BENCH_ROUNDS_MAX	256
/* Of one round: interrupts are off. */
#define DJP_BENCH_CALLS_MAX	10000
#define DJP_BENCH_ARGUMENT	39

/* int_sqrt() is the kernel's, so there is BTF of it. Hardly anybody calls it. */
static const struct djp_bench_function djp_bench_functions[] = {
	{ "dead", djp_bench_dead, 3, 42 },
	{ "carry", djp_bench_carry, 3, 42 },
	{ "live", djp_bench_live, 3, 42 },
	{ "calm", djp_bench_entry, 8, 42 },
	{ "entry", djp_bench_entry, 0, 42 },
	{ "int_sqrt", int_sqrt, 0, 6 },
};

static struct dentry *djp_bench_dir;
static DEFINE_MUTEX(djp_bench_mutex);
static const struct djp_bench_function *djp_bench_last;
static unsigned long djp_bench_calls;
static unsigned long djp_bench_wrong;
static unsigned int djp_bench_rounds;
static u64 djp_bench_ticks[DJP_BENCH_ROUNDS_MAX];

DEFINE_PER_CPU(unsigned long, djp_bench_hits);

/**
 * djp_bench_find() - a function by its name
 * @name: the name
 *
 * Return: the function, or NULL.
 */
const struct djp_bench_function *djp_bench_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(djp_bench_functions); i++) {
		if (!strcmp(name, djp_bench_functions[i].name))
			return &djp_bench_functions[i];
	}
	return NULL;
}

/**
 * djp_bench_point() - where a function is to be probed
 * @name: of the function
 * @addr: the address
 *
 * Return: 0 or -ENOENT.
 */
int djp_bench_point(const char *name, unsigned long *addr)
{
	const struct djp_bench_function *function = djp_bench_find(name);

	if (!function)
		return -ENOENT;
	*addr = (unsigned long)function->fn + function->point;
	return 0;
}

/**
 * djp_bench_read() - a short line that was written to a file
 * @buf: where to, stripped of the newline
 * @size: of @buf
 * @user: what was written
 * @len: how much
 *
 * Return: 0 or a negative errno.
 */
int djp_bench_read(char *buf, size_t size, const char __user *user, size_t len)
{
	char *end;

	if (len >= size)
		return -EINVAL;
	memset(buf, 0, size);
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	end = strchr(buf, '\n');
	if (end)
		*end = 0;
	return 0;
}

/**
 * djp_bench_read_lines() - many lines that were written to a file
 * @user: what was written
 * @len: how much
 * @max: how much may be
 *
 * Return: the text without its last newline, to be freed with kvfree(), or an ERR_PTR.
 */
char *djp_bench_read_lines(const char __user *user, size_t len, size_t max)
{
	char *text;

	if (len > max)
		return ERR_PTR(-E2BIG);
	text = vmemdup_user(user, len);
	if (IS_ERR(text))
		return text;
	if (!len || text[len - 1] != '\n') {
		kvfree(text);
		return ERR_PTR(-EINVAL);
	}
	text[len - 1] = 0;
	return text;
}

static u64 djp_bench_round(const struct djp_bench_function *function,
			   unsigned long calls)
{
	unsigned long (*fn)(unsigned long x) = function->fn;
	unsigned long n, wrong = 0, want = function->want;
	unsigned long flags;
	u64 begin, end;

	local_irq_save(flags);
	begin = rdtsc();
	for (n = 0; n < calls; n++)
		wrong += fn(DJP_BENCH_ARGUMENT) != want;
	end = rdtsc();
	local_irq_restore(flags);
	djp_bench_calls += calls;
	djp_bench_wrong += wrong;
	return end - begin;
}

static int djp_bench_run(const struct djp_bench_function *function,
			 unsigned long calls, unsigned int rounds)
{
	unsigned int round;

	djp_bench_last = function;
	djp_bench_calls = 0;
	djp_bench_wrong = 0;
	djp_bench_rounds = 0;
	for (round = 0; round < rounds; round++) {
		djp_bench_ticks[round] = djp_bench_round(function, calls);
		djp_bench_rounds++;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static ssize_t djp_bench_run_write(struct file *file, const char __user *user,
				   size_t len, loff_t *pos)
{
	const struct djp_bench_function *function;
	unsigned long calls;
	unsigned int rounds;
	char buf[64], name[32];
	int ret = djp_bench_read(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	if (sscanf(buf, "%31s %lu %u", name, &calls, &rounds) != 3 ||
	    calls > DJP_BENCH_CALLS_MAX || rounds > DJP_BENCH_ROUNDS_MAX)
		return -EINVAL;
	function = djp_bench_find(name);
	if (!function)
		return -ENOENT;
	mutex_lock(&djp_bench_mutex);
	ret = djp_bench_run(function, calls, rounds);
	mutex_unlock(&djp_bench_mutex);
	return ret ?: len;
}

static int djp_bench_run_show(struct seq_file *m, void *v)
{
	unsigned int round;

	mutex_lock(&djp_bench_mutex);
	if (djp_bench_last) {
		seq_printf(m, "%s %lu %lu", djp_bench_last->name,
			   djp_bench_calls, djp_bench_wrong);
		for (round = 0; round < djp_bench_rounds; round++)
			seq_printf(m, " %llu", djp_bench_ticks[round]);
		seq_putc(m, '\n');
	}
	mutex_unlock(&djp_bench_mutex);
	return 0;
}

static int djp_bench_run_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_bench_run_show, NULL);
}

static const struct file_operations djp_bench_run_fops = {
	.owner = THIS_MODULE,
	.open = djp_bench_run_open,
	.read = seq_read,
	.write = djp_bench_run_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int djp_bench_points_show(struct seq_file *m, void *v)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(djp_bench_functions); i++) {
		const struct djp_bench_function *function =
			&djp_bench_functions[i];
		const u8 *at = (const u8 *)function->fn + function->point;

		seq_printf(m, "%s 0x%lx %16ph\n", function->name,
			   (unsigned long)at, at);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(djp_bench_points);

/* "kernel": read "KEY yes|no" lines, what it was built with. */
static int djp_bench_kernel_show(struct seq_file *m, void *v)
{
	seq_printf(m, "preemption %s\n",
		   IS_ENABLED(CONFIG_PREEMPTION) ? "yes" : "no");
	seq_printf(m, "fprobe %s\n", IS_ENABLED(CONFIG_FPROBE) ? "yes" : "no");
	seq_printf(m, "direct %s\n",
		   IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS) ?
		   "yes" : "no");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(djp_bench_kernel);

static int __init djp_bench_init(void)
{
	int ret;

	djp_bench_dir = debugfs_create_dir("djp_bench", NULL);
	if (IS_ERR(djp_bench_dir))
		return PTR_ERR(djp_bench_dir);
	debugfs_create_file("run", 0600, djp_bench_dir, NULL,
			    &djp_bench_run_fops);
	debugfs_create_file("points", 0400, djp_bench_dir, NULL,
			    &djp_bench_points_fops);
	debugfs_create_file("kernel", 0400, djp_bench_dir, NULL,
			    &djp_bench_kernel_fops);
	djp_bench_peer_init(djp_bench_dir);
	djp_bench_entries_init(djp_bench_dir);
	djp_bench_watch_init(djp_bench_dir);
	ret = djp_bench_rate_init(djp_bench_dir);
	if (ret)
		debugfs_remove_recursive(djp_bench_dir);
	return ret;
}

static void __exit djp_bench_exit(void)
{
	debugfs_remove_recursive(djp_bench_dir);
	djp_bench_rate_exit();
	djp_bench_watch_exit();
	djp_bench_entries_exit();
	djp_bench_peer_exit();
}

module_init(djp_bench_init);
module_exit(djp_bench_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Calls that are counted in instructions, for djprobes' benchmarks");
