// SPDX-License-Identifier: GPL-2.0
/*
 * Tasks that have left the list of processes and still run.
 *
 * A task that reaps itself, or whose parent is quick, is off the list after
 * exit_notify() and then runs the rest of do_exit(), preemptible
 * (kernel/exit.c). No walk over the tasks sees it there. So those that begin to
 * exit are remembered, in a ring; whoever is still
 * alive when its place is taken makes the next commits wait for an RCU-tasks
 * grace period, which knows about exiting tasks. Such a grace period takes as
 * long as any task stays preempted; commits give up sooner, with nothing proven.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/* Each holds a task_struct, some KiB, until it is overwritten or swept. */
#define DJP_EXITING 128

static struct task_struct *djp_exiting[DJP_EXITING];
static atomic_t djp_exiting_next = ATOMIC_INIT(0);
static struct tracepoint *djp_exit_tracepoint;

/* Somebody is not in the ring. */
static bool djp_exiting_lost;
/* A grace period for those is under way. djp_commit_mutex guards it. */
static bool djp_exiting_waiting;
static struct rcu_head djp_exiting_rcu;
static DECLARE_COMPLETION(djp_exiting_passed);

/* How long a commit waits for that. */
#define DJP_EXITING_PATIENCE (HZ / 2)

/* It has made its last schedule(): see do_task_dead(), kernel/sched/core.c. */
static bool djp_is_dead(const struct task_struct *task)
{
	return READ_ONCE(task->__state) == TASK_DEAD &&
	       !smp_load_acquire(&task->on_cpu);
}

/* Context: the exiting task, preemption off. */
static void djp_on_exit(void *data, struct task_struct *task)
{
	unsigned int i = atomic_inc_return(&djp_exiting_next);
	struct task_struct *old;

	get_task_struct(task);
	old = xchg(&djp_exiting[i % DJP_EXITING], task);
	if (!old)
		return;
	if (!djp_is_dead(old))
		WRITE_ONCE(djp_exiting_lost, true);
	put_task_struct(old);
}

static void djp_exiting_pass(struct rcu_head *head)
{
	complete(&djp_exiting_passed);
}

static void djp_find_exit(struct tracepoint *tp, void *data)
{
	if (!strcmp(tp->name, "sched_process_exit"))
		djp_exit_tracepoint = tp;
}

/**
 * djp_exiting_init() - start to remember exiting tasks
 *
 * Context: module load.
 * Return: 0 or a negative errno.
 */
int djp_exiting_init(void)
{
	int ret;

	for_each_kernel_tracepoint(djp_find_exit, NULL);
	if (!djp_exit_tracepoint) {
		pr_err("this kernel has no tracepoint sched_process_exit, which djprobes needs\n");
		return -ENOENT;
	}
	ret = tracepoint_probe_register(djp_exit_tracepoint, djp_on_exit, NULL);
	/* Those that began to exit before. */
	if (!ret)
		synchronize_rcu_tasks();
	return ret;
}

/**
 * djp_exiting_exit() - stop, and forget them
 *
 * Context: module unload.
 */
void djp_exiting_exit(void)
{
	unsigned int i;

	tracepoint_probe_unregister(djp_exit_tracepoint, djp_on_exit, NULL);
	tracepoint_synchronize_unregister();
	rcu_barrier_tasks();
	for (i = 0; i < DJP_EXITING; i++) {
		if (djp_exiting[i])
			put_task_struct(djp_exiting[i]);
	}
}

/**
 * djp_exiting_settle() - make sure that every exiting task is in the ring
 *
 * After it, a task that is neither on the list of processes nor in the ring has
 * passed its last schedule(), or began to exit after this was called.
 *
 * Context: djp_commit_mutex held, may sleep; rarely, if the ring has run over,
 * for up to DJP_EXITING_PATIENCE.
 * Return: 0, or -EAGAIN if that was not enough.
 */
int djp_exiting_settle(void)
{
	struct task_struct *task;
	unsigned int i;

	for (i = 0; i < DJP_EXITING; i++) {
		task = READ_ONCE(djp_exiting[i]);
		if (task && djp_is_dead(task) &&
		    cmpxchg(&djp_exiting[i], task, NULL) == task)
			put_task_struct(task);
	}
	if (!djp_exiting_waiting) {
		if (!xchg(&djp_exiting_lost, false))
			return 0;
		reinit_completion(&djp_exiting_passed);
		djp_exiting_waiting = true;
		call_rcu_tasks(&djp_exiting_rcu, djp_exiting_pass);
	}
	if (!wait_for_completion_timeout(&djp_exiting_passed,
					 DJP_EXITING_PATIENCE))
		return -EAGAIN;
	djp_exiting_waiting = false;
	return READ_ONCE(djp_exiting_lost) ? -EAGAIN : 0;
}

/**
 * djp_exiting_complete() - has the ring kept everybody since it was settled?
 */
bool djp_exiting_complete(void)
{
	return !djp_exiting_waiting && !READ_ONCE(djp_exiting_lost);
}

/**
 * djp_exiting_each() - call a function for each remembered task that lives
 * @fn: the function
 * @data: its argument
 *
 * Context: djp_commit_mutex held, or the machine is stopped by whoever holds it.
 */
void djp_exiting_each(void (*fn)(struct task_struct *task, void *data),
		      void *data)
{
	unsigned int i;

	for (i = 0; i < DJP_EXITING; i++) {
		/* Out of the ring, so that nobody drops our reference. */
		struct task_struct *task = xchg(&djp_exiting[i], NULL);

		if (!task)
			continue;
		if (!djp_is_dead(task)) {
			fn(task, data);
			if (!cmpxchg(&djp_exiting[i], NULL, task))
				continue;
			/* Another has its place. */
			if (!djp_is_dead(task))
				WRITE_ONCE(djp_exiting_lost, true);
		}
		put_task_struct(task);
	}
}
