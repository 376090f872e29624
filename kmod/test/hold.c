// SPDX-License-Identifier: GPL-2.0
/*
 * The adversary: a kernel thread preempted exactly inside a JTPR, and kept there.
 *
 * A hardware breakpoint inside djp_test_victim()'s DCR raises an irq_work, which
 * wakes a SCHED_FIFO thread on that CPU: the victim is preempted on return from
 * that interrupt, with its saved IP at the breakpoint, for as long as the hog
 * runs. Kernel threads are not frozen, so the freezer is no help.
 *
 * RT throttling must be off (kernel.sched_rt_runtime_us = -1), or the victim
 * gets its CPU back after a second.
 */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/hw_breakpoint.h>
#include <linux/irq_work.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "djp_test.h"

/* The last CPU: the tests' own work is on the first. */
#define DJP_HOLD_CPU (num_online_cpus() - 1)

static DEFINE_MUTEX(djp_hold_mutex);
static struct task_struct *djp_victim;
static struct task_struct *djp_hog;
static struct perf_event * __percpu *djp_hold_bp;
static struct irq_work djp_hold_work;
static DECLARE_COMPLETION(djp_hog_go);
static DECLARE_COMPLETION(djp_hold_begun);
static bool djp_hold_armed;
static bool djp_hold_release;
static unsigned long djp_victim_calls;
static unsigned long djp_victim_wrong;

static void djp_hold_irq_work(struct irq_work *work)
{
	complete(&djp_hog_go);
}

/* #DB context: as restricted as an NMI, which irq_work_queue() is made for. */
static void djp_hold_hit(struct perf_event *bp, struct perf_sample_data *data,
			 struct pt_regs *regs)
{
	if (current == djp_victim && xchg(&djp_hold_armed, false))
		irq_work_queue(&djp_hold_work);
}

static int djp_hog_run(void *data)
{
	wait_for_completion(&djp_hog_go);
	if (!READ_ONCE(djp_hold_release))
		complete(&djp_hold_begun);
	/* stop_machine()'s thread is above SCHED_FIFO and gets through. */
	while (!READ_ONCE(djp_hold_release)) {
		cpu_relax();
		cond_resched();
	}
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static int djp_victim_run(void *data)
{
	while (!kthread_should_stop()) {
		djp_victim_calls++;
		if (djp_test_victim() != 2)
			djp_victim_wrong++;
		cond_resched();
	}
	return 0;
}

static struct task_struct *djp_hold_thread(int (*fn)(void *), const char *name)
{
	struct task_struct *task = kthread_create(fn, NULL, "%s", name);

	if (!IS_ERR(task))
		kthread_bind(task, DJP_HOLD_CPU);
	return task;
}

static void djp_hold_stop(void)
{
	WRITE_ONCE(djp_hold_release, true);
	WRITE_ONCE(djp_hold_armed, false);
	complete(&djp_hog_go);
	if (djp_hold_bp)
		unregister_wide_hw_breakpoint(djp_hold_bp);
	djp_hold_bp = NULL;
	irq_work_sync(&djp_hold_work);
	if (djp_hog)
		kthread_stop(djp_hog);
	if (djp_victim)
		kthread_stop(djp_victim);
	djp_hog = NULL;
	djp_victim = NULL;
}

/* Where to hold it: 1 is inside the DCR, anything else an address. */
static int djp_hold_start(unsigned long where)
{
	struct perf_event_attr attr;
	struct task_struct *task;

	reinit_completion(&djp_hog_go);
	reinit_completion(&djp_hold_begun);
	djp_hold_release = false;

	task = djp_hold_thread(djp_hog_run, "djp_hog");
	if (IS_ERR(task))
		return PTR_ERR(task);
	djp_hog = task;
	sched_set_fifo(task);
	wake_up_process(task);

	task = djp_hold_thread(djp_victim_run, "djp_victim");
	if (IS_ERR(task))
		return PTR_ERR(task);
	djp_victim = task;

	hw_breakpoint_init(&attr);
	/* An address in the code would make it a branch target for djprobes. */
	attr.bp_addr = (unsigned long)djp_test_victim;
	OPTIMIZER_HIDE_VAR(attr.bp_addr);
	attr.bp_addr += DJP_TEST_INSIDE;
	if (where != 1)
		attr.bp_addr = where;
	attr.bp_len = sizeof(long);
	attr.bp_type = HW_BREAKPOINT_X;
	djp_hold_bp = register_wide_hw_breakpoint(&attr, djp_hold_hit, NULL);
	if (IS_ERR((void __force *)djp_hold_bp)) {
		int ret = PTR_ERR((void __force *)djp_hold_bp);

		djp_hold_bp = NULL;
		return ret;
	}
	WRITE_ONCE(djp_hold_armed, true);
	wake_up_process(djp_victim);
	if (!wait_for_completion_timeout(&djp_hold_begun, 10 * HZ))
		return -ETIMEDOUT;
	return 0;
}

/*
 * "hold": write 1 or an address that djp_test_victim() passes through, and it
 * returns when the victim is held; write 0 to let go.
 */
static ssize_t djp_hold_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	unsigned long on;
	int ret = kstrtoul_from_user(user, len, 0, &on);

	if (ret)
		return ret;
	mutex_lock(&djp_hold_mutex);
	if (on && djp_victim)
		ret = -EBUSY;
	else if (on)
		ret = djp_hold_start(on);
	if (!on || (ret && ret != -EBUSY))
		djp_hold_stop();
	mutex_unlock(&djp_hold_mutex);
	return ret ?: len;
}

static int djp_hold_show(struct seq_file *m, void *v)
{
	seq_printf(m, "held %d\ncalls %lu\nwrong %lu\n",
		   completion_done(&djp_hold_begun) ||
		   (djp_victim && !READ_ONCE(djp_hold_armed)),
		   djp_victim_calls, djp_victim_wrong);
	return 0;
}

static int djp_hold_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_hold_show, NULL);
}

static const struct file_operations djp_hold_fops = {
	.owner = THIS_MODULE,
	.open = djp_hold_open,
	.read = seq_read,
	.write = djp_hold_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_hold_init() - make the file "hold"
 * @dir: where
 */
int djp_test_hold_init(struct dentry *dir)
{
	djp_hold_work = IRQ_WORK_INIT_HARD(djp_hold_irq_work);
	debugfs_create_file("hold", 0600, dir, NULL, &djp_hold_fops);
	return 0;
}

/**
 * djp_test_hold_exit() - let go of the victim
 */
void djp_test_hold_exit(void)
{
	mutex_lock(&djp_hold_mutex);
	djp_hold_stop();
	mutex_unlock(&djp_hold_mutex);
}
