// SPDX-License-Identifier: GPL-2.0
/*
 * What interrupts a probe: see nest.h.
 *
 * Where an event has landed is told by the registers that it interrupted. In the
 * place that was asked for, probed functions are called from the event's own
 * context, which is a hit inside a hit; elsewhere nothing is done, and there will be
 * another event.
 *
 * Timer interrupts come from perf's cpu-clock, an hrtimer. That of another CPU
 * sends the NMIs, so that they come while this one has its interrupts off, too.
 */
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/hw_breakpoint.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/perf_event.h>
#include <linux/preempt.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#include <asm/nmi.h>

#include "djp_test.h"
#include "nest.h"

#define DJP_NEST_PERIOD		(100 * NSEC_PER_USEC)
/* How long a handler waits for its event. */
#define DJP_NEST_PATIENCE	(20 * NSEC_PER_MSEC)
#define DJP_REP_STOSB		0xaaf3

static struct perf_event *djp_nest_clock;
static struct perf_event * __percpu *djp_nest_bp;
static struct tasklet_struct djp_nest_tasklet;
static bool djp_nest_tasklet_due;
static bool djp_nest_nmi_due;
static struct cpumask djp_nest_cpu;
static struct tracepoint *djp_nest_fault_tracepoint;
static void (*djp_raise_nmi)(cpumask_t *mask);

/* The instruction is there once more, and it is not the original: a copy. */
static bool djp_nest_is_copy(unsigned long ip)
{
	u16 insn;

	if (ip == (unsigned long)djp_test_dwell_probe)
		return false;
	memcpy(&insn, (void *)ip, sizeof(insn));
	if (insn != DJP_REP_STOSB)
		return false;
	if (!djp_nest.copied)
		djp_nest.copied = ip;
	return djp_nest.copied == ip;
}

static bool djp_nest_in_place(struct pt_regs *regs)
{
	switch (djp_nest.place) {
	case DJP_NEST_HANDLER:
		return READ_ONCE(djp_nest.in_handler);
	case DJP_NEST_COPIED:
		return djp_nest_is_copy(regs->ip);
	case DJP_NEST_TRAP:
		/* Two levels that count as NMIs: the int3's, and this. */
		return (preempt_count() & NMI_MASK) > NMI_OFFSET;
	case DJP_NEST_DETOUR:
		return regs->ip == djp_nest.copied;
	default:
		return true;
	}
}

/* Take the event, if it is one. */
static bool djp_nest_land(struct pt_regs *regs)
{
	if (current != djp_nest.task || user_mode(regs) ||
	    !READ_ONCE(djp_nest.armed))
		return false;
	if (!djp_nest_in_place(regs)) {
		djp_nest.elsewhere++;
		return false;
	}
	WRITE_ONCE(djp_nest.armed, false);
	return true;
}

/*
 * Hits inside a hit: of the inner probe; and of the outer probe again, where this
 * is another context than that of the first hit.
 */
static void djp_nest_hit(void)
{
	atomic_long_inc(&djp_nest.inner_calls);
	if (djp_test_plain(39) != 42)
		atomic_long_inc(&djp_nest.wrong);
	if (djp_nest.event != DJP_NEST_CALL && djp_nest.event != DJP_NEST_FAULT)
		djp_nest_outer(0, 0);
	WRITE_ONCE(djp_nest.landed, djp_nest.landed + 1);
}

/* Hard interrupt. */
static void djp_nest_on_timer(struct perf_event *event,
			      struct perf_sample_data *data, struct pt_regs *regs)
{
	if (!djp_nest_land(regs))
		return;
	if (djp_nest.event == DJP_NEST_TIMER) {
		djp_nest_hit();
		return;
	}
	WRITE_ONCE(djp_nest_tasklet_due, true);
	tasklet_schedule(&djp_nest_tasklet);
}

/* As a rule at the end of that interrupt; in ksoftirqd it interrupts nobody. */
static void djp_nest_on_tasklet(struct tasklet_struct *tasklet)
{
	if (xchg(&djp_nest_tasklet_due, false) && current == djp_nest.task)
		djp_nest_hit();
}

/* Hard interrupt, on another CPU. */
static void djp_nest_on_other_timer(struct perf_event *event,
				    struct perf_sample_data *data,
				    struct pt_regs *regs)
{
	if (READ_ONCE(djp_nest.armed) && !xchg(&djp_nest_nmi_due, true))
		djp_raise_nmi(&djp_nest_cpu);
}

static int djp_nest_on_nmi(unsigned int cmd, struct pt_regs *regs)
{
	if (!cpumask_test_cpu(smp_processor_id(), &djp_nest_cpu) ||
	    !READ_ONCE(djp_nest_nmi_due))
		return NMI_DONE;
	if (djp_nest_land(regs))
		djp_nest_hit();
	WRITE_ONCE(djp_nest_nmi_due, false);
	return NMI_HANDLED;
}

/* #DB: for the kernel the same as an NMI. */
static void djp_nest_on_debug(struct perf_event *bp,
			      struct perf_sample_data *data,
			      struct pt_regs *regs)
{
	if (djp_nest_land(regs))
		djp_nest_hit();
}

/* Interrupts are off, and the fault has not been looked at. */
static void djp_nest_on_fault(void *data, unsigned long address,
			      struct pt_regs *regs, unsigned long error_code)
{
	if (address == djp_nest.page && djp_nest_land(regs))
		djp_nest_hit();
}

/* Something to set a breakpoint on. */
static noinline void djp_nest_trip(void)
{
	barrier();
}

/**
 * djp_nest_await() - let the event happen here
 *
 * Returns when it has happened, or if it can't.
 *
 * Context: the outer probe's handler.
 */
void djp_nest_await(void)
{
	const u64 end = ktime_get_mono_fast_ns() + DJP_NEST_PATIENCE;
	const unsigned long before = djp_nest.landed;
	u8 __maybe_unused byte;

	switch (djp_nest.event) {
	case DJP_NEST_CALL:
		WRITE_ONCE(djp_nest.armed, false);
		djp_nest_hit();
		return;
	case DJP_NEST_DEBUG:
		djp_nest_trip();
		return;
	case DJP_NEST_FAULT:
		/* Not resolved here, but fixed up. */
		pagefault_disable();
		if (!__get_user(byte, (u8 __user *)djp_nest.page))
			atomic_long_inc(&djp_nest.wrong);
		pagefault_enable();
		return;
	case DJP_NEST_TIMER:
	case DJP_NEST_SOFTIRQ:
		if (irqs_disabled())
			return;
		break;
	default:
		break;
	}
	while (READ_ONCE(djp_nest.landed) == before &&
	       ktime_get_mono_fast_ns() < end)
		cpu_relax();
}

static int djp_nest_clock_begin(int cpu, perf_overflow_handler_t fn)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.size = sizeof(attr),
		.pinned = 1,
		.sample_period = DJP_NEST_PERIOD,
	};
	struct perf_event *event;

	event = perf_event_create_kernel_counter(&attr, cpu, NULL, fn, NULL);
	if (IS_ERR(event))
		return PTR_ERR(event);
	djp_nest_clock = event;
	return 0;
}

static int djp_nest_nmi_begin(void)
{
	int other = cpumask_any_but(cpu_online_mask, smp_processor_id());
	int ret;

	if (other >= nr_cpu_ids || !djp_raise_nmi)
		return -EOPNOTSUPP;
	cpumask_clear(&djp_nest_cpu);
	cpumask_set_cpu(smp_processor_id(), &djp_nest_cpu);
	ret = register_nmi_handler(NMI_LOCAL, djp_nest_on_nmi, 0, "djp_nest");
	if (ret)
		return ret;
	ret = djp_nest_clock_begin(other, djp_nest_on_other_timer);
	if (ret)
		unregister_nmi_handler(NMI_LOCAL, "djp_nest");
	return ret;
}

static int djp_nest_debug_begin(void)
{
	struct perf_event * __percpu *bp;
	struct perf_event_attr attr;

	hw_breakpoint_init(&attr);
	attr.bp_addr = djp_nest.place == DJP_NEST_HANDLER ?
		       (unsigned long)djp_nest_trip : djp_nest.copied;
	attr.bp_len = sizeof(long);
	attr.bp_type = HW_BREAKPOINT_X;
	bp = register_wide_hw_breakpoint(&attr, djp_nest_on_debug, NULL);
	if (IS_ERR((void __force *)bp))
		return PTR_ERR((void __force *)bp);
	djp_nest_bp = bp;
	return 0;
}

/**
 * djp_nest_event_begin() - let the events of @djp_nest come
 *
 * Context: the task that is to be interrupted, which stays on its CPU; may sleep.
 * Return: 0, -EOPNOTSUPP if that can't be had here, or another negative errno.
 */
int djp_nest_event_begin(void)
{
	switch (djp_nest.event) {
	case DJP_NEST_TIMER:
	case DJP_NEST_SOFTIRQ:
		return djp_nest_clock_begin(smp_processor_id(),
					    djp_nest_on_timer);
	case DJP_NEST_NMI:
		return djp_nest_nmi_begin();
	case DJP_NEST_DEBUG:
		return djp_nest_debug_begin();
	case DJP_NEST_FAULT:
		if (!djp_nest_fault_tracepoint)
			return -EOPNOTSUPP;
		return tracepoint_probe_register(djp_nest_fault_tracepoint,
						 djp_nest_on_fault, NULL);
	default:
		return 0;
	}
}

/**
 * djp_nest_event_end() - no more events
 *
 * Context: as djp_nest_event_begin(), which returned 0.
 */
void djp_nest_event_end(void)
{
	if (djp_nest_clock)
		perf_event_release_kernel(djp_nest_clock);
	djp_nest_clock = NULL;
	if (djp_nest_bp)
		unregister_wide_hw_breakpoint(djp_nest_bp);
	djp_nest_bp = NULL;
	tasklet_kill(&djp_nest_tasklet);
	if (djp_nest.event == DJP_NEST_NMI) {
		/* One may be on its way, and nobody else would know it. */
		while (READ_ONCE(djp_nest_nmi_due))
			cond_resched();
		unregister_nmi_handler(NMI_LOCAL, "djp_nest");
	}
	if (djp_nest.event == DJP_NEST_FAULT) {
		tracepoint_probe_unregister(djp_nest_fault_tracepoint,
					    djp_nest_on_fault, NULL);
		tracepoint_synchronize_unregister();
	}
}

static void djp_nest_see_tracepoint(struct tracepoint *tp, void *data)
{
	if (!strcmp(tp->name, "page_fault_kernel"))
		djp_nest_fault_tracepoint = tp;
}

/**
 * djp_nest_event_init() - find what the kernel does not export
 *
 * Return: 0 or a negative errno.
 */
int djp_nest_event_init(void)
{
	tasklet_setup(&djp_nest_tasklet, djp_nest_on_tasklet);
	for_each_kernel_tracepoint(djp_nest_see_tracepoint, NULL);
	return djp_test_lookup("nmi_raise_cpu_backtrace",
			       (unsigned long *)&djp_raise_nmi);
}
