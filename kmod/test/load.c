// SPDX-License-Identifier: GPL-2.0
/*
 * A load of known size: threads that call functions which check themselves.
 *
 * They are kernel threads, so they go on while the freezer has stopped
 * everybody else; and they sleep now and then, so that a livepatch can move them.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"

#define DJP_LOAD_THREADS 8
#define DJP_LOAD_BURST 256	/* calls from one sleep to the next */

struct djp_load {
	struct task_struct	*task;
	int			which;
	unsigned long		calls;
	unsigned long		wrong;
};

static DEFINE_MUTEX(djp_load_mutex);
static struct djp_load djp_loads[DJP_LOAD_THREADS];
static unsigned int djp_nr_loads;

static int djp_load_run(void *data)
{
	struct djp_load *load = data;

	set_user_nice(current, MAX_NICE);
	while (!kthread_should_stop()) {
		if (djp_test_check(load->which))
			load->wrong++;
		load->calls++;
		if (load->calls % DJP_LOAD_BURST == 0)
			schedule_timeout_interruptible(1);
		else
			cond_resched();
	}
	return 0;
}

static void djp_load_stop(void)
{
	unsigned int i;

	for (i = 0; i < djp_nr_loads; i++) {
		if (djp_loads[i].task)
			kthread_stop(djp_loads[i].task);
		djp_loads[i].task = NULL;
	}
}

static int djp_load_add(const char *name)
{
	struct djp_load *load = &djp_loads[djp_nr_loads];
	struct task_struct *task;

	if (djp_nr_loads == DJP_LOAD_THREADS)
		return -ENOSPC;
	memset(load, 0, sizeof(*load));
	load->which = djp_test_find(name);
	if (load->which < 0)
		return load->which;
	task = kthread_run(djp_load_run, load, "djp_load/%u", djp_nr_loads);
	if (IS_ERR(task))
		return PTR_ERR(task);
	load->task = task;
	djp_nr_loads++;
	return 0;
}

/*
 * "load": write names of functions, with a space between, and a thread for each
 * calls it; write "stop" and they end. Writing names forgets what was counted.
 */
static ssize_t djp_load_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	char *buf, *names, *name;
	int ret = 0;

	buf = memdup_user_nul(user, len);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	names = strim(buf);
	mutex_lock(&djp_load_mutex);
	djp_load_stop();
	if (strcmp(names, "stop")) {
		djp_nr_loads = 0;
		while (!ret && (name = strsep(&names, " ")))
			ret = djp_load_add(name);
	}
	mutex_unlock(&djp_load_mutex);
	kfree(buf);
	return ret ?: len;
}

/* A line for each thread: name, calls, wrong results. */
static int djp_load_show(struct seq_file *m, void *v)
{
	unsigned int i;

	mutex_lock(&djp_load_mutex);
	for (i = 0; i < djp_nr_loads; i++)
		seq_printf(m, "%s %lu %lu\n",
			   djp_test_name(djp_loads[i].which),
			   READ_ONCE(djp_loads[i].calls),
			   READ_ONCE(djp_loads[i].wrong));
	mutex_unlock(&djp_load_mutex);
	return 0;
}

static int djp_load_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_load_show, NULL);
}

static const struct file_operations djp_load_fops = {
	.owner = THIS_MODULE,
	.open = djp_load_open,
	.read = seq_read,
	.write = djp_load_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_load_init() - make the file "load"
 * @dir: where
 */
void djp_test_load_init(struct dentry *dir)
{
	debugfs_create_file("load", 0600, dir, NULL, &djp_load_fops);
}

/**
 * djp_test_load_exit() - end the threads
 */
void djp_test_load_exit(void)
{
	mutex_lock(&djp_load_mutex);
	djp_load_stop();
	mutex_unlock(&djp_load_mutex);
}
