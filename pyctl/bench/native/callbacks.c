// SPDX-License-Identifier: GPL-2.0
/*
 * The C part of a detour: what the kernel's does to memory and to the stack, for a probe
 * with one handler. Compiled as kernel code is, without vector registers.
 */
#include <stdint.h>
#include <stdlib.h>

#include "native.h"

void native_djp_dispatch_one(unsigned long *regs, unsigned long ret);
struct object;
void native_optimized_callback(struct object *op, unsigned long *regs);

#define cpu_inc(slot) asm volatile("incq %%gs:%c0" : : "i"(slot) : "memory", "cc")
#define cpu_read(slot) ({ \
	unsigned long value_; \
	asm volatile("movq %%gs:%c1, %0" : "=r"(value_) : "i"(slot) : "memory"); \
	value_; })
#define cpu_read32(slot) ({ \
	unsigned int value_; \
	asm volatile("movl %%gs:%c1, %0" : "=r"(value_) : "i"(slot) : "memory"); \
	value_; })
#define cpu_write(slot, value) \
	asm volatile("movq %0, %%gs:%c1" : : "r"((unsigned long)(value)), "i"(slot) : "memory")
#define barrier() asm volatile("" : : : "memory")

/* preempt_enable(): decl, and on to the scheduler if that made it 0. */
static inline void preempt_disable(void)
{
	asm volatile("incl %%gs:%c0" : : "i"(PREEMPT_COUNT) : "memory", "cc");
}

static inline void preempt_enable(void)
{
	asm volatile goto("decl %%gs:%c0; js %l1" : : "i"(PREEMPT_COUNT) : "memory", "cc" : bad);
	return;
bad:
	abort();
}

/* What every handler does. */
static __attribute__((noinline)) int on_hit(void *probe, void *regs)
{
	cpu_inc(HANDLED);
	return 0;
}

/* As much of struct kprobe, struct djprobe and what leads to them as is looked at. */
struct object {
	unsigned long	addr;
	unsigned long	flags;
	unsigned long	nr;
	struct object	*next;
	struct object	*of;
	int		(*handler)(void *probe, void *regs);
};

static struct object probe = { .handler = on_hit };
struct object native_object = { .nr = 1, .next = &probe, .of = &probe, .handler = on_hit };

struct frame {
	void		*id;
	struct frame	*prev;
	unsigned int	preempt_count;
};

/* kmod/x86/dispatch.c, for the usual case: nothing else is running. */
void native_djp_dispatch_one(unsigned long *regs, unsigned long ret)
{
	struct object *detour = *(struct object **)(ret - HEADER);
	struct frame frame;
	struct object *p;

	preempt_disable();
	p = *(struct object * volatile *)&detour->of;
	frame.prev = (struct frame *)cpu_read(RUNNING);
	if (frame.prev || !p)
		abort();
	*(void * volatile *)&frame.id = p;
	frame.preempt_count = cpu_read32(PREEMPT_COUNT);
	cpu_write(RUNNING, &frame);
	cpu_inc(COUNTER);
	p->handler(p, regs);
	barrier();
	cpu_write(RUNNING, frame.prev);
	preempt_enable();
}

/* kernel/kprobes.c: opt_pre_handler(), for one kprobe. */
static __attribute__((noinline)) void opt_pre_handler(struct object *p, unsigned long *regs)
{
	struct object *kp;

	for (kp = *(struct object * volatile *)&p->next; kp; kp = kp->next) {
		if (kp->handler && !(kp->flags & 3)) {
			cpu_write(CURRENT_KPROBE, kp);
			kp->handler(kp, regs);
		}
		cpu_write(CURRENT_KPROBE, 0);
	}
}

/* arch/x86/kernel/kprobes/opt.c */
void native_optimized_callback(struct object *op, unsigned long *regs)
{
	unsigned long *kcb;

	op = &native_object;
	barrier();
	if (op->flags & 3)
		return;
	preempt_disable();
	if (cpu_read(CURRENT_KPROBE))
		abort();
	kcb = (unsigned long *)(cpu_read(THIS_CPU_OFF) + CTLBLK);
	regs[17] = 0x10;
	regs[16] = op->addr + 1;
	regs[15] = ~0UL;
	cpu_write(CURRENT_KPROBE, op);
	*kcb = 1;
	opt_pre_handler(op, regs);
	cpu_write(CURRENT_KPROBE, 0);
	preempt_enable();
}
