// SPDX-License-Identifier: GPL-2.0
/*
 * "plans": plans A and B of the discussion that djprobes come from, tried on functions
 * of this module's own (plans_text.S), and the same functions with djprobes in them. Write
 *
 *	PLAN EXPERIMENT N [ADDRESS]
 *
 *   PLAN        push_ret or iret (plan A), pushf (plan B); or call: the functions as
 *               they are, with whatever probes there are in them
 *   EXPERIMENT  of all but pushf: plain, nesting, preemption or migration;
 *               of pushf and call: flags, if, cli or stack
 *   ADDRESS     for call, but with plain: where the displaced instruction is at which
 *               the function is disturbed
 *
 * and N calls are made. Read "key value" lines: calls; met (calls that were disturbed
 * in their displaced instructions); right, strayed (results, where the second is what
 * the plan's fault makes of it), other.
 *
 * A breakpoint at a displaced instruction disturbs. Nesting: its handler, in which the
 * kernel is as in an NMI, calls the other function. Preemption and migration: it raises
 * an irq_work, which wakes a SCHED_FIFO thread, which calls the other function, or moves
 * the preempted caller to another CPU. A wrong target is always one of ours, and shows
 * in the result.
 */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/hw_breakpoint.h>
#include <linux/irq_work.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/processor-flags.h>

#include "djp_test.h"

/* For plans_text.S: where the function that is on its way on this CPU goes on. */
DECLARE_PER_CPU(unsigned long, djp_plan_target);
DEFINE_PER_CPU(unsigned long, djp_plan_target);

asmlinkage long djp_plan_one(void);
asmlinkage long djp_plan_two(void);
asmlinkage long djp_plan_ret_one(void);
asmlinkage long djp_plan_ret_two(void);
asmlinkage long djp_plan_iret_one(void);
asmlinkage long djp_plan_iret_two(void);
extern char djp_plan_two_back[];
extern char djp_plan_ret_one_displaced[];
extern char djp_plan_iret_one_displaced[];

asmlinkage long djp_plan_flags(long x);
asmlinkage long djp_plan_b_flags(long x);
asmlinkage long djp_plan_if(void);
asmlinkage long djp_plan_b_if(void);
asmlinkage long djp_plan_cli(void);
asmlinkage long djp_plan_b_cli(void);
asmlinkage long djp_plan_stack(void);
asmlinkage long djp_plan_b_stack(void);

#define DJP_PLAN_ONE		0x11
#define DJP_PLAN_TWO		0x22
#define DJP_PLAN_ONE_THEN_TWO	0x21
#define DJP_PLAN_PUSHED		0x5a

enum djp_plan_trouble {
	DJP_PLAN_PLAIN,
	DJP_PLAN_NESTING,
	DJP_PLAN_PREEMPTION,
	DJP_PLAN_MIGRATION,
};

static const char * const djp_plan_troubles[] = {
	[DJP_PLAN_PLAIN] = "plain",
	[DJP_PLAN_NESTING] = "nesting",
	[DJP_PLAN_PREEMPTION] = "preemption",
	[DJP_PLAN_MIGRATION] = "migration",
};

/**
 * struct djp_plan - a way to reach the two functions
 * @name: as it is written to the file
 * @one: the first, which is disturbed
 * @two: the second, which disturbs
 * @displaced: where the first is in its displaced instructions, or NULL
 */
struct djp_plan {
	const char	*name;
	long		(*one)(void);
	long		(*two)(void);
	char		*displaced;
};

static const struct djp_plan djp_plans[] = {
	{ "call", djp_plan_one, djp_plan_two },
	{ "push_ret", djp_plan_ret_one, djp_plan_ret_two,
	  djp_plan_ret_one_displaced },
	{ "iret", djp_plan_iret_one, djp_plan_iret_two,
	  djp_plan_iret_one_displaced },
};

struct djp_plan_result {
	unsigned long	calls;
	unsigned long	met;
	unsigned long	right;
	unsigned long	strayed;
	unsigned long	other;
};

static DEFINE_MUTEX(djp_plans_mutex);
static struct djp_plan_result djp_plan_result;

/* The experiment that is on. */
static const struct djp_plan *djp_plan;
static enum djp_plan_trouble djp_plan_trouble;
static unsigned long djp_plan_calls;
static struct task_struct *djp_plan_caller;
static struct irq_work djp_plan_work;
static DECLARE_COMPLETION(djp_plan_woken);
static DECLARE_COMPLETION(djp_plan_done);
static bool djp_plan_armed;
static bool djp_plan_over;
static unsigned long djp_plan_met;
static int djp_plan_cpu;
static int djp_plan_other_cpu;

static void djp_plan_disturb(void)
{
	if (djp_plan->two() != DJP_PLAN_TWO)
		djp_plan_result.other++;
	WRITE_ONCE(djp_plan_met, djp_plan_met + 1);
}

static void djp_plan_wake(struct irq_work *work)
{
	complete(&djp_plan_woken);
}

/* #DB context, like an NMI. */
static void djp_plan_on_debug(struct perf_event *bp,
			      struct perf_sample_data *data,
			      struct pt_regs *regs)
{
	if (current != djp_plan_caller || !xchg(&djp_plan_armed, false))
		return;
	if (djp_plan_trouble == DJP_PLAN_NESTING)
		djp_plan_disturb();
	else
		irq_work_queue(&djp_plan_work);
}

/* On the caller's CPU, above it. */
static int djp_plan_hog_run(void *data)
{
	for (;;) {
		wait_for_completion(&djp_plan_woken);
		if (READ_ONCE(djp_plan_over))
			break;
		if (djp_plan_trouble == DJP_PLAN_PREEMPTION) {
			djp_plan_disturb();
			continue;
		}
		set_cpus_allowed_ptr(djp_plan_caller,
				     cpumask_of(djp_plan_other_cpu));
	}
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void djp_plan_note(long result)
{
	struct djp_plan_result *r = &djp_plan_result;

	r->calls++;
	if (result == DJP_PLAN_ONE)
		r->right++;
	else if (result == DJP_PLAN_ONE_THEN_TWO)
		r->strayed++;
	else
		r->other++;
}

static int djp_plan_caller_run(void *data)
{
	unsigned long n, before;
	long result;

	for (n = 0; n < djp_plan_calls; n++) {
		before = READ_ONCE(djp_plan_met);
		WRITE_ONCE(djp_plan_armed, djp_plan_trouble != DJP_PLAN_PLAIN);
		result = djp_plan->one();
		/* Only what happened before it returned has disturbed it. */
		djp_plan_result.met += READ_ONCE(djp_plan_met) != before ||
				       raw_smp_processor_id() != djp_plan_cpu;
		djp_plan_note(result);
		set_cpus_allowed_ptr(current, cpumask_of(djp_plan_cpu));
		/* The hog is done then, also where nobody is preempted. */
		cond_resched();
	}
	complete(&djp_plan_done);
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static struct task_struct *djp_plan_thread(int (*fn)(void *), const char *name)
{
	struct task_struct *task = kthread_create(fn, NULL, "%s", name);

	if (!IS_ERR(task))
		kthread_bind(task, djp_plan_cpu);
	return task;
}

static int djp_plan_call(struct task_struct *hog)
{
	struct task_struct *caller;

	caller = djp_plan_thread(djp_plan_caller_run, "djp_plan");
	if (IS_ERR(caller))
		return PTR_ERR(caller);
	djp_plan_caller = caller;
	sched_set_fifo(hog);
	wake_up_process(hog);
	wake_up_process(caller);
	wait_for_completion(&djp_plan_done);
	WRITE_ONCE(djp_plan_armed, false);
	kthread_stop(caller);
	djp_plan_caller = NULL;
	return 0;
}

static int djp_plan_with_breakpoint(struct task_struct *hog, unsigned long addr)
{
	struct perf_event * __percpu *bp;
	struct perf_event_attr attr;
	int ret;

	if (djp_plan_trouble == DJP_PLAN_PLAIN)
		return djp_plan_call(hog);
	if (djp_plan->displaced)
		addr = (unsigned long)djp_plan->displaced;
	hw_breakpoint_init(&attr);
	attr.bp_addr = addr;
	attr.bp_len = sizeof(long);
	attr.bp_type = HW_BREAKPOINT_X;
	bp = register_wide_hw_breakpoint(&attr, djp_plan_on_debug, NULL);
	if (IS_ERR((void __force *)bp))
		return PTR_ERR((void __force *)bp);
	ret = djp_plan_call(hog);
	unregister_wide_hw_breakpoint(bp);
	irq_work_sync(&djp_plan_work);
	return ret;
}

static int djp_plan_a(const struct djp_plan *plan, enum djp_plan_trouble trouble,
		      unsigned long n, unsigned long addr)
{
	struct task_struct *hog;
	int ret, cpu;

	if (trouble != DJP_PLAN_PLAIN && !plan->displaced && !addr)
		return -EINVAL;
	djp_plan = plan;
	djp_plan_trouble = trouble;
	djp_plan_calls = n;
	djp_plan_met = 0;
	djp_plan_over = false;
	djp_plan_cpu = cpumask_last(cpu_online_mask);
	djp_plan_other_cpu = cpumask_first(cpu_online_mask);
	if (djp_plan_cpu == djp_plan_other_cpu)
		return -EOPNOTSUPP;
	reinit_completion(&djp_plan_woken);
	reinit_completion(&djp_plan_done);
	for_each_possible_cpu(cpu)
		per_cpu(djp_plan_target, cpu) = (unsigned long)djp_plan_two_back;

	hog = djp_plan_thread(djp_plan_hog_run, "djp_plan_hog");
	if (IS_ERR(hog))
		return PTR_ERR(hog);
	ret = djp_plan_with_breakpoint(hog, addr);
	WRITE_ONCE(djp_plan_over, true);
	complete(&djp_plan_woken);
	kthread_stop(hog);
	return ret;
}

/* Returns 1 if it did what it should, 0 if it shows plan B's fault, or -1. */
static int djp_plan_check_flags(bool plan_b, unsigned long n)
{
	/* Of three calls one is right: ZF was set before, and is again. */
	const long x = 41 + n % 3, right = x == 42 ? 1 : x < 42 ? 2 : 3;
	long result = plan_b ? djp_plan_b_flags(x) : djp_plan_flags(x);

	return result == right ? 1 : result == 1 ? 0 : -1;
}

static int djp_plan_check_if(bool plan_b, unsigned long n)
{
	return !!((plan_b ? djp_plan_b_if() : djp_plan_if()) & X86_EFLAGS_IF);
}

static int djp_plan_check_cli(bool plan_b, unsigned long n)
{
	return !((plan_b ? djp_plan_b_cli() : djp_plan_cli()) & X86_EFLAGS_IF);
}

static int djp_plan_check_stack(bool plan_b, unsigned long n)
{
	long result = plan_b ? djp_plan_b_stack() : djp_plan_stack();

	if (result == DJP_PLAN_PUSHED)
		return 1;
	/* It has found the flags. */
	result--;
	return result & X86_EFLAGS_FIXED && result & X86_EFLAGS_IF ? 0 : -1;
}

static const struct {
	const char *name;
	int (*check)(bool plan_b, unsigned long n);
} djp_plan_checks[] = {
	{ "flags", djp_plan_check_flags },
	{ "if", djp_plan_check_if },
	{ "cli", djp_plan_check_cli },
	{ "stack", djp_plan_check_stack },
};

static int djp_plan_b(const char *experiment, bool plan_b, unsigned long n)
{
	struct djp_plan_result *r = &djp_plan_result;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(djp_plan_checks); i++) {
		if (!strcmp(experiment, djp_plan_checks[i].name))
			break;
	}
	if (i == ARRAY_SIZE(djp_plan_checks))
		return -EINVAL;
	for (; n; n--) {
		int ret = djp_plan_checks[i].check(plan_b, n);

		r->calls++;
		r->right += ret == 1;
		r->strayed += ret == 0;
		r->other += ret < 0;
		cond_resched();
	}
	return 0;
}

static int djp_plans_parse(char *text)
{
	char *plan = strsep(&text, " "), *experiment = strsep(&text, " ");
	char *number = strsep(&text, " ");
	unsigned long n, addr = 0;
	unsigned int i;
	int trouble;

	if (!number || kstrtoul(number, 0, &n) ||
	    (text && kstrtoul(text, 0, &addr)))
		return -EINVAL;
	memset(&djp_plan_result, 0, sizeof(djp_plan_result));
	trouble = match_string(djp_plan_troubles, ARRAY_SIZE(djp_plan_troubles),
			       experiment);
	if (!strcmp(plan, "pushf"))
		return djp_plan_b(experiment, true, n);
	if (trouble < 0)
		return strcmp(plan, "call") ? -EINVAL :
			djp_plan_b(experiment, false, n);
	for (i = 0; i < ARRAY_SIZE(djp_plans); i++) {
		if (!strcmp(plan, djp_plans[i].name))
			return djp_plan_a(&djp_plans[i], trouble, n, addr);
	}
	return -EINVAL;
}

static ssize_t djp_plans_write(struct file *file, const char __user *user,
			       size_t len, loff_t *pos)
{
	char buf[64] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	mutex_lock(&djp_plans_mutex);
	ret = djp_plans_parse(strim(buf));
	mutex_unlock(&djp_plans_mutex);
	return ret ?: len;
}

static int djp_plans_show(struct seq_file *m, void *v)
{
	const struct djp_plan_result *r = &djp_plan_result;

	mutex_lock(&djp_plans_mutex);
	seq_printf(m, "calls %lu\nmet %lu\n", r->calls, r->met);
	seq_printf(m, "right %lu\nstrayed %lu\nother %lu\n", r->right,
		   r->strayed, r->other);
	mutex_unlock(&djp_plans_mutex);
	return 0;
}

static int djp_plans_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_plans_show, NULL);
}

static const struct file_operations djp_plans_fops = {
	.owner = THIS_MODULE,
	.open = djp_plans_open,
	.read = seq_read,
	.write = djp_plans_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_plans_init() - make the file "plans"
 * @dir: where
 */
void djp_test_plans_init(struct dentry *dir)
{
	djp_plan_work = IRQ_WORK_INIT_HARD(djp_plan_wake);
	debugfs_create_file("plans", 0600, dir, NULL, &djp_plans_fops);
}
