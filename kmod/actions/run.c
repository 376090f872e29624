// SPDX-License-Identifier: GPL-2.0
/*
 * The options of a probe where its detour does not do them: fields in memory, hits by
 * task, counters out of reach, and the kernel's own kprobes. x86/inline.c does the same
 * in instructions.
 *
 * Kbuild sees to it that nothing here can be traced.
 */
#include <linux/bitops.h>
#include <linux/kprobes.h>
#include <linux/percpu.h>
#include <linux/ptrace.h>
#include <linux/uaccess.h>
#include <asm/page.h>
#include <asm/processor.h>
#include <asm/vsyscall.h>

#include "actions/actions.h"

/* In the order of their numbers. */
static const u8 djp_reg_offsets[DJP_NR_REGS] = {
	offsetof(struct pt_regs, ax), offsetof(struct pt_regs, cx),
	offsetof(struct pt_regs, dx), offsetof(struct pt_regs, bx),
	offsetof(struct pt_regs, sp), offsetof(struct pt_regs, bp),
	offsetof(struct pt_regs, si), offsetof(struct pt_regs, di),
	offsetof(struct pt_regs, r8), offsetof(struct pt_regs, r9),
	offsetof(struct pt_regs, r10), offsetof(struct pt_regs, r11),
	offsetof(struct pt_regs, r12), offsetof(struct pt_regs, r13),
	offsetof(struct pt_regs, r14), offsetof(struct pt_regs, r15),
};

/*
 * May it be tried to read there? Of user memory and addresses that do not exist the
 * exception is not one that a fixup may be for, see fixup_exception() and
 * do_user_addr_fault(), v6.1; copy_from_kernel_nofault_allowed() has the same rules,
 * and may be probed.
 */
static nokprobe_inline bool djp_is_kernel_address(unsigned long addr, u8 size)
{
	unsigned long last = addr + size - 1;
	u8 bits = boot_cpu_data.x86_virt_bits;

	return (long)addr < 0 && last >= addr &&
		(unsigned long)((long)(addr << (64 - bits)) >> (64 - bits)) == addr &&
		(addr & PAGE_MASK) != VSYSCALL_ADDR &&
		(last & PAGE_MASK) != VSYSCALL_ADDR;
}

static nokprobe_inline bool djp_read(unsigned long addr, u8 size, u64 *value)
{
	u32 v4;
	u16 v2;
	u8 v1;

	if (!djp_is_kernel_address(addr, size))
		return false;
	pagefault_disable();
	switch (size) {
	case 1:
		__get_kernel_nofault(&v1, (u8 *)addr, u8, fault);
		*value = v1;
		break;
	case 2:
		__get_kernel_nofault(&v2, (u16 *)addr, u16, fault);
		*value = v2;
		break;
	case 4:
		__get_kernel_nofault(&v4, (u32 *)addr, u32, fault);
		*value = v4;
		break;
	default:
		__get_kernel_nofault(value, (u64 *)addr, u64, fault);
	}
	pagefault_enable();
	return true;
fault:
	pagefault_enable();
	return false;
}

/* Extended to 64 bits, as its type says. */
static nokprobe_inline bool djp_field_get(const struct djp_field *f,
					  const struct pt_regs *regs, u64 *value)
{
	unsigned int unused = 64 - 8 * f->size;
	u64 raw = *(const unsigned long *)((const u8 *)regs +
					   djp_reg_offsets[f->reg]);

	if (f->deref && !djp_read(raw + f->off, f->size, &raw))
		return false;
	*value = f->sign ? (u64)((s64)(raw << unused) >> unused) :
		raw << unused >> unused;
	return true;
}

static nokprobe_inline bool djp_holds(const struct djp_options *o, u64 value)
{
	s64 order = o->cond.sign ? (s64)value < (s64)o->value ? -1 :
				   (s64)value > (s64)o->value :
				   value < o->value ? -1 : value > o->value;

	switch (o->op) {
	case DJP_OP_EQ:
		return !order;
	case DJP_OP_NE:
		return order;
	case DJP_OP_LT:
		return order < 0;
	case DJP_OP_LE:
		return order <= 0;
	case DJP_OP_GT:
		return order > 0;
	case DJP_OP_GE:
		return order >= 0;
	default:
		return value & o->value;
	}
}

/* Did the sum overflow? Whatever nests adds by itself. */
static nokprobe_inline bool djp_sampled(u64 __percpu *sum, u32 every)
{
	u64 step = djp_sample_step(every);

	return this_cpu_add_return(*sum, step) < step;
}

/**
 * djp_count_hit() - do what a probe's options say
 * @counter: the probe's
 * @regs: as they were at the probed instruction
 *
 * Context: that of the probed code, preemption off.
 */
notrace void djp_count_hit(struct djp_counter *counter, const struct pt_regs *regs)
{
	u64 __percpu *slot = counter->slot;
	struct djp_extra *extra = counter->extra;
	const struct djp_options *o = &extra->options;
	u64 value = 0;

	if (extra->soft && !this_cpu_read(slot[extra->soft]))
		return;
	if (o->cond.size) {
		if (!djp_field_get(&o->cond, regs, &value))
			goto unreadable;
		if (!djp_holds(o, value))
			return;
	}
	if (o->hist.size && !djp_field_get(&o->hist, regs, &value))
		goto unreadable;
	if (extra->sample && !djp_sampled(slot + extra->sample, o->sample))
		return;
	if (o->once && test_and_set_bit(0, &extra->fired))
		return;
	this_cpu_inc(*slot);
	if (extra->hist)
		this_cpu_inc(slot[extra->hist + fls64(value)]);
	if (extra->map)
		djp_map_hit(extra->map);
	return;
unreadable:
	atomic_long_inc(&extra->unreadable);
}
NOKPROBE_SYMBOL(djp_count_hit);
