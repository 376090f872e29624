/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Between hold.c, which holds tasks, and victim.c, which has tasks to be held.
 */
#ifndef _DJP_TEST_HOLD_H
#define _DJP_TEST_HOLD_H

#include <linux/cpumask.h>
#include <linux/types.h>

struct task_struct;

/* The last CPU: the tests' own work is on the first. */
#define DJP_HOLD_CPU (num_online_cpus() - 1)

/**
 * enum djp_hold_way - how a victim is kept where it is
 * @DJP_HOLD_PREEMPT: preempted there, by a thread of higher priority
 * @DJP_HOLD_INTERRUPT: interrupted there, by what does not end
 * @DJP_HOLD_SPIN: a probe's handler spins, with preemption off
 * @DJP_HOLD_SLEEP: it sleeps in a function that was called from there
 */
enum djp_hold_way {
	DJP_HOLD_PREEMPT,
	DJP_HOLD_INTERRUPT,
	DJP_HOLD_SPIN,
	DJP_HOLD_SLEEP,
	DJP_NR_HOLD_WAYS
};

/* What a process is called that has page faults in the kernel. */
#define DJP_FAULTING "djp_faulting"

/* Who is held. */
enum djp_victim_kind {
	DJP_VICTIM_KTHREAD,	/* a kernel thread, which can't be frozen */
	DJP_VICTIM_USER,	/* a process that writes to the file "victim" */
	DJP_VICTIM_SOFTIRQ,	/* on the interrupt stack, raised by a kernel thread */
	DJP_VICTIM_IDLE,	/* the idle task */
	DJP_VICTIM_EXITING,	/* a task that has left the list of processes */
	DJP_VICTIM_FAULTING,	/* a process by its name, see DJP_FAULTING */
	DJP_NR_VICTIM_KINDS
};

/* Is it a task that comes by somewhere in the kernel, and is preempted there? */
static inline bool djp_victim_passes_by(int kind)
{
	return kind == DJP_VICTIM_EXITING || kind == DJP_VICTIM_FAULTING;
}

/* hold.c */
void djp_hold_here(enum djp_hold_way way);

/* victim.c */
int djp_victim_start(enum djp_victim_kind kind, bool sleepy);
void djp_victim_stop(void);
bool djp_victim_is(enum djp_victim_kind kind, const struct task_struct *task);
bool djp_victim_is_calling(void);

#endif /* _DJP_TEST_HOLD_H */
