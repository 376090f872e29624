// SPDX-License-Identifier: GPL-2.0
/*
 * From a detour to the handlers, behind x86/entry.S, which does by itself what there is
 * most often.
 *
 * Handlers run with preemption disabled, so that synchronize_rcu() after an
 * action was silenced means that its handler will not run again, whatever tasks
 * are still on their way through the detour.
 */
#include <linux/build_bug.h>
#include <linux/kprobes.h>
#include <linux/percpu.h>
#include <linux/preempt.h>

#include "x86/entry.h"
#include "x86/x86.h"

static_assert(offsetof(struct djp_detour, actions[0].handler_of) ==
	      DJP_DETOUR_HANDLER_OF);
static_assert(offsetof(struct djprobe, handler) == DJP_PROBE_HANDLER);
#ifdef DJP_PCPU_HOT
static_assert(offsetof(struct pcpu_hot, preempt_count) == 8);
#endif

/**
 * struct djp_begun - a handler that x86/entry.S calls, alone on its CPU
 * @preempt_count: the kernel's, before
 * @unused: what stands behind that
 * @regs: what it is called with
 */
struct djp_begun {
	int		preempt_count;
	int		unused;
	struct pt_regs	regs;
};

/**
 * struct djp_frame - a handler that is running, or options that are looked at
 * @counter: whose: of the probe
 * @prev: what it interrupted on the same CPU, as in djp_running
 * @preempt_count: as it was: in which context it runs
 */
struct djp_frame {
	const struct djp_counter	*counter;
	unsigned long			prev;
	int				preempt_count;
};

enum { DJP_CTX_TASK, DJP_CTX_SOFTIRQ, DJP_CTX_HARDIRQ, DJP_CTX_NMI };

/*
 * The innermost: 0, a struct djp_begun, or a struct djp_frame and 1. Stable: preemption is
 * off while there is one.
 */
DEFINE_PER_CPU(unsigned long, djp_running);
#define DJP_IS_FRAME	1

atomic_long_t djp_recursion_missed = ATOMIC_LONG_INIT(0);

/* The detour that a return address is in. */
static nokprobe_inline struct djp_detour *djp_detour_of(unsigned long ret,
							unsigned int back)
{
	return *(struct djp_detour **)(ret - back);
}

/* That which called djp_handler_entry(), or another of these, for its one action. */
static nokprobe_inline const struct djp_action *djp_action_of(const struct pt_regs *regs)
{
	return djp_detour_of(regs->orig_ax, DJP_RET_TO_HEADER_ONE)->actions;
}

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
static nokprobe_inline bool djp_is_running(unsigned long running,
					   const struct djp_counter *counter)
{
	int context = djp_context(preempt_count());
	const struct djp_begun *begun;
	const struct djp_frame *frame;

	while (running & DJP_IS_FRAME) {
		frame = (const struct djp_frame *)(running - DJP_IS_FRAME);
		if (frame->counter == counter &&
		    djp_context(frame->preempt_count) == context)
			return true;
		running = frame->prev;
	}
	/* Nothing was running when that began. */
	begun = (const struct djp_begun *)running;
	return begun && djp_action_of(&begun->regs)->counter == counter &&
		djp_context(begun->preempt_count) == context;
}

static nokprobe_inline void djp_refuse_hit(struct djprobe *p,
					   struct djp_extra *extra)
{
	atomic_long_inc(p ? &p->missed : &extra->missed);
	atomic_long_inc(&djp_recursion_missed);
}

/* The detour has counted a hit for which no handler is called. */
static notrace void djp_take_back(struct djprobe *p, struct pt_regs *regs)
{
	this_cpu_dec(*djp_action_of(regs)->counter->slot);
}
NOKPROBE_SYMBOL(djp_take_back);

/* Stands in for a probe that is on its way out. */
struct djprobe djp_nobody = { .handler = djp_take_back };

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
	this_cpu_write(djp_running, (unsigned long)&frame + DJP_IS_FRAME);
	for (i = 0; i < detour->nr_actions; i++) {
		struct djprobe *p = READ_ONCE(detour->actions[i].handler_of);
		struct djp_counter *counter = detour->actions[i].counter;
		struct djp_extra *extra = counter->extra;

		if (p == &djp_nobody)
			continue;
		if (!p && !(extra && (extra->in_c || count_all))) {
			if (count_all)
				this_cpu_inc(*counter->slot);
			continue;
		}
		/* To read a field may fault, and what handles that may be probed. */
		if (djp_is_running(frame.prev, counter)) {
			djp_refuse_hit(p, extra);
			continue;
		}
		WRITE_ONCE(frame.counter, counter);
		barrier();
		if (p) {
			this_cpu_inc(*counter->slot);
			p->handler(p, regs);
		} else {
			djp_count_hit(counter, regs);
		}
		barrier();
		WRITE_ONCE(frame.counter, NULL);
	}
	this_cpu_write(djp_running, frame.prev);
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(djp_run_actions);

/**
 * djp_dispatch_nested() - call a handler while others run on this CPU
 * @begun: what x86/entry.S has made
 * @regs: as they were at the probed instruction
 *
 * Context: that of the probed code, preemption disabled.
 */
asmlinkage notrace __visible void djp_dispatch_nested(const struct djp_begun *begun,
						      struct pt_regs *regs)
{
	const struct djp_action *action = djp_action_of(regs);
	struct djprobe *p = READ_ONCE(action->handler_of);
	struct djp_frame frame = {
		.counter = action->counter,
		.prev = this_cpu_read(djp_running),
		.preempt_count = begun->preempt_count,
	};

	if (p != &djp_nobody && djp_is_running(frame.prev, action->counter)) {
		djp_refuse_hit(p, NULL);
		p = &djp_nobody;
	}
	this_cpu_write(djp_running, (unsigned long)&frame + DJP_IS_FRAME);
	barrier();
	p->handler(p, regs);
	barrier();
	this_cpu_write(djp_running, frame.prev);
}
NOKPROBE_SYMBOL(djp_dispatch_nested);

#if defined(CONFIG_CFI_CLANG) || defined(CONFIG_CFI)
/**
 * djp_call_handler() - call a handler, with its type checked
 * @p: whose
 * @regs: its argument
 *
 * Context: that of the probed code, preemption disabled.
 */
asmlinkage notrace __visible void djp_call_handler(struct djprobe *p,
						   struct pt_regs *regs)
{
	p->handler(p, regs);
}
NOKPROBE_SYMBOL(djp_call_handler);
#endif

/**
 * djp_resched() - preemption is enabled again, and was waited for
 *
 * Context: that of the probed code.
 */
asmlinkage notrace __visible void djp_resched(void)
{
	preempt_disable_notrace();
	preempt_enable_notrace();
}
NOKPROBE_SYMBOL(djp_resched);

/**
 * djp_entry_address() - what detours call
 * @entry: for which purpose
 */
unsigned long djp_entry_address(enum djp_entry entry)
{
	unsigned long addr;

	switch (entry) {
	case DJP_ENTRY_HANDLER:
		addr = (unsigned long)djp_handler_entry;
		break;
	case DJP_ENTRY_HANDLER_CALM:
		addr = (unsigned long)djp_handler_entry_calm;
		break;
	case DJP_ENTRY_READER:
		addr = (unsigned long)djp_reader_entry;
		break;
	case DJP_ENTRY_READER_CALM:
		addr = (unsigned long)djp_reader_entry_calm;
		break;
	case DJP_ENTRY_MAP:
		addr = (unsigned long)djp_map_entry;
		break;
	case DJP_ENTRY_MAP_CALM:
		addr = (unsigned long)djp_map_entry_calm;
		break;
	default:
		addr = (unsigned long)djp_actions_entry;
	}
	/* Or objtool sees an address that is folded with others. */
	OPTIMIZER_HIDE_VAR(addr);
	return addr;
}

/**
 * djp_is_handler_entry() - is this where detours come to C?
 * @addr: an address
 *
 * Then it has been called by a detour. An unwinder does not show that: it goes on from
 * the pt_regs that were built there.
 */
bool djp_is_handler_entry(unsigned long addr)
{
	return addr >= djp_entry_address(DJP_ENTRY_HANDLER) &&
		addr < (unsigned long)djp_entries_end;
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
	djp_run_actions(djp_detour_of(ret, DJP_RET_TO_HEADER), regs, false);
}
NOKPROBE_SYMBOL(djp_dispatch);
