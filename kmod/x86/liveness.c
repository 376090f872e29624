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

/* What is behind one instruction; @open are the flags that it left. */
static void djp_walk_on(struct djp_walk *w, const struct insn *insn,
			unsigned long addr, const struct djp_insn *d, u8 open)
{
	/* Of a branch; else it is not used. */
	unsigned long target = addr + d->len + (long)(s32)insn->immediate.value;

	if (djp_is_return(insn, d, target)) {
		if (!w->place->ftrace || !djp_in_place(w->place, addr))
			djp_walk_reads(w, addr, open);
		return;
	}
	switch (d->relocation) {
	case DJP_COPY:
	case DJP_RIP:
		djp_walk_later(w, addr + d->len, open);
		break;
	case DJP_JCC:
	case DJP_LOOP:
		djp_walk_later(w, addr + d->len, open);
		fallthrough;
	case DJP_JMP:
	case DJP_CALL:
		/* What a call returns to is for the callee to say. */
		if (!djp_is_c_entry(target))
			djp_walk_later(w, target, open);
		break;
	default:	/* through a register or memory: to wherever */
		djp_walk_reads(w, addr, open);
	}
}

static void djp_walk_insn(struct djp_walk *w, unsigned long addr, u8 open)
{
	const struct djp_textmap *map = w->place->map;
	struct djp_flags flags;
	struct djp_insn d = { };
	unsigned long where;
	struct insn insn;

	if (!djp_textmap_has(map, addr) || !djp_textmap_insn(map, addr) ||
	    djp_decode(&insn, addr, djp_textmap_end(map)) < 0 ||
	    djp_displace(&insn, &d) != DJP_OK ||
	    djp_textmap_reserved(map, addr, addr + d.len, &where) != DJP_OK ||
	    !djp_insn_flags(&insn, &flags)) {
		djp_walk_reads(w, addr, open);
		return;
	}
	djp_walk_reads(w, addr, open & flags.reads);
	open &= ~flags.reads;
	/* A fault leaves the flags as they were, whatever it was to write. */
	if (open && djp_may_fault(addr) && djp_k.search_exception_tables(addr))
		djp_walk_reads(w, addr, open);
	else
		djp_walk_on(w, &insn, addr, &d, open & ~flags.writes);
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
