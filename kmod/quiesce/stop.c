// SPDX-License-Identifier: GPL-2.0
/*
 * Strategies "stackscan" and "fixup": stop the machine and look at every stack.
 *
 * While the machine is stopped each CPU runs its stopper thread, so every other
 * task is switched out: where it will go on, and where it will return to, is on
 * its kernel stack, below thread.sp nothing is alive. An interrupt that
 * preempted it has left its pt_regs there too; interrupts, softirqs and
 * exceptions that have a stack of their own do not schedule, so none is half
 * done. NMIs may run meanwhile, but one that began after the int3s were seen by
 * all CPUs can't have passed them.
 *
 * "fixup" also moves tasks out of the way, see quiesce/stack.c: with everybody
 * switched out a saved instruction pointer can be changed.
 */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/ktime.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <linux/stop_machine.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/**
 * struct djp_stop - a stop of the machine
 * @scan: what for
 * @leader: the CPU that looks at all tasks but the stoppers
 */
struct djp_stop {
	struct djp_scan	scan;
	int		leader;
};

static void djp_stop_task(struct task_struct *task, void *data)
{
	unsigned long page = (unsigned long)task_stack_page(task);
	struct djp_stop *stop = data;
	unsigned long sp;

	/*
	 * The stoppers: a chain of calls down to here, nothing interrupted, and no
	 * call returns into a danger (x86/check.c). Nobody else is on a CPU, but
	 * for the idle task of one that is off line, which never returns.
	 */
	if (READ_ONCE(task->on_cpu))
		return;
	/* The stack of a dead task is freed before the task. */
	if (!page)
		return;
	sp = READ_ONCE(task->thread.sp);
	/* Never seen; if it is, look at all of the stack. */
	if (sp < page || sp >= page + THREAD_SIZE)
		sp = page;
	djp_scan_task(&stop->scan, task, sp, true);
}

static void djp_stop_all(struct djp_stop *stop)
{
	struct task_struct *group, *task;
	u64 begin = ktime_get_ns();
	int cpu;

	for_each_process_thread(group, task)
		djp_stop_task(task, stop);
	/* Not on the list of processes: the idle tasks ... */
	for_each_possible_cpu(cpu) {
		task = djp_k.idle_task(cpu);
		if (task)
			djp_stop_task(task, stop);
	}
	/* ... and tasks that have left it and still run do_exit(). */
	djp_exiting_each(djp_stop_task, stop);
	stop->scan.proof->stop_ns = ktime_get_ns() - begin;
}

static int djp_stopped(void *data)
{
	struct djp_stop *stop = data;

	if (smp_processor_id() == stop->leader)
		djp_stop_all(stop);
	return 0;
}

static int djp_stop(struct djp_proof *proof, bool moves)
{
	struct djp_stop stop = { };
	int ret;

	/* A CPU is coming or going, for as long as that takes. */
	if (!cpus_read_trylock())
		return -EAGAIN;
	djp_scan_begin(&stop.scan, proof, moves);
	stop.leader = cpumask_first(cpu_online_mask);
	ret = djp_k.stop_machine_cpuslocked(djp_stopped, &stop,
					    cpu_online_mask);
	cpus_read_unlock();
	if (ret)
		return ret;
	djp_scan_end(&stop.scan);
	return djp_exiting_complete() ? 0 : -EAGAIN;
}

/**
 * djp_stop_and_scan() - find out which dangers nobody stands in
 * @proof: as for the strategies
 *
 * Context: as djp_strategy.prove, and cpu_hotplug_lock not held.
 * Return: 0, or a negative errno if nothing was proven.
 */
int djp_stop_and_scan(struct djp_proof *proof)
{
	return djp_stop(proof, false);
}

static int djp_stop_and_move(struct djp_proof *proof)
{
	return djp_stop(proof, true);
}

static bool djp_stop_offered(void)
{
	return true;
}

const struct djp_strategy djp_stackscan = {
	.name = "stackscan",
	.offered = djp_stop_offered,
	.prove = djp_stop_and_scan,
};

const struct djp_strategy djp_fixup = {
	.name = "fixup",
	.offered = djp_stop_offered,
	.prove = djp_stop_and_move,
};
