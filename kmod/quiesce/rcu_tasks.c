// SPDX-License-Identifier: GPL-2.0
/*
 * Strategy "rcu_tasks": wait until every task has slept, or was in user mode.
 *
 * That is how mainline's optimised kprobes wait (kernel/kprobes.c,
 * kprobe_optimizer()): a task that was preempted keeps everybody waiting for as long
 * as it stays so. Here the wait has a limit, no lock is held meanwhile, and a grace
 * period that was not waited for to its end serves the next commit.
 *
 * RCU-tasks leaves out the idle tasks, which an interrupt can keep anywhere
 * (rcu_tasks_pertask(), kernel/rcu/tasks.h, v6.1): we look at those ourselves.
 */
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/* The grace period that is under way, if @djp_pending. djp_commit_mutex guards it. */
static bool djp_pending;
static u64 djp_pending_seq;
static struct rcu_head djp_pending_rcu;
static DECLARE_COMPLETION(djp_passed);

static void djp_pass(struct rcu_head *head)
{
	complete(&djp_passed);
	/* Until the callback is over: djp_rcu_tasks_exit(). */
	module_put(THIS_MODULE);
}

/* Context: djp_commit_mutex held. */
static void djp_grace_period_begin(u64 seq)
{
	reinit_completion(&djp_passed);
	djp_pending_seq = seq;
	djp_pending = true;
	__module_get(THIS_MODULE);
	call_rcu_tasks(&djp_pending_rcu, djp_pass);
}

static bool djp_grace_period_wait(unsigned long deadline)
{
	long left = deadline - jiffies;

	/* Killed: what is left is done in the background. */
	if (wait_for_completion_killable_timeout(&djp_passed, max(left, 1l)) <= 0)
		return false;
	djp_pending = false;
	return true;
}

/* Some task that the grace period waits for, with a reference; or NULL. */
static struct task_struct *djp_find_holdout(void)
{
	struct task_struct *found = NULL;
#ifdef CONFIG_TASKS_RCU
	struct task_struct *group, *task;

	rcu_read_lock();
	for_each_process_thread(group, task) {
		if (!found && READ_ONCE(task->rcu_tasks_holdout)) {
			get_task_struct(task);
			found = task;
		}
	}
	rcu_read_unlock();
#endif
	return found;
}

/*
 * Nothing is proven. Whoever is in a danger is named all the same; and for the rest
 * somebody who is not in one, but waited for.
 */
static void djp_name_holdouts(struct djp_proof *proof)
{
	struct task_struct *holdout = djp_find_holdout();
	unsigned int i;

	djp_rendezvous.prove(proof);
	for (i = 0; i < proof->nr; i++)
		djp_danger_mark(proof, &proof->dangers[i], holdout, 0);
	if (holdout)
		put_task_struct(holdout);
}

static int djp_rcu_tasks_prove(struct djp_proof *proof)
{
	u64 newest = 0;
	unsigned int i;

	for (i = 0; i < proof->nr; i++)
		newest = max(newest, proof->dangers[i].seq);
	/* Of one that has passed meanwhile nothing is to be waited for. */
	while (!djp_pending || djp_pending_seq < newest) {
		if (djp_pending && !djp_grace_period_wait(proof->deadline))
			break;
		djp_grace_period_begin(newest);
	}
	if (!djp_pending || djp_grace_period_wait(proof->deadline))
		return djp_rendezvous_idle(proof);
	djp_name_holdouts(proof);
	return 0;
}

/* Without it, as on kernels that do not preempt, call_rcu_tasks() is call_rcu(). */
static bool djp_rcu_tasks_offered(void)
{
	return IS_ENABLED(CONFIG_TASKS_RCU) && djp_rendezvous.offered();
}

/**
 * djp_rcu_tasks_exit() - the last grace period's callback has returned
 *
 * Context: module unload; nothing is pending, for that holds a reference.
 */
void djp_rcu_tasks_exit(void)
{
	rcu_barrier_tasks();
}

const struct djp_strategy djp_rcu_tasks = {
	.name = "rcu_tasks",
	.offered = djp_rcu_tasks_offered,
	.prove = djp_rcu_tasks_prove,
};
