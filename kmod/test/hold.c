// SPDX-License-Identifier: GPL-2.0
/*
 * The adversary: a task held exactly where it does most harm.
 *
 * A hardware breakpoint at the address in question, which the victim's code passes
 * through (victim.c), raises an irq_work, so an interrupt comes right there. Then
 *
 * preempt	it wakes a SCHED_FIFO thread on that CPU, the hog. The victim is
 *		preempted on return from that interrupt, for as long as the hog runs.
 *		Only where the kernel is preemptible (preempt=full)
 * interrupt	it raises a softirq, which spins; or spins itself, on top of a victim
 *		that is a softirq. The victim is below it, on any kernel. The CPU runs
 *		nothing else, stop_machine()'s thread neither
 *
 * and without a breakpoint
 *
 * spin		the victim's probe has a handler, which spins: preemption is off
 * sleep	the victim's function calls one that sleeps
 *
 * All ends at a deadline, whatever happens to the test.
 *
 * RT throttling must be off (kernel.sched_rt_runtime_us = -1), or a preempted
 * victim gets its CPU back after a second.
 *
 * States:
 *
 *	idle -> armed -> taken -> held -> released	somebody let go
 *				       -> expired	the deadline did
 *			 taken -> missed	it went on: nothing preempted it
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/freezer.h>
#include <linux/hw_breakpoint.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "djp_test.h"
#include "hold.h"

/* How long the victim may take to get there. */
#define DJP_HOLD_PATIENCE (10 * HZ)

enum djp_hold_state {
	DJP_HOLD_IDLE,
	DJP_HOLD_ARMED,
	DJP_HOLD_TAKEN,
	DJP_HOLD_HELD,
	DJP_HOLD_RELEASED,
	DJP_HOLD_EXPIRED,
	DJP_HOLD_MISSED,
};

static const char * const djp_hold_states[] = {
	"idle", "armed", "taken", "held", "released", "expired", "missed",
};

static const char * const djp_hold_ways[] = {
	"preempt", "interrupt", "spin", "sleep",
};

static const char * const djp_hold_kinds[] = {
	"kthread", "user", "softirq", "idle", "exiting", "faulting",
};

/**
 * struct djp_hold - one victim held once
 * @kind: who
 * @way: how
 * @where: the breakpoint's address, if @way wants one
 * @limit_ns: for how long at most
 * @until_ns: and so until when, by ktime_get_mono_fast_ns()
 * @pid: of the victim, once it is taken
 * @passerby: that victim, with a reference, if it is none of victim.c
 */
struct djp_hold {
	int		kind;
	int		way;
	unsigned long	where;
	u64		limit_ns;
	u64		until_ns;
	pid_t		pid;
	struct task_struct *passerby;
};

static DEFINE_MUTEX(djp_hold_mutex);
static struct djp_hold djp_hold;
static atomic_t djp_hold_state = ATOMIC_INIT(DJP_HOLD_IDLE);
static struct task_struct *djp_hog;
static struct perf_event * __percpu *djp_hold_bp;
static struct irq_work djp_hold_work;
static struct tasklet_struct djp_hold_softirq;
static DECLARE_COMPLETION(djp_hog_go);
static DECLARE_COMPLETION(djp_hold_begun);
static DECLARE_WAIT_QUEUE_HEAD(djp_hold_sleepers);

static bool djp_hold_to(enum djp_hold_state from, enum djp_hold_state to)
{
	return atomic_cmpxchg(&djp_hold_state, from, to) == from;
}

/* Is it the one to be held, in this way, and not held yet? Context: any. */
static bool djp_hold_take(enum djp_hold_way way)
{
	if (atomic_read(&djp_hold_state) != DJP_HOLD_ARMED ||
	    READ_ONCE(djp_hold.way) != way ||
	    !djp_victim_is(djp_hold.kind, current) ||
	    !djp_hold_to(DJP_HOLD_ARMED, DJP_HOLD_TAKEN))
		return false;
	djp_hold.pid = current->pid;
	if (djp_victim_passes_by(djp_hold.kind))
		djp_hold.passerby = get_task_struct(current);
	return true;
}

/* From here on it is held, if it still is where it was taken. */
static bool djp_hold_begin(bool there)
{
	bool begun;

	djp_hold.until_ns = ktime_get_mono_fast_ns() + djp_hold.limit_ns;
	begun = djp_hold_to(DJP_HOLD_TAKEN,
			    there ? DJP_HOLD_HELD : DJP_HOLD_MISSED);
	complete(&djp_hold_begun);
	return begun && there;
}

/*
 * Keep the CPU until the next interrupt, a tick at the latest: an emulated one that
 * spins would take a core from all others.
 *
 * Context: interrupts are on.
 */
static void djp_hold_doze(void)
{
	local_irq_disable();
	safe_halt();
}

static bool djp_hold_lasts(void)
{
	if (atomic_read(&djp_hold_state) != DJP_HOLD_HELD)
		return false;
	if (ktime_get_mono_fast_ns() < djp_hold.until_ns)
		return true;
	djp_hold_to(DJP_HOLD_HELD, DJP_HOLD_EXPIRED);
	return false;
}

/* #DB context: as restricted as an NMI, which irq_work_queue() is made for. */
static void djp_hold_hit(struct perf_event *bp, struct perf_sample_data *data,
			 struct pt_regs *regs)
{
	if (djp_hold_take(DJP_HOLD_PREEMPT) ||
	    djp_hold_take(DJP_HOLD_INTERRUPT))
		irq_work_queue(&djp_hold_work);
}

static void djp_hold_irq_work(struct irq_work *work)
{
	if (djp_hold.way == DJP_HOLD_PREEMPT) {
		complete(&djp_hog_go);
	} else if (djp_hold.kind != DJP_VICTIM_SOFTIRQ) {
		tasklet_hi_schedule(&djp_hold_softirq);
	} else if (djp_hold_begin(true)) {
		/* A softirq would wait for the one that is below. */
		while (djp_hold_lasts())
			djp_hold_doze();
		local_irq_disable();
	}
}

/* Where it is not preempted at once, it has left its function by now. */
static bool djp_hold_is_there(void)
{
	if (djp_hold.passerby)
		return READ_ONCE(djp_hold.passerby->__state) == TASK_RUNNING;
	return djp_victim_is_calling();
}

static int djp_hog_run(void *data)
{
	wait_for_completion(&djp_hog_go);
	if (djp_hold_begin(djp_hold_is_there())) {
		/* stop_machine()'s thread is above SCHED_FIFO and gets through. */
		while (djp_hold_lasts()) {
			djp_hold_doze();
			cond_resched();
		}
	}
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void djp_hold_softirq_run(struct tasklet_struct *tasklet)
{
	/* In ksoftirqd it would be on top of somebody else. */
	if (djp_hold_begin(djp_victim_is(djp_hold.kind, current))) {
		while (djp_hold_lasts())
			djp_hold_doze();
	}
}

/**
 * djp_hold_here() - stay here, if the current task is to be held in this way
 * @way: DJP_HOLD_SPIN or, where it may sleep, DJP_HOLD_SLEEP
 */
void djp_hold_here(enum djp_hold_way way)
{
	u64 limit = djp_hold.limit_ns;

	if (!djp_hold_take(way) || !djp_hold_begin(true))
		return;
	if (way == DJP_HOLD_SPIN) {
		while (djp_hold_lasts())
			djp_hold_doze();
		return;
	}
	wait_event_freezable_timeout(djp_hold_sleepers, !djp_hold_lasts(),
				     nsecs_to_jiffies(limit) + 1);
	/* A signal ends it too. */
	djp_hold_to(DJP_HOLD_HELD, djp_hold_lasts() ? DJP_HOLD_RELEASED :
		    DJP_HOLD_EXPIRED);
}

static void djp_hold_release(void)
{
	djp_hold_to(DJP_HOLD_HELD, DJP_HOLD_RELEASED);
	wake_up_all(&djp_hold_sleepers);
}

static int djp_hog_start(void)
{
	struct task_struct *task;

	task = kthread_create(djp_hog_run, NULL, "djp_hog");
	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, DJP_HOLD_CPU);
	djp_hog = task;
	sched_set_fifo(task);
	wake_up_process(task);
	return 0;
}

static int djp_hold_bp_set(unsigned long where)
{
	struct perf_event_attr attr;
	int ret;

	hw_breakpoint_init(&attr);
	attr.bp_addr = where;
	attr.bp_len = sizeof(long);
	attr.bp_type = HW_BREAKPOINT_X;
	djp_hold_bp = register_wide_hw_breakpoint(&attr, djp_hold_hit, NULL);
	ret = PTR_ERR_OR_ZERO((void __force *)djp_hold_bp);
	if (ret)
		djp_hold_bp = NULL;
	return ret;
}

/*
 * It has done its work, and IPIs get through to the held CPU. To unregister it would wait
 * for a grace period of RCU, which may not end before the hold does
 * (bp_constraints_lock(), kernel/events/hw_breakpoint.c, v6.1).
 */
static void djp_hold_bp_disable(void)
{
	struct perf_event *bp;
	int cpu;

	if (!djp_hold_bp)
		return;
	for_each_possible_cpu(cpu) {
		bp = per_cpu(*djp_hold_bp, cpu);
		if (bp)
			perf_event_disable(bp);
	}
}

static void djp_hold_bp_clear(void)
{
	if (djp_hold_bp)
		unregister_wide_hw_breakpoint(djp_hold_bp);
	djp_hold_bp = NULL;
}

/* Let go, and end what was started. */
static void djp_hold_stop(void)
{
	djp_hold_to(DJP_HOLD_ARMED, DJP_HOLD_IDLE);
	djp_hold_to(DJP_HOLD_TAKEN, DJP_HOLD_IDLE);
	djp_hold_release();
	djp_hold_bp_clear();
	irq_work_sync(&djp_hold_work);
	tasklet_kill(&djp_hold_softirq);
	complete(&djp_hog_go);
	if (djp_hog)
		kthread_stop(djp_hog);
	djp_hog = NULL;
	djp_victim_stop();
	if (djp_hold.passerby)
		put_task_struct(djp_hold.passerby);
	djp_hold.passerby = NULL;
}

static int djp_hold_wait(void)
{
	if (!wait_for_completion_timeout(&djp_hold_begun, DJP_HOLD_PATIENCE))
		return -ETIMEDOUT;
	djp_hold_bp_disable();
	return atomic_read(&djp_hold_state) == DJP_HOLD_MISSED ? -EAGAIN : 0;
}

static int djp_hold_start(void)
{
	bool sleep = djp_hold.way == DJP_HOLD_SLEEP;
	int ret = 0;

	reinit_completion(&djp_hog_go);
	reinit_completion(&djp_hold_begun);
	if (djp_hold.way == DJP_HOLD_PREEMPT)
		ret = djp_hog_start();
	if (!ret && djp_hold.where)
		ret = djp_hold_bp_set(djp_hold.where);
	if (ret)
		return ret;
	atomic_set(&djp_hold_state, DJP_HOLD_ARMED);
	if (djp_hold.kind == DJP_VICTIM_KTHREAD ||
	    djp_hold.kind == DJP_VICTIM_SOFTIRQ)
		ret = djp_victim_start(djp_hold.kind, sleep);
	return ret ?: djp_hold_wait();
}

static int djp_hold_parse(const char *text, struct djp_hold *hold)
{
	char kind[16], way[16];
	unsigned int ms;
	bool address;

	memset(hold, 0, sizeof(*hold));
	if (sscanf(text, "%15s %15s %lx %u", kind, way, &hold->where, &ms) != 4)
		return -EINVAL;
	hold->kind = match_string(djp_hold_kinds, DJP_NR_VICTIM_KINDS, kind);
	hold->way = match_string(djp_hold_ways, DJP_NR_HOLD_WAYS, way);
	hold->limit_ns = (u64)ms * NSEC_PER_MSEC;
	if (hold->kind < 0 || hold->way < 0)
		return -EINVAL;
	/* Nobody preempts them, and they do not sleep. */
	if ((hold->kind == DJP_VICTIM_SOFTIRQ || hold->kind == DJP_VICTIM_IDLE) &&
	    hold->way != DJP_HOLD_INTERRUPT)
		return -EINVAL;
	if (djp_victim_passes_by(hold->kind) && hold->way != DJP_HOLD_PREEMPT)
		return -EINVAL;
	address = hold->way == DJP_HOLD_PREEMPT ||
		hold->way == DJP_HOLD_INTERRUPT;
	return address == !!hold->where ? 0 : -EINVAL;
}

static int djp_hold_do(const char *text)
{
	struct djp_hold hold;
	int ret;

	if (!strcmp(text, "release")) {
		djp_hold_release();
		return 0;
	}
	if (!strcmp(text, "stop")) {
		djp_hold_stop();
		return 0;
	}
	ret = djp_hold_parse(text, &hold);
	if (ret)
		return ret;
	if (atomic_read(&djp_hold_state) == DJP_HOLD_HELD)
		return -EBUSY;
	djp_hold_stop();
	djp_hold = hold;
	ret = djp_hold_start();
	if (ret)
		djp_hold_stop();
	return ret;
}

/*
 * "hold": write "KIND WAY ADDRESS MS", and when that returns the victim is held at
 * that address (hexadecimal; 0 for the ways without), for MS milliseconds at most.
 * A kthread is started (for a softirq too, which it raises), and calls its function
 * before and afterwards, until "stop"; a process that writes to "victim" must be
 * there, and one that exits, or is called DJP_FAULTING, on the last CPU. "release"
 * lets go.
 *
 * Errors: EAGAIN, this kernel did not preempt it there; ETIMEDOUT, it does not
 * come there; EBUSY, one is held.
 */
static ssize_t djp_hold_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	char buf[80] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	mutex_lock(&djp_hold_mutex);
	ret = djp_hold_do(strim(buf));
	mutex_unlock(&djp_hold_mutex);
	return ret ?: len;
}

/* The last hold: its state, and the victim's pid or 0. */
static int djp_hold_show(struct seq_file *m, void *v)
{
	seq_printf(m, "state %s\npid %d\n",
		   djp_hold_states[atomic_read(&djp_hold_state)], djp_hold.pid);
	return 0;
}

static int djp_hold_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_hold_show, NULL);
}

static const struct file_operations djp_hold_fops = {
	.owner = THIS_MODULE,
	.open = djp_hold_open,
	.read = seq_read,
	.write = djp_hold_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_hold_init() - make the file "hold"
 * @dir: where
 */
int djp_test_hold_init(struct dentry *dir)
{
	djp_hold_work = IRQ_WORK_INIT_HARD(djp_hold_irq_work);
	tasklet_setup(&djp_hold_softirq, djp_hold_softirq_run);
	debugfs_create_file("hold", 0600, dir, NULL, &djp_hold_fops);
	return 0;
}

/**
 * djp_test_hold_exit() - let go of the victim
 */
void djp_test_hold_exit(void)
{
	mutex_lock(&djp_hold_mutex);
	djp_hold_stop();
	mutex_unlock(&djp_hold_mutex);
}
