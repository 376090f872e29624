/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Nesting: a probe that is hit while the CPU stands in another one's handler, or in
 * the instructions that it displaced. nest.c has the probes and the file,
 * nest_event.c what interrupts them.
 */
#ifndef _DJP_NEST_H
#define _DJP_NEST_H

#include <linux/atomic.h>
#include <linux/types.h>

struct task_struct;

/* What interrupts. */
enum djp_nest_event {
	DJP_NEST_CALL,		/* nothing: the handler itself calls */
	DJP_NEST_TIMER,		/* the interrupt of an hrtimer */
	DJP_NEST_SOFTIRQ,	/* on the way out of such an interrupt */
	DJP_NEST_NMI,		/* an IPI from another CPU */
	DJP_NEST_DEBUG,		/* a hardware breakpoint */
	DJP_NEST_FAULT,		/* a page fault */
	DJP_NEST_NR_EVENTS
};

/* What is interrupted. */
enum djp_nest_place {
	DJP_NEST_HANDLER,	/* the outer probe's handler */
	DJP_NEST_COPIED,	/* an instruction that the outer probe displaced */
	DJP_NEST_TRAP,		/* the kernel's way from the int3 to either */
	DJP_NEST_ANYWHERE,	/* whatever it is at, between one hit and the next */
	DJP_NEST_DETOUR,	/* a given instruction of its detour */
	DJP_NEST_NR_PLACES
};

/**
 * struct djp_nest - one run; there is one at a time
 * @task: the task that is to be interrupted
 * @event: by what
 * @place: where
 * @armed: the next event at @place is the one
 * @in_handler: the outer probe's handler is waiting for it
 * @copied: the address of the copied instruction, once it has been seen; or of the
 *	given one
 * @page: the next load or store here faults
 * @landed: events at @place
 * @elsewhere: events that missed it
 * @inner_calls: calls of djp_test_plain()
 * @outer_calls: calls of djp_test_dwell()
 * @wrong: results of either that were wrong
 */
struct djp_nest {
	struct task_struct	*task;
	enum djp_nest_event	event;
	enum djp_nest_place	place;
	bool			armed;
	bool			in_handler;
	unsigned long		copied;
	unsigned long		page;
	unsigned long		landed;
	unsigned long		elsewhere;
	atomic_long_t		inner_calls;
	atomic_long_t		outer_calls;
	atomic_long_t		wrong;
};

extern struct djp_nest djp_nest;

void djp_nest_outer(unsigned long to, unsigned long len);

int djp_nest_event_init(void);
int djp_nest_event_begin(void);
void djp_nest_event_end(void);
void djp_nest_await(void);

#endif /* _DJP_NEST_H */
