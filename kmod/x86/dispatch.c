// SPDX-License-Identifier: GPL-2.0
/*
 * From a detour to the handlers.
 *
 * Handlers run with preemption disabled, so that synchronize_rcu() after an
 * action's handler_of was cleared means that the handler will not run again,
 * whatever tasks are still on their way through the detour.
 */
#include <linux/kprobes.h>
#include <linux/percpu.h>
#include <linux/preempt.h>

#include "x86/x86.h"

/* A detour: its own pointer, pushfq (1), cld (1), clac (3), call (5), return address. */
#define DJP_RET_TO_HEADER (sizeof(struct djp_detour *) + 1 + 1 + 3 + 5)

/**
 * struct djp_frame - a handler that is running
 * @p: whose
 * @prev: what it interrupted, in the same context on the same CPU
 */
struct djp_frame {
	const struct djprobe	*p;
	struct djp_frame	*prev;
};

enum { DJP_CTX_TASK, DJP_CTX_SOFTIRQ, DJP_CTX_HARDIRQ, DJP_CTX_NMI, DJP_NR_CTX };

/* Stable: preemption is off while a frame is on it. */
static DEFINE_PER_CPU(struct djp_frame *, djp_running[DJP_NR_CTX]);

atomic_long_t djp_recursion_missed = ATOMIC_LONG_INIT(0);

static nokprobe_inline int djp_context(void)
{
	if (in_nmi())
		return DJP_CTX_NMI;
	if (in_hardirq())
		return DJP_CTX_HARDIRQ;
	if (in_serving_softirq())
		return DJP_CTX_SOFTIRQ;
	return DJP_CTX_TASK;
}

static nokprobe_inline bool djp_is_running(const struct djp_frame *frame,
					   const struct djprobe *p)
{
	for (; frame; frame = frame->prev) {
		if (frame->p == p)
			return true;
	}
	return false;
}

/**
 * djp_run_actions() - count, and call handlers
 * @detour: whose actions
 * @regs: as they were at the probed instruction
 * @count_all: count for probes without a handler too: nothing else does
 *
 * A hit in another context than the handler that it interrupts is handled. Only
 * a handler that reaches its own probe in its own context is refused.
 *
 * Context: that of the probed code.
 */
notrace void djp_run_actions(const struct djp_detour *detour,
			     struct pt_regs *regs, bool count_all)
{
	struct djp_frame frame;
	struct djp_frame **top;
	unsigned int i;

	preempt_disable_notrace();
	top = this_cpu_ptr(&djp_running[djp_context()]);
	frame.prev = *top;
	for (i = 0; i < detour->nr_actions; i++) {
		struct djprobe *p = READ_ONCE(detour->actions[i].handler_of);

		if (!p) {
			if (count_all)
				this_cpu_inc(*detour->actions[i].counter->slot);
			continue;
		}
		if (djp_is_running(frame.prev, p)) {
			atomic_long_inc(&p->missed);
			atomic_long_inc(&djp_recursion_missed);
			continue;
		}
		this_cpu_inc(*detour->actions[i].counter->slot);
		frame.p = p;
		WRITE_ONCE(*top, &frame);
		barrier();
		p->handler(p, regs);
		barrier();
		WRITE_ONCE(*top, frame.prev);
	}
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(djp_run_actions);

/**
 * djp_is_handler_entry() - is this in djp_handler_entry()?
 * @addr: an address
 *
 * Then it has been called by a detour. An unwinder does not show that: it goes on from
 * the pt_regs that djp_handler_entry() has built.
 */
bool djp_is_handler_entry(unsigned long addr)
{
	unsigned long start = (unsigned long)djp_handler_entry;

	/* Or objtool sees an address that is folded with others. */
	OPTIMIZER_HIDE_VAR(start);
	return addr >= start && addr < (unsigned long)djp_handler_entry_end;
}

/**
 * djp_handler_address() - what the detours of probes with handlers call
 */
unsigned long djp_handler_address(void)
{
	unsigned long entry = (unsigned long)djp_handler_entry;

	/* Or objtool sees an address that is folded with others. */
	OPTIMIZER_HIDE_VAR(entry);
	return entry;
}

/**
 * djp_dispatch() - from a detour to its handlers
 * @regs: as they were at the probed instruction, but for ip
 * @ret: the return address into the detour, which identifies it
 *
 * Context: that of the probed code.
 */
asmlinkage notrace __visible void djp_dispatch(struct pt_regs *regs,
					       unsigned long ret)
{
	struct djp_detour *detour =
		*(struct djp_detour **)(ret - DJP_RET_TO_HEADER);

	regs->ip = detour->addr;
	djp_run_actions(detour, regs, false);
}
NOKPROBE_SYMBOL(djp_dispatch);
