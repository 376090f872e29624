// SPDX-License-Identifier: GPL-2.0
/*
 * Strategy "rendezvous": nothing is stopped. Everybody is seen, one after the other.
 *
 * Nobody can come into a danger any more: the int3s have been seen by all CPUs, and
 * retired detours can't be reached. So whoever has been seen outside once will stay
 * outside, and all need not be seen at the same moment.
 *
 * A task that does not run is looked at where it is, and nothing keeps it there: if
 * it has run meanwhile, which the scheduler counts, it is asked for again. Whoever
 * runs is interrupted, and the interrupt looks at what it has interrupted. A task
 * may run when it is asked for and sleep when its CPU is interrupted, so who was not
 * seen is asked for again.
 *
 * Each CPU has to answer an interrupt once, for what is on its interrupt stack: a
 * softirq that was preempted there by an interrupt. One that runs on a task's stack
 * (an interrupt from user mode does not switch stacks, arch/x86/include/asm/
 * irq_stack.h) is seen with the task. NMIs and #DB have stacks of their own and
 * keep interrupts off: a CPU that answers is in none that began before.
 *
 * A task born later, or an interrupt that comes later, has passed no danger. The
 * task that asks is in a chain of calls down to here, and no call returns into a
 * danger (x86/check.c).
 */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/hardirq.h>
#include <linux/percpu.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/timekeeping.h>
#include <linux/wait.h>
#include <asm/stacktrace.h>
#include <asm/unwind.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/* How often somebody who runs is asked for again. */
#define DJP_ROUNDS 32

/**
 * struct djp_answer - what an interrupt has seen on one CPU
 * @task: the task that it has interrupted, with a reference; NULL if there was none
 * @task_clean: its stack is clean
 * @irq_clean: so are the others
 * @ns: how long that took
 */
struct djp_answer {
	struct task_struct	*task;
	bool			task_clean;
	bool			irq_clean;
	u64			ns;
};

/**
 * struct djp_meeting - everybody is being seen
 * @scan: what for
 * @waiting: tasks that have not been seen yet, with a reference each
 * @nr: how many
 * @room: for how many there is memory
 * @overrun: there were more
 * @last: mark what is found: nobody is asked for again
 * @patient: who is in a danger will leave: ask again
 * @cpus: those whose interrupt stacks have not been seen yet
 * @ask: those to interrupt now
 * @answers: of each CPU
 */
struct djp_meeting {
	struct djp_scan			scan;
	struct task_struct		**waiting;
	unsigned int			nr;
	unsigned int			room;
	bool				overrun;
	bool				last;
	bool				patient;
	cpumask_var_t			cpus;
	cpumask_var_t			ask;
	struct djp_answer __percpu	*answers;
};

/* What the interrupt that we are in has interrupted. */
static struct pt_regs *djp_interrupted(void)
{
	struct unwind_state state;

	for (unwind_start(&state, current, NULL, NULL); !unwind_done(&state);
	     unwind_next_frame(&state)) {
		struct pt_regs *regs = unwind_get_entry_regs(&state, NULL);

		if (regs)
			return regs;
	}
	return NULL;
}

/*
 * Is there nothing on any of the stacks, with what the interrupt itself has left there?
 * That takes no unwinder, which is slow where its own functions are probed and their
 * jumps not written yet.
 */
static bool djp_nothing_below(struct djp_meeting *m)
{
	unsigned long *sp = __builtin_frame_address(0);
	unsigned long visited = 0;
	struct stack_info info;

	while (sp && !djp_k.get_stack_info(sp, current, &info, &visited)) {
		if (djp_scan_range(&m->scan, current, (unsigned long)sp,
				   (unsigned long)info.end, false))
			return false;
		if (info.type == STACK_TYPE_TASK)
			return true;
		sp = info.next_sp;
	}
	return false;
}

/* Look at all stacks that were in use on this CPU before the interrupt. */
static void djp_look_below(struct djp_meeting *m, struct djp_answer *answer)
{
	struct pt_regs *regs = djp_interrupted();
	unsigned long *sp = (unsigned long *)regs;
	unsigned long visited = 0;
	struct stack_info info;

	/* From user mode nothing else is on the stack. */
	if (regs && user_mode(regs))
		return;
	answer->task_clean = false;
	answer->irq_clean = false;
	if (!regs)
		return;
	answer->irq_clean = true;
	while (sp && !djp_k.get_stack_info(sp, current, &info, &visited)) {
		bool clean = !djp_scan_range(&m->scan, current,
					     (unsigned long)sp,
					     (unsigned long)info.end, m->last);

		if (info.type == STACK_TYPE_TASK) {
			answer->task_clean = clean;
			return;
		}
		answer->irq_clean &= clean;
		sp = info.next_sp;
	}
	/* We did not get to the task's stack. */
	answer->irq_clean = false;
}

static void djp_answer_ipi(void *data)
{
	struct djp_meeting *m = data;
	struct djp_answer *answer = this_cpu_ptr(m->answers);
	u64 begin = ktime_get_mono_fast_ns();

	answer->task_clean = true;
	answer->irq_clean = true;
	answer->task = get_task_struct(current);
	/*
	 * Where no interrupt was needed nothing is interrupted, and current is in a
	 * chain of calls down to here: the CPU that asks, and one whose idle task
	 * polls (flush_smp_call_function_queue() in do_idle(), v6.1).
	 */
	if (in_hardirq() && !djp_nothing_below(m))
		djp_look_below(m, answer);
	answer->ns = ktime_get_mono_fast_ns() - begin;
}

/*
 * How often a task was switched out, or -1 if it may be running. It is one more before
 * @on_cpu is cleared, which is the last that is done with its stack (__schedule(),
 * finish_task(), kernel/sched/core.c, v6.1); and @on_cpu is set before it is used again
 * (prepare_task()). So a task for which this was the same before and after has not run.
 */
static unsigned long djp_switches(struct task_struct *task)
{
	/* What was read before this was read before. */
	smp_rmb();
	if (smp_load_acquire(&task->on_cpu))
		return -1ul;
	return READ_ONCE(task->nvcsw) + READ_ONCE(task->nivcsw);
}

/* Is what stands on the stack of a task that does not run clean? */
static bool djp_is_clean(struct djp_meeting *m, struct task_struct *task,
			 unsigned long page, bool mark)
{
	unsigned long sp = READ_ONCE(task->thread.sp);

	/* Never seen; if it is, look at all of the stack. */
	if (sp < page || sp >= page + THREAD_SIZE)
		sp = page;
	return djp_scan_task(&m->scan, task, sp, mark);
}

/* Context: a reference to @task is held. Return: false if it has to be asked again. */
static bool djp_seen(struct djp_meeting *m, struct task_struct *task)
{
	unsigned long switches = djp_switches(task);
	unsigned long page;
	bool seen;

	if (switches == -1ul)
		return false;
	page = (unsigned long)try_get_task_stack(task);
	/* It has none any more, or will not run again. */
	if (!page)
		return true;
	if (READ_ONCE(task->__state) == TASK_DEAD) {
		seen = true;
	} else {
		seen = djp_is_clean(m, task, page, false);
		if (djp_switches(task) != switches)
			seen = false;
		else if (!seen && !m->patient)
			seen = djp_is_clean(m, task, page, true) ||
				djp_switches(task) == switches;
	}
	djp_k.put_task_stack(task);
	return seen;
}

static void djp_see(struct task_struct *task, void *data)
{
	struct djp_meeting *m = data;

	if (task == current || djp_seen(m, task))
		return;
	if (m->nr == m->room) {
		m->overrun = true;
		return;
	}
	get_task_struct(task);
	m->waiting[m->nr++] = task;
}

static void djp_see_idle(struct djp_meeting *m)
{
	int cpu;

	/* That of a CPU that is off line never returns from there. */
	for_each_online_cpu(cpu)
		djp_see(djp_k.idle_task(cpu), m);
}

static void djp_see_listed(struct djp_meeting *m)
{
	struct task_struct *group, *task;

	rcu_read_lock();
	for_each_process_thread(group, task)
		djp_see(task, m);
	rcu_read_unlock();
}

static void djp_see_all(struct djp_meeting *m)
{
	djp_see_listed(m);
	djp_see_idle(m);
	djp_exiting_each(djp_see, m);
}

static void djp_drop(struct djp_meeting *m, unsigned int i)
{
	put_task_struct(m->waiting[i]);
	m->waiting[i] = m->waiting[--m->nr];
}

static void djp_take_answer(struct djp_meeting *m, int cpu)
{
	struct djp_answer *answer = per_cpu_ptr(m->answers, cpu);
	unsigned int i;

	m->scan.proof->stop_ns = max(m->scan.proof->stop_ns, answer->ns);
	if (answer->irq_clean || m->last)
		cpumask_clear_cpu(cpu, m->cpus);
	if (!answer->task)
		return;
	for (i = 0; i < m->nr; i++) {
		if (m->waiting[i] != answer->task)
			continue;
		if (answer->task_clean || m->last)
			djp_drop(m, i);
		break;
	}
	put_task_struct(answer->task);
	answer->task = NULL;
}

/* Ask for those who have not been seen; some will be, and may be found clean. */
static void djp_round(struct djp_meeting *m)
{
	unsigned int i;
	int cpu;

	cpumask_copy(m->ask, m->cpus);
	for (i = 0; i < m->nr; i++)
		cpumask_set_cpu(task_cpu(m->waiting[i]), m->ask);
	on_each_cpu_mask(m->ask, djp_answer_ipi, m, true);
	for_each_cpu_and(cpu, m->ask, cpu_online_mask)
		djp_take_answer(m, cpu);

	i = 0;
	while (i < m->nr) {
		if (djp_seen(m, m->waiting[i]))
			djp_drop(m, i);
		else
			i++;
	}
}

static int djp_meeting_begin(struct djp_meeting *m, struct djp_proof *proof)
{
	djp_scan_begin(&m->scan, proof, false);
	/* Who runs when asked for: hardly more than there are CPUs. */
	m->room = 64 + 4 * num_possible_cpus();
	m->waiting = kvcalloc(m->room, sizeof(*m->waiting), GFP_KERNEL);
	m->answers = alloc_percpu(struct djp_answer);
	if (!m->waiting || !m->answers ||
	    !zalloc_cpumask_var(&m->cpus, GFP_KERNEL) ||
	    !zalloc_cpumask_var(&m->ask, GFP_KERNEL))
		return -ENOMEM;
	return 0;
}

static void djp_meeting_end(struct djp_meeting *m)
{
	while (m->nr)
		djp_drop(m, 0);
	djp_scan_end(&m->scan);
	free_cpumask_var(m->ask);
	free_cpumask_var(m->cpus);
	free_percpu(m->answers);
	kvfree(m->waiting);
}

static int djp_meet(struct djp_proof *proof, void (*see)(struct djp_meeting *m))
{
	struct djp_meeting m = { };
	unsigned int round;
	int ret;

	/* A CPU is coming or going, for as long as that takes. */
	if (!cpus_read_trylock())
		return -EAGAIN;
	ret = djp_meeting_begin(&m, proof);
	if (!ret) {
		see(&m);
		cpumask_copy(m.cpus, cpu_online_mask);
		for (round = 1; round <= DJP_ROUNDS; round++) {
			m.last = round == DJP_ROUNDS;
			djp_round(&m);
			if (!m.nr && cpumask_empty(m.cpus))
				break;
			cond_resched();
		}
		if (m.nr || m.overrun)
			ret = -EAGAIN;
	}
	djp_meeting_end(&m);
	cpus_read_unlock();
	return ret;
}

static int djp_rendezvous_prove(struct djp_proof *proof)
{
	return djp_meet(proof, djp_see_all) ?:
		djp_exiting_complete() ? 0 : -EAGAIN;
}

/**
 * djp_rendezvous_idle() - see the idle tasks and the interrupt stacks, nobody else
 * @proof: as for the strategies
 *
 * Context: as djp_strategy.prove.
 * Return: 0, or a negative errno if nothing was proven.
 */
int djp_rendezvous_idle(struct djp_proof *proof)
{
	return djp_meet(proof, djp_see_idle);
}

/**
 * djp_rendezvous_passed() - wait until everybody has been seen outside a function
 * @start: its first byte; only tasks run it, and none that exits
 * @end: one behind its last
 * @deadline: in jiffies
 *
 * Whoever comes later may be in it. So when it returns, who is in it has come after
 * the call.
 *
 * Context: task, may sleep until @deadline.
 * Return: 0, -EAGAIN if somebody stayed in it, -ENOMEM, or -EOPNOTSUPP if this kernel
 * offers no rendezvous.
 */
int djp_rendezvous_passed(unsigned long start, unsigned long end,
			  unsigned long deadline)
{
	struct djp_meeting m = { .patient = true };
	struct djp_proof *proof;
	int ret = -ENOMEM;

	if (!djp_rendezvous.offered())
		return -EOPNOTSUPP;
	proof = kzalloc(sizeof(*proof), GFP_KERNEL);
	if (!proof)
		return ret;
	proof->dangers = kvcalloc(1, sizeof(*proof->dangers), GFP_KERNEL);
	if (!proof->dangers)
		goto out;
	proof->nr = 1;
	proof->dangers->start = start;
	proof->dangers->end = end;
	ret = djp_dangers_index(proof) ?: djp_meeting_begin(&m, proof);
	if (!ret)
		djp_see_listed(&m);
	while (!ret && m.nr) {
		djp_round(&m);
		if (m.nr && time_after(jiffies, deadline))
			ret = -EAGAIN;
		else if (m.nr)
			schedule_timeout_uninterruptible(1);
	}
	if (m.overrun)
		ret = -EAGAIN;
	djp_meeting_end(&m);
out:
	djp_proof_free(proof);
	kfree(proof);
	return ret;
}

static bool djp_rendezvous_offered(void)
{
	return djp_k.put_task_stack && djp_k.get_stack_info &&
		IS_ENABLED(CONFIG_UNWINDER_ORC);
}

const struct djp_strategy djp_rendezvous = {
	.name = "rendezvous",
	.offered = djp_rendezvous_offered,
	.prove = djp_rendezvous_prove,
};
