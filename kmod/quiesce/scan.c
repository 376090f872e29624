// SPDX-License-Identifier: GPL-2.0
/*
 * Stop the machine and look at every kernel stack, word by word.
 *
 * While the machine is stopped each CPU runs its stopper thread, so every other
 * task is switched out: where it will go on, and where it will return to, is on
 * its kernel stack, below thread.sp nothing is alive. An interrupt that
 * preempted it has left its pt_regs there too; interrupts, softirqs and
 * exceptions that have a stack of their own do not schedule, so none is half
 * done. NMIs may run meanwhile, but one that began after the int3s were seen by
 * all CPUs can't have passed them.
 *
 * Any word that could be an address in a danger counts as one, so nothing is
 * missed. But a word may be stale: each int3 leaves addresses behind on the stack
 * of whoever met it, and a task that sleeps keeps them for as long as it sleeps.
 * So where words were found, the unwinder is asked, with the standards of
 * livepatch: if it can tell the whole stack for sure, and there is no such
 * address in it, the words are stale. The unwinder alone would not do: ORC does
 * not know detours. It says so for a task that was preempted in one, or is in a
 * handler (an exception frame of kernel mode is on the stack), and then the words
 * count.
 *
 * A kprobe that was optimised and then removed may have left a task in its buffer,
 * from where it will jump to text that is ours by now, and that we do not know. So
 * a task in any buffer of an optimised kprobe counts as one in every JTPR.
 */
#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <linux/stop_machine.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/**
 * struct djp_scan - a proof that is being looked for
 * @proof: the result
 * @low: no danger is below
 * @high: none is here or above
 * @leader: the CPU that looks at all tasks but the stoppers
 * @found: whether @proof->blocker is taken
 * @optprobes: kprobes have buffers of optimised kprobes
 * @landing: somebody may land in any JTPR
 */
struct djp_scan {
	struct djp_proof	*proof;
	unsigned long		low;
	unsigned long		high;
	int			leader;
	atomic_t		found;
	bool			optprobes;
	bool			landing;
};

static struct djp_danger *djp_danger_at(const struct djp_scan *scan,
					unsigned long addr)
{
	const struct djp_proof *proof = scan->proof;
	unsigned int lo = 0, hi = proof->nr;

	if (addr < scan->low || addr >= scan->high)
		return NULL;
	while (lo < hi) {
		unsigned int mid = lo + (hi - lo) / 2;
		struct djp_danger *danger = &proof->dangers[mid];

		if (addr < danger->start)
			hi = mid;
		else if (addr >= danger->end)
			lo = mid + 1;
		else
			return danger;
	}
	return NULL;
}

/*
 * Context: the machine is stopped, so the list of buffers does not change: but for
 * its mutex's holder, who may be in the middle of that. It is an RCU list.
 */
static bool djp_in_optprobe(const struct djp_scan *scan, unsigned long addr)
{
	/* Where kprobes have their buffers. */
	if (!scan->optprobes || addr < MODULES_VADDR || addr >= MODULES_END)
		return false;
	return djp_k.__is_insn_slot_addr(djp_k.kprobe_optinsn_slots, addr);
}

/* Mostly there are none, and no word need be looked up. Context: as above. */
static bool djp_has_optprobes(void)
{
	return djp_k.__is_insn_slot_addr && djp_k.kprobe_optinsn_slots &&
		!list_empty(&djp_k.kprobe_optinsn_slots->pages);
}

/**
 * struct djp_walk - what the unwinder finds of one task
 * @scan: what for
 * @hit: a return address in a danger
 */
struct djp_walk {
	struct djp_scan	*scan;
	bool		hit;
};

static bool djp_walk_frame(void *cookie, unsigned long addr)
{
	struct djp_walk *walk = cookie;

	if (djp_danger_at(walk->scan, addr) || djp_in_optprobe(walk->scan, addr))
		walk->hit = true;
	return true;
}

/* Are the words that were found on a task's stack nothing but left-overs? */
static bool djp_words_are_stale(struct djp_scan *scan, struct task_struct *task)
{
	struct djp_walk walk = { .scan = scan };

	return !djp_k.arch_stack_walk_reliable(djp_walk_frame, &walk, task) &&
	       !walk.hit;
}

/* Stacks are poisoned for KASAN where no object lives; we read all of it. */
static __no_sanitize_address unsigned long
djp_scan_words(struct djp_scan *scan, struct task_struct *task,
	       unsigned long sp, bool mark)
{
	unsigned long top = (unsigned long)task_stack_page(task) + THREAD_SIZE;
	const unsigned long *word = (const unsigned long *)ALIGN(sp, 8);
	struct djp_danger *danger;
	unsigned long found = 0;
	bool optprobe;

	for (; (unsigned long)word < top; word++) {
		unsigned long value = *(const volatile unsigned long *)word;

		danger = djp_danger_at(scan, value);
		optprobe = !danger && djp_in_optprobe(scan, value);
		if (!danger && !optprobe)
			continue;
		found++;
		if (!mark)
			continue;
		if (danger)
			WRITE_ONCE(danger->busy, true);
		else
			WRITE_ONCE(scan->landing, true);
		if (!atomic_xchg(&scan->found, 1)) {
			struct djp_blocker *blocker = &scan->proof->blocker;

			blocker->addr = value;
			blocker->pid = task->pid;
			memcpy(blocker->comm, task->comm, TASK_COMM_LEN);
		}
	}
	return found;
}

static void djp_scan_stack(struct djp_scan *scan, struct task_struct *task,
			   unsigned long sp)
{
	if (djp_scan_words(scan, task, sp, false) &&
	    !djp_words_are_stale(scan, task))
		djp_scan_words(scan, task, sp, true);
}

static void djp_scan_task(struct task_struct *task, void *data)
{
	unsigned long page = (unsigned long)task_stack_page(task);
	struct djp_scan *scan = data;
	unsigned long sp;

	/*
	 * A stopper looks at its own stack. Nobody else is on a CPU, but for
	 * the idle task of one that is off line, which never returns.
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
	djp_scan_stack(scan, task, sp);
	scan->proof->tasks++;
	scan->proof->words += (page + THREAD_SIZE - sp) / sizeof(long);
}

static void djp_scan_all(struct djp_scan *scan)
{
	struct task_struct *group, *task;
	u64 begin = ktime_get_ns();
	int cpu;

	for_each_process_thread(group, task)
		djp_scan_task(task, scan);
	/* Not on the list of processes: the idle tasks ... */
	for_each_possible_cpu(cpu) {
		task = djp_k.idle_task(cpu);
		if (task)
			djp_scan_task(task, scan);
	}
	/* ... and tasks that have left it and still run do_exit(). */
	djp_exiting_each(djp_scan_task, scan);
	scan->proof->stop_ns = ktime_get_ns() - begin;
}

static int djp_scan_stopped(void *data)
{
	struct djp_scan *scan = data;

	WRITE_ONCE(scan->optprobes, djp_has_optprobes());
	djp_scan_stack(scan, current, (unsigned long)__builtin_frame_address(0));
	if (smp_processor_id() == scan->leader)
		djp_scan_all(scan);
	return 0;
}

/**
 * djp_stop_and_scan() - find out which dangers nobody stands in
 * @proof: the dangers; the rest is filled in
 *
 * Before this, the int3s that keep others from entering have been seen by all
 * CPUs, and retired detours can't be reached any more.
 *
 * Context: task, may sleep, no text_mutex and no cpu_hotplug_lock held.
 * Return: 0, or a negative errno if nothing was proven.
 */
int djp_stop_and_scan(struct djp_proof *proof)
{
	struct djp_scan scan = { .proof = proof, .found = ATOMIC_INIT(0) };
	unsigned int i;
	int ret;

	if (!proof->nr)
		return 0;
	scan.low = proof->dangers[0].start;
	scan.high = proof->dangers[proof->nr - 1].end;

	cpus_read_lock();
	scan.leader = cpumask_first(cpu_online_mask);
	ret = djp_k.stop_machine_cpuslocked(djp_scan_stopped, &scan,
					    cpu_online_mask);
	cpus_read_unlock();
	if (ret)
		return ret;
	if (!djp_exiting_complete())
		return -EAGAIN;

	for (i = 0; i < proof->nr; i++) {
		if (scan.landing && proof->dangers[i].site)
			proof->dangers[i].busy = true;
		proof->nr_busy += proof->dangers[i].busy;
	}
	return 0;
}
