// SPDX-License-Identifier: GPL-2.0
/*
 * Victims: tasks that do nothing but call a function made to be probed.
 *
 * A kernel thread, a softirq that it raises, or a process that writes the function's
 * name to a file again and again. hold.c holds them. Each call is counted before it
 * is made, and its result compared.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"
#include "djprobes.h"
#include "hold.h"

/* Calls from one sleep to the next. */
#define DJP_VICTIM_BURST 1024

/**
 * struct djp_victim_fn - what a victim calls
 * @name: of the function
 * @check: calls it; 0 if its result is right
 * @calls: made, the one that is under way too
 * @wrong: results
 */
struct djp_victim_fn {
	const char	*name;
	long (*check)(void);
	unsigned long	calls;
	unsigned long	wrong;
};

static long djp_victim_check(void)
{
	return djp_test_victim() - 2;
}

static long djp_victim_check_sleepy(void)
{
	return djp_test_sleepy(35) - 42;
}

static struct djp_victim_fn djp_victim_fns[] = {
	{ "djp_test_victim", djp_victim_check },
	{ "djp_test_sleepy", djp_victim_check_sleepy },
};

/* hold.c's mutex guards the pointer. */
static struct task_struct *djp_victim_thread;
static bool djp_victim_raises;
/* The process that is in the file's write now. */
static struct task_struct *djp_victim_process;
static bool djp_victim_calling;

static unsigned long djp_victim_handled;
static unsigned long djp_victim_late;
static bool djp_victim_in_handler;
static bool djp_victim_registered;

/**
 * djp_test_sleeper() - what djp_test_sleepy() calls
 * @x: any number
 *
 * Sleeps, if the caller is to be held so.
 * Return: @x.
 */
asmlinkage __visible long djp_test_sleeper(long x)
{
	djp_hold_here(DJP_HOLD_SLEEP);
	return x;
}

static void djp_victim_call(struct djp_victim_fn *fn)
{
	fn->calls++;
	WRITE_ONCE(djp_victim_calling, true);
	barrier();
	fn->wrong += fn->check() != 0;
	barrier();
	WRITE_ONCE(djp_victim_calling, false);
}

static void djp_victim_softirq_run(struct tasklet_struct *tasklet)
{
	djp_victim_call(&djp_victim_fns[0]);
}

static DECLARE_TASKLET(djp_victim_softirq, djp_victim_softirq_run);

/* On the CPU's interrupt stack (do_softirq_own_stack()), with us as current. */
static void djp_victim_raise(void)
{
	local_bh_disable();
	tasklet_schedule(&djp_victim_softirq);
	local_bh_enable();
}

static int djp_victim_run(void *data)
{
	struct djp_victim_fn *fn = data;

	while (!kthread_should_stop()) {
		if (djp_victim_raises)
			djp_victim_raise();
		else
			djp_victim_call(fn);
		/* RCU-tasks waits for whoever does not sleep of itself. */
		if (fn->calls % DJP_VICTIM_BURST == 0)
			schedule_timeout_interruptible(1);
		else
			cond_resched();
	}
	return 0;
}

/**
 * djp_victim_start() - start the kernel thread
 * @kind: itself or a softirq is the victim
 * @sleepy: it is to call djp_test_sleepy(), else djp_test_victim()
 *
 * Return: 0 or a negative errno.
 */
int djp_victim_start(enum djp_victim_kind kind, bool sleepy)
{
	struct task_struct *task;

	djp_victim_raises = kind == DJP_VICTIM_SOFTIRQ;
	task = kthread_create(djp_victim_run, &djp_victim_fns[sleepy],
			      "djp_victim");
	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, DJP_HOLD_CPU);
	/* Some of these tests kill it. */
	get_task_struct(task);
	WRITE_ONCE(djp_victim_thread, task);
	wake_up_process(task);
	return 0;
}

/**
 * djp_victim_stop() - end it, if there is one
 */
void djp_victim_stop(void)
{
	if (!djp_victim_thread)
		return;
	kthread_stop(djp_victim_thread);
	tasklet_kill(&djp_victim_softirq);
	put_task_struct(djp_victim_thread);
	WRITE_ONCE(djp_victim_thread, NULL);
}

/**
 * djp_victim_is() - is this task the victim?
 * @kind: which of them
 * @task: a task
 *
 * Context: any.
 */
bool djp_victim_is(enum djp_victim_kind kind, const struct task_struct *task)
{
	bool here = raw_smp_processor_id() == DJP_HOLD_CPU;

	switch (kind) {
	case DJP_VICTIM_USER:
		return task == READ_ONCE(djp_victim_process);
	case DJP_VICTIM_IDLE:
		return here && is_idle_task(task);
	case DJP_VICTIM_EXITING:
		return here && READ_ONCE(task->exit_state) == EXIT_DEAD;
	case DJP_VICTIM_FAULTING:
		return here && !strcmp(task->comm, DJP_FAULTING);
	default:
		return task == READ_ONCE(djp_victim_thread);
	}
}

/**
 * djp_victim_is_calling() - is a victim in its function, or in what that calls?
 *
 * Context: any.
 */
bool djp_victim_is_calling(void)
{
	return READ_ONCE(djp_victim_calling);
}

/* "victim": write NAME and that function is called once, by the writer. */
static ssize_t djp_victim_write(struct file *file, const char __user *user,
				size_t len, loff_t *pos)
{
	char buf[32] = "";
	unsigned int i;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	for (i = 0; i < ARRAY_SIZE(djp_victim_fns); i++) {
		if (strcmp(strim(buf), djp_victim_fns[i].name))
			continue;
		if (cmpxchg(&djp_victim_process, NULL, current))
			return -EBUSY;
		djp_victim_call(&djp_victim_fns[i]);
		WRITE_ONCE(djp_victim_process, NULL);
		return len;
	}
	return -ENOENT;
}

/* A line for each function: name, calls by victims, wrong results. */
static int djp_victim_show(struct seq_file *m, void *v)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(djp_victim_fns); i++)
		seq_printf(m, "%s %lu %lu\n", djp_victim_fns[i].name,
			   READ_ONCE(djp_victim_fns[i].calls),
			   READ_ONCE(djp_victim_fns[i].wrong));
	return 0;
}

static int djp_victim_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_victim_show, NULL);
}

static const struct file_operations djp_victim_fops = {
	.owner = THIS_MODULE,
	.open = djp_victim_open,
	.read = seq_read,
	.write = djp_victim_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/* Called at each hit of the probe below. A breakpoint may be set on it. */
static noinline void djp_test_on_victim(struct djprobe *p, struct pt_regs *regs)
{
	djp_victim_handled++;
	WRITE_ONCE(djp_victim_in_handler, true);
	djp_hold_here(DJP_HOLD_SPIN);
	WRITE_ONCE(djp_victim_in_handler, false);
}

static struct djprobe djp_victim_probe = {
	.symbol_name = "djp_test:djp_test_victim",
	.handler = djp_test_on_victim,
};

static int djp_victim_handler_do(const char *what)
{
	int ret = -EINVAL;

	if (!strcmp(what, "register")) {
		djp_victim_handled = 0;
		djp_victim_late = 0;
		ret = register_djprobe(&djp_victim_probe);
		djp_victim_registered |= !ret;
	} else if (!strcmp(what, "unregister")) {
		if (!djp_victim_registered)
			return 0;
		ret = unregister_djprobe(&djp_victim_probe);
		djp_victim_registered &= !!ret;
		/* It must not be running any more. */
		djp_victim_late += !ret && READ_ONCE(djp_victim_in_handler);
	}
	return ret;
}

/* "victim_handler": register or unregister a probe on djp_test_victim(). */
static ssize_t djp_victim_handler_write(struct file *file,
					const char __user *user, size_t len,
					loff_t *pos)
{
	char buf[16] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	ret = djp_victim_handler_do(strim(buf));
	return ret ?: len;
}

static int djp_victim_handler_show(struct seq_file *m, void *v)
{
	seq_printf(m, "handled %lu\nlate %lu\nhits %llu\nmissed %ld\n",
		   djp_victim_handled, djp_victim_late,
		   djp_victim_registered ? djprobe_hits(&djp_victim_probe) : 0,
		   atomic_long_read(&djp_victim_probe.missed));
	return 0;
}

static int djp_victim_handler_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_victim_handler_show, NULL);
}

static const struct file_operations djp_victim_handler_fops = {
	.owner = THIS_MODULE,
	.open = djp_victim_handler_open,
	.read = seq_read,
	.write = djp_victim_handler_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_victim_init() - make the files "victim" and "victim_handler"
 * @dir: where
 */
void djp_test_victim_init(struct dentry *dir)
{
	debugfs_create_file("victim", 0600, dir, NULL, &djp_victim_fops);
	debugfs_create_file("victim_handler", 0600, dir, NULL,
			    &djp_victim_handler_fops);
}

/**
 * djp_test_victim_exit() - take out the probe, if it is in
 *
 * Nobody is held any more.
 */
void djp_test_victim_exit(void)
{
	if (djp_victim_registered)
		djp_victim_handler_do("unregister");
}
