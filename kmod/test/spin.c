// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel threads that do not sleep: what an RCU-tasks grace period waits for.
 *
 * They share the last CPU, so but for one of them all are preempted at any moment,
 * or have given way in cond_resched(). Neither is a voluntary context switch.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "djp_test.h"

#define DJP_SPIN_THREADS 2
/* The last CPU: the tests' own work is on the first. */
#define DJP_SPIN_CPU (num_online_cpus() - 1)

static DEFINE_MUTEX(djp_spin_mutex);
static struct task_struct *djp_spinners[DJP_SPIN_THREADS];
static unsigned long djp_spin_until;

static int djp_spin_run(void *data)
{
	while (!kthread_should_stop() &&
	       time_before(jiffies, READ_ONCE(djp_spin_until))) {
		/* No cpu_relax(): an emulator leaves its loop there. */
		cond_resched();
	}
	/* From here on nobody waits for it. */
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void djp_spin_stop(void)
{
	unsigned int i;

	for (i = 0; i < DJP_SPIN_THREADS; i++) {
		if (djp_spinners[i])
			kthread_stop(djp_spinners[i]);
		djp_spinners[i] = NULL;
	}
}

static int djp_spin_start(unsigned int ms)
{
	struct task_struct *task;
	unsigned int i;

	WRITE_ONCE(djp_spin_until, jiffies + msecs_to_jiffies(ms));
	for (i = 0; i < DJP_SPIN_THREADS; i++) {
		task = kthread_create(djp_spin_run, NULL, "djp_spin/%u", i);
		if (IS_ERR(task))
			return PTR_ERR(task);
		kthread_bind(task, DJP_SPIN_CPU);
		djp_spinners[i] = task;
		wake_up_process(task);
	}
	return 0;
}

/* "spin": write for how many milliseconds; 0 ends it at once. */
static ssize_t djp_spin_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	unsigned int ms;
	int ret = kstrtouint_from_user(user, len, 0, &ms);

	if (ret)
		return ret;
	mutex_lock(&djp_spin_mutex);
	djp_spin_stop();
	if (ms)
		ret = djp_spin_start(ms);
	if (ret)
		djp_spin_stop();
	mutex_unlock(&djp_spin_mutex);
	return ret ?: len;
}

static const struct file_operations djp_spin_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = djp_spin_write,
};

/**
 * djp_test_spin_init() - make the file "spin"
 * @dir: where
 */
void djp_test_spin_init(struct dentry *dir)
{
	debugfs_create_file("spin", 0200, dir, NULL, &djp_spin_fops);
}

/**
 * djp_test_spin_exit() - end the threads
 */
void djp_test_spin_exit(void)
{
	mutex_lock(&djp_spin_mutex);
	djp_spin_stop();
	mutex_unlock(&djp_spin_mutex);
}
