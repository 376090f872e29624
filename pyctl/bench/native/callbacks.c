// SPDX-License-Identifier: GPL-2.0
/*
 * The C part of an optprobe's detour: what the kernel's does to memory and to the stack, for
 * one handler; ours has none but the handler. Compiled as kernel code is, without vector registers.
 */
#include <stdint.h>
#include <stdlib.h>

#include "native.h"

void native_unexpected(void);
void native_optimized_callback(void *op, unsigned long *regs);

#define cpu_inc(slot) asm volatile("incq %%gs:%c0" : : "i"(slot) : "memory", "cc")
#define cpu_read(slot) ({ \
	unsigned long value_; \
	asm volatile("movq %%gs:%c1, %0" : "=r"(value_) : "i"(slot) : "memory"); \
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

/* As much of struct kprobe as is looked at. */
struct kprobe {
	unsigned long	flags;
	struct kprobe	*next;
	int		(*handler)(void *probe, void *regs);
};

static struct kprobe kprobe = { .handler = on_hit };
static struct { struct kprobe kp; unsigned long addr; } optprobe = {
	.kp = { .next = &kprobe, .handler = on_hit },
};

/* What kmod/x86/entry.S looks at, where native.h says that it is. */
static struct {
	char	before[PROBE_HANDLER];
	int	(*handler)(void *probe, void *regs);
} djprobe = { .handler = on_hit };

struct {
	char	before[DETOUR_HANDLER_OF];
	void	*handler_of;
} native_object = { .handler_of = &djprobe };

/* A branch that is not taken when nothing else is going on. */
void native_unexpected(void)
{
	abort();
}

/* kernel/kprobes.c: opt_pre_handler(), for one kprobe. */
static __attribute__((noinline)) void opt_pre_handler(struct kprobe *p, unsigned long *regs)
{
	struct kprobe *kp;

	for (kp = *(struct kprobe * volatile *)&p->next; kp; kp = kp->next) {
		if (kp->handler && !(kp->flags & 3)) {
			cpu_write(CURRENT_KPROBE, kp);
			kp->handler(kp, regs);
		}
		cpu_write(CURRENT_KPROBE, 0);
	}
}

/* arch/x86/kernel/kprobes/opt.c */
void native_optimized_callback(void *op, unsigned long *regs)
{
	struct kprobe *kp = &optprobe.kp;
	unsigned long *kcb;

	barrier();
	if (kp->flags & 3)
		return;
	preempt_disable();
	if (cpu_read(CURRENT_KPROBE))
		abort();
	kcb = (unsigned long *)(cpu_read(THIS_CPU_OFF) + CTLBLK);
	regs[17] = 0x10;
	regs[16] = optprobe.addr + 1;
	regs[15] = ~0UL;
	cpu_write(CURRENT_KPROBE, kp);
	*kcb = 1;
	opt_pre_handler(kp, regs);
	cpu_write(CURRENT_KPROBE, 0);
	preempt_enable();
}
