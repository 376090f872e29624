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

/**
 * struct djp_frame - a handler that is running, or options that are looked at
 * @id: the probe, or its counter
 * @prev: what it interrupted on the same CPU
 * @preempt_count: as it was: in which context it runs
 */
struct djp_frame {
	const void		*id;
	struct djp_frame	*prev;
	int			preempt_count;
};

enum { DJP_CTX_TASK, DJP_CTX_SOFTIRQ, DJP_CTX_HARDIRQ, DJP_CTX_NMI };

/* The innermost. Stable: preemption is off while a frame is on it. */
static DEFINE_PER_CPU(struct djp_frame *, djp_running);

atomic_long_t djp_recursion_missed = ATOMIC_LONG_INIT(0);

static nokprobe_inline int djp_context(int count)
{
	if (count & NMI_MASK)
		return DJP_CTX_NMI;
	if (count & HARDIRQ_MASK)
		return DJP_CTX_HARDIRQ;
	if (count & SOFTIRQ_OFFSET)	/* serving them, not only off */
		return DJP_CTX_SOFTIRQ;
	return DJP_CTX_TASK;
}

/* Is it so in this context already? */
static nokprobe_inline bool djp_is_running(const struct djp_frame *frame,
					   const void *id)
{
	int context = djp_context(preempt_count());

	for (; frame; frame = frame->prev) {
		if (frame->id == id &&
		    djp_context(frame->preempt_count) == context)
			return true;
	}
	return false;
}

static nokprobe_inline void djp_refuse_hit(struct djprobe *p,
					   struct djp_extra *extra)
{
	atomic_long_inc(p ? &p->missed : &extra->missed);
	atomic_long_inc(&djp_recursion_missed);
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
	struct djp_frame frame = { };
	unsigned int i;

	preempt_disable_notrace();
	frame.prev = this_cpu_read(djp_running);
	frame.preempt_count = preempt_count();
	this_cpu_write(djp_running, &frame);
	for (i = 0; i < detour->nr_actions; i++) {
		struct djprobe *p = READ_ONCE(detour->actions[i].handler_of);
		struct djp_counter *counter = detour->actions[i].counter;
		struct djp_extra *extra = counter->extra;

		if (!p && !(extra && (extra->in_c || count_all))) {
			if (count_all)
				this_cpu_inc(*counter->slot);
			continue;
		}
		/* To read a field may fault, and what handles that may be probed. */
		if (djp_is_running(frame.prev, p ?: (void *)counter)) {
			djp_refuse_hit(p, extra);
			continue;
		}
		WRITE_ONCE(frame.id, p ?: (void *)counter);
		barrier();
		if (p) {
			this_cpu_inc(*counter->slot);
			p->handler(p, regs);
		} else {
			djp_count_hit(counter, regs);
		}
		barrier();
		WRITE_ONCE(frame.id, NULL);
	}
	this_cpu_write(djp_running, frame.prev);
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(djp_run_actions);

/* What there is less often: a handler in another's, in itself, or one that is to go. */
static noinline notrace void djp_run_one(const struct djp_action *action,
					 struct pt_regs *regs)
{
	struct djprobe *p = READ_ONCE(action->handler_of);
	struct djp_frame frame = {
		.id = p,
		.prev = this_cpu_read(djp_running),
		.preempt_count = preempt_count(),
	};

	if (!p || djp_is_running(frame.prev, p)) {
		if (p)
			djp_refuse_hit(p, NULL);
		return;
	}
	this_cpu_write(djp_running, &frame);
	this_cpu_inc(*action->counter->slot);
	barrier();
	p->handler(p, regs);
	barrier();
	this_cpu_write(djp_running, frame.prev);
}
NOKPROBE_SYMBOL(djp_run_one);

/**
 * djp_is_handler_entry() - is this where detours come to C?
 * @addr: an address
 *
 * Then it has been called by a detour. An unwinder does not show that: it goes on from
 * the pt_regs that were built there.
 */
bool djp_is_handler_entry(unsigned long addr)
{
	unsigned long start = (unsigned long)djp_handler_entry;

	/* Or objtool sees an address that is folded with others. */
	OPTIMIZER_HIDE_VAR(start);
	return addr >= start && addr < (unsigned long)djp_entries_end;
}

/* The detour that a return address is in. */
static nokprobe_inline struct djp_detour *djp_detour_of(unsigned long ret)
{
	return *(struct djp_detour **)(ret - DJP_RET_TO_HEADER);
}

/**
 * djp_entry_address() - what detours call
 * @one: those whose only action is a handler
 */
unsigned long djp_entry_address(bool one)
{
	unsigned long entry = (unsigned long)(one ? djp_handler_entry :
					      djp_actions_entry);

	/* Or objtool sees an address that is folded with others. */
	OPTIMIZER_HIDE_VAR(entry);
	return entry;
}

/**
 * djp_dispatch() - from a detour to what it has to have done
 * @regs: as they were at the probed instruction
 * @ret: the return address into the detour, which identifies it
 *
 * Context: that of the probed code.
 */
asmlinkage notrace __visible void djp_dispatch(struct pt_regs *regs,
					       unsigned long ret)
{
	djp_run_actions(djp_detour_of(ret), regs, false);
}
NOKPROBE_SYMBOL(djp_dispatch);

/**
 * djp_dispatch_one() - the same if that is one handler, and nothing else
 * @regs: as they were at the probed instruction
 * @ret: the return address into the detour
 *
 * Context: that of the probed code.
 */
asmlinkage notrace __visible void djp_dispatch_one(struct pt_regs *regs,
						   unsigned long ret)
{
	const struct djp_action *action = djp_detour_of(ret)->actions;
	struct djp_frame frame __uninitialized;
	struct djprobe *p;

	preempt_disable_notrace();
	p = READ_ONCE(action->handler_of);
	if (unlikely(!p || this_cpu_read(djp_running))) {
		djp_run_one(action, regs);
		preempt_enable_notrace();
		return;
	}
	frame.id = p;
	frame.prev = NULL;
	frame.preempt_count = preempt_count();
	this_cpu_write(djp_running, &frame);
	this_cpu_inc(*action->counter->slot);
	barrier();
	p->handler(p, regs);
	barrier();
	this_cpu_write(djp_running, NULL);
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(djp_dispatch_one);
