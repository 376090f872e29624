// SPDX-License-Identifier: GPL-2.0
/*
 * A djprobe that comes and goes at an address as fast as it can, every fourth
 * time as a jump.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "djp_test.h"
#include "djprobes.h"

static DEFINE_MUTEX(djp_churn_mutex);
static struct task_struct *djp_churner;
static unsigned long djp_churn_addr;
static bool djp_churn_end;
static bool djp_churn_ended;
static struct djprobe djp_churn_probe;

static struct {
	unsigned long	added;
	unsigned long	refused;
	unsigned long	committed;
	unsigned long	stuck;
	u64		hits;
} djp_churn;

/* Somebody else's bytes in the way refuse a removal: try again, they are leaving. */
static void djp_churn_remove(void)
{
	djp_churn.hits += djprobe_hits(&djp_churn_probe);
	while (unregister_djprobe(&djp_churn_probe)) {
		djp_churn.stuck++;
		schedule_timeout_uninterruptible(1);
	}
}

static int djp_churn_run(void *data)
{
	while (!READ_ONCE(djp_churn_end)) {
		memset(&djp_churn_probe, 0, sizeof(djp_churn_probe));
		djp_churn_probe.addr = (void *)djp_churn_addr;
		if (register_djprobe(&djp_churn_probe)) {
			djp_churn.refused++;
			schedule_timeout_interruptible(1);
			continue;
		}
		djp_churn.added++;
		if (djp_churn.added % 4 == 0)
			djp_churn.committed += commit_djprobes() == 0;
		djp_churn_remove();
	}
	WRITE_ONCE(djp_churn_ended, true);
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void djp_churn_stop(void)
{
	WRITE_ONCE(djp_churn_end, true);
	if (djp_churner)
		kthread_stop(djp_churner);
	djp_churner = NULL;
}

static int djp_churn_start(unsigned long addr)
{
	struct task_struct *task;

	memset(&djp_churn, 0, sizeof(djp_churn));
	djp_churn_addr = addr;
	djp_churn_end = false;
	djp_churn_ended = false;
	task = kthread_run(djp_churn_run, NULL, "djp_churn");
	if (IS_ERR(task))
		return PTR_ERR(task);
	djp_churner = task;
	return 0;
}

/*
 * "churn": write an address to begin, 0 to end, and read until it says "ended 1":
 * who waits in the kernel for a thread that freezes everybody can't be frozen.
 */
static ssize_t djp_churn_write(struct file *file, const char __user *user,
			       size_t len, loff_t *pos)
{
	unsigned long addr;
	int ret = kstrtoul_from_user(user, len, 0, &addr);

	if (ret)
		return ret;
	mutex_lock(&djp_churn_mutex);
	if (!addr) {
		WRITE_ONCE(djp_churn_end, true);
	} else if (djp_churner && !READ_ONCE(djp_churn_ended)) {
		ret = -EBUSY;
	} else {
		djp_churn_stop();
		ret = djp_churn_start(addr);
	}
	mutex_unlock(&djp_churn_mutex);
	return ret ?: len;
}

static int djp_churn_show(struct seq_file *m, void *v)
{
	seq_printf(m, "ended %d\n", READ_ONCE(djp_churn_ended));
	seq_printf(m, "added %lu\nrefused %lu\n", djp_churn.added,
		   djp_churn.refused);
	seq_printf(m, "committed %lu\nstuck %lu\nhits %llu\n",
		   djp_churn.committed, djp_churn.stuck, djp_churn.hits);
	return 0;
}

static int djp_churn_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_churn_show, NULL);
}

static const struct file_operations djp_churn_fops = {
	.owner = THIS_MODULE,
	.open = djp_churn_open,
	.read = seq_read,
	.write = djp_churn_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_churn_init() - make the file "churn"
 * @dir: where
 */
void djp_test_churn_init(struct dentry *dir)
{
	debugfs_create_file("churn", 0600, dir, NULL, &djp_churn_fops);
}

/**
 * djp_test_churn_exit() - end it
 */
void djp_test_churn_exit(void)
{
	mutex_lock(&djp_churn_mutex);
	djp_churn_stop();
	mutex_unlock(&djp_churn_mutex);
}
