// SPDX-License-Identifier: GPL-2.0
/*
 * Mainline's rules: where would register_kprobe() accept a kprobe, and where
 * would that kprobe become a jump?
 *
 * To ask the kernel itself takes tens of milliseconds a site: can_probe() and
 * can_optimize() decode the function from its start for each, and the reserved
 * texts are searched one entry after the other. So the rules are restated here,
 * for all of a function in one pass; tests/vm/test_peers.py compares the answers
 * with the kernel's on a sample. File names below are those of Linux, the rules
 * those of v6.1; what became different later says so.
 *
 * register_kprobe() at exactly this address, as if there was no other probe:
 *
 *  - kernel/kprobes.c, check_kprobe_address_safe(): not on the blacklist, no
 *    jump label, static call or bug entry, no __cfi_ or __pfx_ symbol
 *  - kernel/kprobes.c, _kprobe_addr(): not moved behind an endbr64
 *  - arch/x86/kernel/kprobes/core.c, arch_prepare_kprobe(): no lock prefix that
 *    alternatives patch; a decode from the function's start comes by here; no
 *    int or ud (e884edbb844f, v6.9)
 *  - core.c, __copy_instruction(), prepare_emulation(), prepare_singlestep():
 *    the instruction can be stepped or emulated
 *  - an ftrace site is taken by ftrace, a nop that passes all of the above
 *
 * The kprobe becomes a jump, if besides
 *
 *  - kernel/kprobes.c, try_to_optimize_kprobe(): it is not at an ftrace site
 *  - arch/x86/kernel/kprobes/opt.c, can_optimize(): there are 5 bytes to the
 *    function's end. In all of the function: the decoder knows every instruction,
 *    none has an exception-table entry, none jumps indirectly (since v6.6 that
 *    matters only where the compiler may make jump tables, 833fd800bf56), none
 *    jumps to the 2nd to 6th byte. Entry text is out, and on the blacklist
 *  - opt.c, copy_optimized_instructions(): all instructions of the region pass
 *    __copy_instruction() and can_boost(); no ftrace site, lock prefix, jump
 *    label or static call is in it
 *
 * Left out: kgdb's breakpoints, and what CONFIG_CFI_CLANG adds to can_probe().
 */
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "x86/mainline.h"
#include "x86/x86.h"

/* What is known of a byte of the function. */
#define DJP_FACT_LEN	0x0f	/* of the instruction that starts here; or 0 */
#define DJP_FACT_PROBE	0x10	/* register_kprobe() accepts it */
#define DJP_FACT_COPY	0x20	/* a jump's region may have this instruction */
#define DJP_FACT_TARGET	0x40	/* a jump of this function goes here */

/*
 * -----------------------------------------------------------------------
 * One instruction
 * -----------------------------------------------------------------------
 */

/* __copy_instruction(), core.c */
static bool djp_can_copy(struct insn *insn)
{
	return !insn_has_emulate_prefix(insn) &&
	       insn->opcode.bytes[0] != DJP_INT3 &&
	       !insn_masking_exception(insn);
}

/*
 * is_exception_insn(), core.c. Like the kernel here and below, this takes the
 * opcode of a VEX instruction for one of the first map.
 */
static bool djp_is_trap(const struct insn *insn)
{
	switch (insn->opcode.bytes[0]) {
	case 0x0f:
		switch (insn->opcode.bytes[1]) {
		case 0x0b:	/* ud2, ud1, ud0 */
		case 0xb9:
		case 0xff:
			return true;
		}
		return false;
	case 0xcc:		/* int3, int, into, int1 */
	case 0xcd:
	case 0xce:
	case 0xf1:
		return true;
	}
	return false;
}

/* prepare_emulation(), core.c: is it none of those that return -EOPNOTSUPP? */
static bool djp_can_emulate(const struct insn *insn)
{
	u8 modrm = insn->modrm.bytes[0];

	switch (insn->opcode.bytes[0]) {
	case 0x9a:		/* far call and jump, int3, iret */
	case 0xea:
	case 0xcc:
	case 0xcf:
		return false;
	case 0x0f:		/* vmcall and its like */
		return insn->opcode.bytes[1] != 0x01 ||
		       X86_MODRM_MOD(modrm) != 3 || X86_MODRM_REG(modrm) != 0;
	case 0xff:
		switch (X86_MODRM_REG(modrm)) {
		case 3:		/* far call and jump */
		case 5:
			return false;
		case 2:		/* near ones: through a register only */
		case 4:
			return insn->addr_bytes == sizeof(long) &&
			       X86_MODRM_MOD(modrm) == 3;
		}
		return true;
	}
	return true;
}

static bool djp_can_probe(struct insn *insn)
{
	/* prepare_singlestep(): one byte more has to fit into the slot. */
	return djp_can_copy(insn) && djp_can_emulate(insn) &&
	       insn->length < MAX_INSN_SIZE &&
	       !(djp_kprobes_refuse_traps() && djp_is_trap(insn));
}

/*
 * insn_jump_into_range(), opt.c
 * Return: where to, or 0 if it does not jump directly.
 */
static unsigned long djp_jump_target(const struct insn *insn,
				     unsigned long next)
{
	switch (insn->opcode.bytes[0]) {
	case 0x0f:
		if ((insn->opcode.bytes[1] & 0xf0) != 0x80)
			return 0;
		break;
	case 0x70 ... 0x7f:
	case 0xe0 ... 0xe3:
	case 0xe9:
	case 0xeb:
		break;
	default:
		return 0;
	}
	return next + (long)insn->immediate.value;
}

/* insn_is_indirect_jump(), opt.c */
static bool djp_is_indirect_jump(const struct insn *insn, unsigned long target)
{
	unsigned long start = (unsigned long)djp_k.__indirect_thunk_start;
	unsigned long end = (unsigned long)djp_k.__indirect_thunk_end;

	/* Both are gone since 833fd800bf56, v6.6. */
	if (start) {
		if (target >= start && target <= end)
			return true;
	} else if (IS_ENABLED(CONFIG_RETPOLINE) ||
		   IS_ENABLED(CONFIG_MITIGATION_RETPOLINE) ||
		   IS_ENABLED(CONFIG_X86_KERNEL_IBT)) {
		return false;
	}
	return insn->opcode.bytes[0] == 0xea ||
	       (insn->opcode.bytes[0] == 0xff &&
		(X86_MODRM_REG(insn->modrm.bytes[0]) & 6) == 4);
}

/*
 * -----------------------------------------------------------------------
 * A function
 * -----------------------------------------------------------------------
 */

/* An int3 that neither a kprobe nor we put there: a third of all text. */
static bool djp_is_padding(unsigned long addr)
{
	bool probed;

	if (*(u8 *)addr != DJP_INT3 || djp_is_ours(addr))
		return false;
	preempt_disable();
	probed = djp_k.get_kprobe((void *)addr);
	preempt_enable();
	return !probed;
}

static void djp_mainline_insn(struct djp_mainline *m, unsigned long addr,
			      struct insn *insn)
{
	unsigned long target = djp_jump_target(insn, addr + insn->length);
	u8 *fact = &m->facts[addr - m->start];

	*fact |= insn->length;
	if (djp_can_probe(insn))
		*fact |= DJP_FACT_PROBE;
	if (!m->optimizable)
		return;

	/* can_boost() has looked for an exception-table entry if it says yes. */
	if (djp_k.can_boost(insn, (void *)addr)) {
		if (djp_can_copy(insn))
			*fact |= DJP_FACT_COPY;
	} else if (djp_k.search_exception_tables(addr)) {
		m->optimizable = false;
	}
	if (djp_is_indirect_jump(insn, target))
		m->optimizable = false;
	if (target >= m->start && target <= m->end)
		m->facts[target - m->start] |= DJP_FACT_TARGET;
}

/*
 * How far an instruction may go on behind the function's end. A module's last
 * symbol goes on to the end of its text pages, which is all zeros: the last add
 * can take a byte from the page behind.
 */
static unsigned long djp_mainline_limit(const struct djp_mainline *m)
{
	unsigned long limit = PAGE_ALIGN(m->end);
	u8 byte;

	if (get_kernel_nofault(byte, (u8 *)limit))
		return limit;
	return limit + MAX_INSN_SIZE;
}

/* can_probe() and can_optimize(), for all instructions at once. */
static void djp_mainline_decode(struct djp_mainline *m)
{
	unsigned long limit = djp_mainline_limit(m);
	unsigned long addr = m->start;
	struct insn insn;

	m->optimizable = djp_k.can_boost;
	while (addr < m->end) {
		if (djp_is_padding(addr)) {
			m->facts[addr - m->start] |= 1;
			addr++;
			continue;
		}
		if (djp_decode(&insn, addr, min(addr + MAX_INSN_SIZE, limit)) < 0) {
			m->optimizable = false;
			return;
		}
		djp_mainline_insn(m, addr, &insn);
		addr += insn.length;
	}
}

static void djp_mainline_clear(struct djp_mainline *m, unsigned long start,
			       unsigned long end, u8 facts)
{
	unsigned long addr;

	for (addr = max(start, m->start); addr < min(end, m->end); addr++)
		m->facts[addr - m->start] &= ~facts;
}

/* Jump labels, static calls and bug entries. */
static void djp_mainline_taken(struct djp_mainline *m)
{
	unsigned int low = 0, high = m->nr_taken, mid;

	while (low < high) {
		mid = low + (high - low) / 2;
		if (m->taken[mid] < m->start)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < m->nr_taken && m->taken[low] < m->end; low++)
		m->facts[m->taken[low] - m->start] &=
			~(DJP_FACT_PROBE | DJP_FACT_COPY);
}

static bool djp_is_ftrace(unsigned long start, unsigned long end)
{
	return djp_k.ftrace_location_range(start, end - 1);
}

static void djp_mainline_patched(struct djp_mainline *m)
{
	bool ftrace = djp_is_ftrace(m->start, m->end);
	bool smp_locks = djp_textmap_smp_lock(m->map, m->start, m->end);
	unsigned long addr;
	unsigned int len;

	if (!ftrace && !smp_locks)
		return;
	for (addr = m->start; addr < m->end; addr += len) {
		u8 *fact = &m->facts[addr - m->start];

		len = *fact & DJP_FACT_LEN;
		if (!len)
			break;
		if (ftrace && len == MCOUNT_INSN_SIZE &&
		    djp_is_ftrace(addr, addr + 1))
			*fact &= ~DJP_FACT_COPY;
		if (!djp_textmap_smp_lock(m->map, addr, addr + len))
			continue;
		*fact &= ~DJP_FACT_COPY;
		if (djp_textmap_smp_lock(m->map, addr, addr + 1))
			*fact &= ~DJP_FACT_PROBE;
	}
}

static void djp_mainline_blacklist(struct djp_mainline *m)
{
	bool all, listed = false;
	unsigned int i;

	for (i = 0; i < m->nr_blacklist; i++) {
		if (m->blacklist[i][0] >= m->end)
			break;
		if (m->blacklist[i][1] <= m->start)
			continue;
		djp_mainline_clear(m, m->blacklist[i][0], m->blacklist[i][1],
				   DJP_FACT_PROBE);
		listed = true;
	}
	if (djp_k.kprobe_blacklist)
		all = !listed && djp_mainline_listed_by_name(m);
	else
		all = djp_k.within_kprobe_blacklist(m->start);
	if (all)
		djp_mainline_clear(m, m->start, m->end, DJP_FACT_PROBE);
}

/* is_cfi_preamble_symbol(), kernel/kprobes.c (de02f2ac5d8c, v6.3) */
static bool djp_is_preamble(const struct djp_mainline *m)
{
	char name[KSYM_SYMBOL_LEN];

	sprint_symbol_no_offset(name, m->start);
	return str_has_prefix(name, "__cfi_") || str_has_prefix(name, "__pfx_");
}

static int djp_mainline_resize(struct djp_mainline *m, unsigned long start,
			       unsigned long end)
{
	/* A jump's end may be a target, so one more than the function has. */
	size_t size = end - start + 1;

	if (size > m->size) {
		kvfree(m->facts);
		m->size = 0;
		m->facts = kvmalloc(size, GFP_KERNEL);
		if (!m->facts)
			return -ENOMEM;
		m->size = size;
	}
	memset(m->facts, 0, size);
	m->start = start;
	m->end = end;
	return 0;
}

/**
 * djp_mainline_enter() - find out what the kernel's rules make of a function
 * @m: the facts; those of the function before are forgotten
 * @start: its first byte, where its symbol is
 * @end: one behind its last byte, where the next symbol is
 *
 * All in a row for the functions of the kernel or of a module is cheapest.
 *
 * Context: djp_mutex held, may sleep. The module may not go meanwhile.
 * Return: 0 or -ENOMEM. djp_mainline_leave() is due in either case.
 */
int djp_mainline_enter(struct djp_mainline *m, unsigned long start,
		       unsigned long end)
{
	bool on_entry;
	int ret;

	ret = djp_mainline_know(m, start);
	if (ret)
		return ret;
	ret = djp_mainline_resize(m, start, end);
	if (ret)
		return ret;

	djp_mainline_decode(m);
	djp_mainline_patched(m);
	djp_mainline_taken(m);
	djp_mainline_blacklist(m);
	if (djp_is_preamble(m))
		djp_mainline_clear(m, start, end, DJP_FACT_PROBE);
	if (djp_k.arch_adjust_kprobe_addr &&
	    (unsigned long)djp_k.arch_adjust_kprobe_addr(start, 0, &on_entry) != start)
		m->facts[0] &= ~DJP_FACT_PROBE;
	return 0;
}

/**
 * djp_mainline_judge() - would the kernel's own probes take this instruction?
 * @m: the facts of its function
 * @addr: an instruction boundary in it
 *
 * Context: any.
 * Return: DJP_PEER_KPROBE and DJP_PEER_OPTPROBE, or 0.
 */
unsigned int djp_mainline_judge(const struct djp_mainline *m,
				unsigned long addr)
{
	const u8 *facts = &m->facts[addr - m->start];
	unsigned int i;

	if (!(*facts & DJP_FACT_PROBE))
		return 0;
	if (!m->optimizable || m->end - addr < DJP_JMP32_LEN)
		return DJP_PEER_KPROBE;
	for (i = 0; i < DJP_JMP32_LEN; i += facts[i] & DJP_FACT_LEN) {
		if (!(facts[i] & DJP_FACT_COPY))
			return DJP_PEER_KPROBE;
	}
	for (i = 1; i <= DJP_JMP32_LEN; i++) {
		if (facts[i] & DJP_FACT_TARGET)
			return DJP_PEER_KPROBE;
	}
	return DJP_PEER_KPROBE | DJP_PEER_OPTPROBE;
}

/**
 * djp_mainline_leave() - free the facts
 * @m: the facts, which can be used again from djp_mainline_enter() on
 *
 * Context: may sleep.
 */
void djp_mainline_leave(struct djp_mainline *m)
{
	djp_mainline_forget(m);
	kvfree(m->facts);
	m->facts = NULL;
	m->size = 0;
}
