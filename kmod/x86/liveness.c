// SPDX-License-Identifier: GPL-2.0
/*
 * Which status flags may still be read, so that a detour has to keep them.
 *
 * From the insertion address on every path is followed, up to where each flag was
 * written. By the ABI flags mean nothing at the entry of a function and behind its
 * return (System V ABI for x86-64, 3.2.1); that is relied on where the function has an
 * ftrace site, for then a compiler made it. Where a path can't be followed - indirect
 * branches, text that the kernel patches, assembler that returns, an instruction that
 * is not known, more of them than is worth it - the flags are live.
 */
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "x86/flags.h"
#include "x86/textmap.h"

/* Most that are dead are so after three instructions. */
#define DJP_LIVENESS_INSNS	24
#define DJP_LIVENESS_PATHS	8

/**
 * struct djp_path - where to go on
 * @addr: from here
 * @open: flags that were neither read nor written on the way
 */
struct djp_path {
	unsigned long	addr;
	u8		open;
};

/**
 * struct djp_walk - a search for readers of flags
 * @place: the function that it began in
 * @todo: paths to follow
 * @nr_todo: how many
 * @seen: instructions that were looked at
 * @nr_seen: how many
 * @live: flags that may be read
 * @by: the first instruction that may read one
 */
struct djp_walk {
	const struct djp_place	*place;
	struct djp_path		todo[DJP_LIVENESS_PATHS];
	unsigned int		nr_todo;
	struct djp_path		seen[DJP_LIVENESS_INSNS];
	unsigned int		nr_seen;
	u8			live;
	unsigned long		by;
};

static void djp_walk_reads(struct djp_walk *w, unsigned long addr, u8 flags)
{
	if (flags & ~w->live && !w->by)
		w->by = addr;
	w->live |= flags;
}

static void djp_walk_later(struct djp_walk *w, unsigned long addr, u8 open)
{
	if (!open)
		return;
	if (w->nr_todo == DJP_LIVENESS_PATHS) {
		djp_walk_reads(w, addr, open);
		return;
	}
	w->todo[w->nr_todo].addr = addr;
	w->todo[w->nr_todo++].open = open;
}

/* A function that a compiler made: flags mean nothing when it begins. */
static bool djp_is_c_entry(unsigned long addr)
{
	struct djp_function fn;

	if (!djp_textmap_of(addr))
		return false;
	if (djp_function_find(addr, &fn))
		return fn.start == addr && fn.ftrace &&
			fn.ftrace <= addr + ENDBR_INSN_SIZE;
	if (*(u32 *)addr == DJP_ENDBR64)
		addr += DJP_ENDBR64_LEN;
	return djp_k.ftrace_location_range(addr, addr);
}

static bool djp_in_place(const struct djp_place *place, unsigned long addr)
{
	return addr >= place->start && addr < place->end;
}

/* A return, or a jump to where the kernel has its returns pass through. */
static bool djp_is_return(const struct insn *insn, const struct djp_insn *d,
			  unsigned long target)
{
	u8 op = insn->opcode.bytes[0];

	return op == 0xc2 || op == 0xc3 ||
		(d->relocation == DJP_JMP && djp_k.__x86_return_thunk &&
		 target == (unsigned long)djp_k.__x86_return_thunk);
}

/* Where an instruction may go on. */
enum djp_onward {
	DJP_TO_NEXT = BIT(0),
	DJP_TO_TARGET = BIT(1),
	DJP_TO_CALLER = BIT(2),
	DJP_TO_ANYWHERE = BIT(3),
};

/**
 * struct djp_step - what an instruction does to flags, and where it leads
 * @addr: where it is
 * @target: where it branches to
 * @stamp: that of djp_steps when it was found out
 * @len: bytes
 * @reads: flags that it may read
 * @writes: those that it surely writes
 * @onward: where it may go on, see enum djp_onward
 * @faults: or, with the flags as they were, where a fault is handled
 */
struct djp_step {
	unsigned long	addr;
	unsigned long	target;
	u64		stamp;
	u8		len;
	u8		reads;
	u8		writes;
	u8		onward;
	bool		faults;
};

#define DJP_NR_STEPS	1024

/**
 * struct djp_steps - what was found out, while that is kept; djp_mutex guards it
 * @known: each instruction has its place
 * @stamp: of those that are valid
 * @kept: they stay so
 */
struct djp_steps {
	struct djp_step	known[DJP_NR_STEPS];
	u64		stamp;
	bool		kept;
};

static struct djp_steps djp_steps;

/**
 * djp_steps_keep() - remember instructions, until djp_steps_drop()
 *
 * For who asks for many addresses of one function: their paths are the same.
 *
 * Context: djp_mutex held until then, so that no text of ours changes.
 */
void djp_steps_keep(void)
{
	djp_steps.stamp++;
	djp_steps.kept = true;
}

/**
 * djp_steps_drop() - their text may change
 *
 * Context: djp_mutex held.
 */
void djp_steps_drop(void)
{
	djp_steps.kept = false;
}

/* No flags are handed to a function that a compiler made. */
static u8 djp_to_target(unsigned long target)
{
	return djp_is_c_entry(target) ? 0 : DJP_TO_TARGET;
}

static u8 djp_onward(const struct insn *insn, const struct djp_insn *d,
		     unsigned long target)
{
	if (djp_is_return(insn, d, target))
		return DJP_TO_CALLER;
	switch (d->relocation) {
	case DJP_COPY:
	case DJP_RIP:
		return DJP_TO_NEXT;
	case DJP_JCC:
	case DJP_LOOP:
		return DJP_TO_NEXT | djp_to_target(target);
	case DJP_JMP:
	case DJP_CALL:
		/* What a call returns to is for the callee to say. */
		return djp_to_target(target);
	default:	/* through a register or memory */
		return DJP_TO_ANYWHERE;
	}
}

/* What is not known may read all flags. */
static void djp_step_find(const struct djp_textmap *map, unsigned long addr,
			  struct djp_step *step)
{
	struct djp_flags flags;
	struct djp_insn d = { };
	unsigned long where;
	struct insn insn;

	memset(step, 0, sizeof(*step));
	step->addr = addr;
	step->stamp = djp_steps.stamp;
	step->reads = DJP_FLAGS_ALL;
	if (!djp_textmap_has(map, addr) || !djp_textmap_insn(map, addr) ||
	    djp_decode(&insn, addr, djp_textmap_end(map)) < 0 ||
	    djp_displace(&insn, &d) != DJP_OK ||
	    djp_textmap_reserved(map, addr, addr + d.len, &where) != DJP_OK ||
	    !djp_insn_flags(&insn, &flags))
		return;
	step->len = d.len;
	step->reads = flags.reads;
	step->writes = flags.writes;
	step->faults = djp_may_fault(addr) && djp_k.search_exception_tables(addr);
	/* Of a branch; else it is not used. */
	step->target = addr + d.len + (long)(s32)insn.immediate.value;
	step->onward = djp_onward(&insn, &d, step->target);
}

static const struct djp_step *djp_step_at(const struct djp_textmap *map,
					  unsigned long addr)
{
	struct djp_step *step = &djp_steps.known[addr % DJP_NR_STEPS];

	if (!djp_steps.kept || step->addr != addr ||
	    step->stamp != djp_steps.stamp)
		djp_step_find(map, addr, step);
	return step;
}

static void djp_walk_insn(struct djp_walk *w, unsigned long addr, u8 open)
{
	const struct djp_step *step = djp_step_at(w->place->map, addr);

	djp_walk_reads(w, addr, open & step->reads);
	open &= ~step->reads;
	/* A fault leaves the flags as they were, whatever it was to write. */
	if (step->faults) {
		djp_walk_reads(w, addr, open);
		return;
	}
	open &= ~step->writes;
	if (step->onward & DJP_TO_ANYWHERE ||
	    (step->onward & DJP_TO_CALLER &&
	     (!w->place->ftrace || !djp_in_place(w->place, addr))))
		djp_walk_reads(w, addr, open);
	if (step->onward & DJP_TO_NEXT)
		djp_walk_later(w, addr + step->len, open);
	if (step->onward & DJP_TO_TARGET)
		djp_walk_later(w, step->target, open);
}

/* Was it looked at already, with all these flags open? */
static bool djp_walk_seen(const struct djp_walk *w, const struct djp_path *path)
{
	unsigned int i;

	for (i = 0; i < w->nr_seen; i++) {
		if (w->seen[i].addr == path->addr &&
		    !(path->open & ~w->seen[i].open))
			return true;
	}
	return false;
}

/**
 * djp_live_flags() - which status flags may be read from an address on
 * @place: the function that it is in
 * @addr: an instruction
 * @by: the first instruction that may read one of them; 0 if none does
 *
 * Context: djp_mutex held.
 * Return: DJP_FLAG_*.
 */
u8 djp_live_flags(const struct djp_place *place, unsigned long addr,
		  unsigned long *by)
{
	struct djp_walk w = { .place = place };
	struct djp_path path;

	*by = 0;
	if (place->ftrace && addr == place->ftrace + MCOUNT_INSN_SIZE)
		return 0;
	djp_walk_later(&w, addr, DJP_FLAGS_ALL);
	while (w.nr_todo) {
		path = w.todo[--w.nr_todo];
		path.open &= ~w.live;
		if (!path.open || djp_walk_seen(&w, &path))
			continue;
		if (w.nr_seen == DJP_LIVENESS_INSNS) {
			djp_walk_reads(&w, path.addr, path.open);
			continue;
		}
		w.seen[w.nr_seen++] = path;
		djp_walk_insn(&w, path.addr, path.open);
	}
	*by = w.by;
	return w.live;
}
