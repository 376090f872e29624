// SPDX-License-Identifier: GPL-2.0
/*
 * How many events are there room for? A function is called on all CPUs at once, by a task on
 * each, with interrupts and preemption as they are.
 *
 * "rate": write "FUNCTION CALLS", and each CPU calls it so often. Read
 *
 *	FUNCTION CPUS CALLS WRONG NS
 *
 * the calls of all CPUs together, how many results were wrong, and the time from the first
 * call to the last.
 */
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "djp_bench.h"

#define DJP_RATE_CALLS_MAX	10000000
#define DJP_RATE_ARGUMENT	39
/* Between two looks at whether others want to run. */
#define DJP_RATE_AT_ONCE	1000

/**
 * struct djp_rate - one CPU's part of a run
 * @work: the work
 * @begin: nanoseconds, when it began to call
 * @end: and when it was done
 * @wrong: how many results were
 */
struct djp_rate {
	struct work_struct	work;
	u64			begin;
	u64			end;
	unsigned long		wrong;
};

static DEFINE_PER_CPU(struct djp_rate, djp_rates);
static DEFINE_MUTEX(djp_rate_mutex);
static struct workqueue_struct *djp_rate_wq;

/* The run under way, and the last one's results; djp_rate_mutex guards them. */
static const struct djp_bench_function *djp_rate_function;
static unsigned long djp_rate_calls;
static atomic_t djp_rate_missing;
static unsigned int djp_rate_cpus;
static unsigned long djp_rate_wrong;
static u64 djp_rate_ns;

static void djp_rate_work(struct work_struct *work)
{
	struct djp_rate *rate = container_of(work, struct djp_rate, work);
	const struct djp_bench_function *function = djp_rate_function;
	unsigned long n;

	/* Till all are here. They have a CPU each, so it does not take long. */
	atomic_dec(&djp_rate_missing);
	while (atomic_read(&djp_rate_missing) > 0)
		cond_resched();
	rate->wrong = 0;
	rate->begin = ktime_get_ns();
	for (n = 0; n < djp_rate_calls; n++) {
		rate->wrong += function->fn(DJP_RATE_ARGUMENT) != function->want;
		if (n % DJP_RATE_AT_ONCE == 0)
			cond_resched();
	}
	rate->end = ktime_get_ns();
}

static void djp_rate_run(void)
{
	u64 begin = U64_MAX, end = 0;
	int cpu;

	cpus_read_lock();
	djp_rate_cpus = num_online_cpus();
	djp_rate_wrong = 0;
	atomic_set(&djp_rate_missing, djp_rate_cpus);
	for_each_online_cpu(cpu) {
		struct djp_rate *rate = per_cpu_ptr(&djp_rates, cpu);

		INIT_WORK(&rate->work, djp_rate_work);
		queue_work_on(cpu, djp_rate_wq, &rate->work);
	}
	for_each_online_cpu(cpu) {
		struct djp_rate *rate = per_cpu_ptr(&djp_rates, cpu);

		flush_work(&rate->work);
		begin = min(begin, rate->begin);
		end = max(end, rate->end);
		djp_rate_wrong += rate->wrong;
	}
	cpus_read_unlock();
	djp_rate_ns = end - begin;
}

static ssize_t djp_rate_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	const struct djp_bench_function *function;
	char buf[64], name[32];
	unsigned long calls;
	int ret = djp_bench_read(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	if (sscanf(buf, "%31s %lu", name, &calls) != 2 || !calls ||
	    calls > DJP_RATE_CALLS_MAX)
		return -EINVAL;
	function = djp_bench_find(name);
	if (!function)
		return -ENOENT;
	mutex_lock(&djp_rate_mutex);
	djp_rate_function = function;
	djp_rate_calls = calls;
	djp_rate_run();
	mutex_unlock(&djp_rate_mutex);
	return len;
}

static int djp_rate_show(struct seq_file *m, void *v)
{
	mutex_lock(&djp_rate_mutex);
	if (djp_rate_function)
		seq_printf(m, "%s %u %lu %lu %llu\n", djp_rate_function->name,
			   djp_rate_cpus, djp_rate_cpus * djp_rate_calls,
			   djp_rate_wrong, djp_rate_ns);
	mutex_unlock(&djp_rate_mutex);
	return 0;
}

static int djp_rate_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_rate_show, NULL);
}

static const struct file_operations djp_rate_fops = {
	.owner = THIS_MODULE,
	.open = djp_rate_open,
	.read = seq_read,
	.write = djp_rate_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_bench_rate_init() - make the file "rate"
 * @dir: where
 *
 * Context: module load.
 * Return: 0 or -ENOMEM.
 */
int djp_bench_rate_init(struct dentry *dir)
{
	djp_rate_wq = alloc_workqueue("djp_bench", WQ_CPU_INTENSIVE, 0);
	if (!djp_rate_wq)
		return -ENOMEM;
	debugfs_create_file("rate", 0600, dir, NULL, &djp_rate_fops);
	return 0;
}

/**
 * djp_bench_rate_exit() - end it
 *
 * Context: module unload; the file is gone.
 */
void djp_bench_rate_exit(void)
{
	destroy_workqueue(djp_rate_wq);
}
