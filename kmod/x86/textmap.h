/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The maps of text, for the files that make them (x86/textmap.c) and that say
 * what goes into them (x86/branch.c, x86/indirect.c).
 */
#ifndef _DJP_TEXTMAP_H
#define _DJP_TEXTMAP_H

#include <linux/bitops.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/types.h>

#include "compat.h"
#include "x86/x86.h"

/**
 * struct djp_textmap - the map of the kernel's or of one module's text
 * @node: on djp_textmaps
 * @id: from 1 on, in the order in which they were made
 * @mod: the module, NULL for the kernel
 * @start: first byte
 * @end: one behind the last byte
 * @insns: a bit a byte: an instruction starts here
 * @targets: a bit a byte: something can branch here
 * @reserved: a bit a byte: a jump label or a static call, which the kernel patches
 * @stirs: where AC or DF may be set, in bytes from @start; sorted
 * @nr_stirs: how many; see x86/calm.c
 * @build_ns: how long it took to make
 * @smp_locks: there are lock prefixes in it that the kernel patches when a second
 *	CPU comes
 * @untraced: functions with an indirect jump that could not be traced
 * @pointers: addresses in this text that were found in static data
 */
struct djp_textmap {
	struct list_head	node;
	unsigned int		id;
	const struct module	*mod;
	unsigned long		start;
	unsigned long		end;
	unsigned long		*insns;
	unsigned long		*targets;
	unsigned long		*reserved;
	u32			*stirs;
	unsigned int		nr_stirs;
	u64			build_ns;
	bool			smp_locks;
	unsigned int		untraced;
	unsigned int		pointers;
};

static inline bool djp_in_map(const struct djp_textmap *map, unsigned long addr)
{
	return addr >= map->start && addr < map->end;
}

static inline void djp_mark(struct djp_textmap *map, unsigned long target)
{
	if (djp_in_map(map, target))
		__set_bit(target - map->start, map->targets);
}

static inline bool djp_is_target(const struct djp_textmap *map,
				 unsigned long addr)
{
	return djp_in_map(map, addr) &&
		test_bit(addr - map->start, map->targets);
}

/**
 * struct djp_tables - what the kernel or a module says of its text and data
 * @jumps: its jump labels
 * @jumps_end: one behind the last
 * @fixups: its exception table
 * @fixups_end: one behind the last
 * @calls: its static calls
 * @calls_end: one behind the last
 */
struct djp_tables {
	const struct jump_entry			*jumps;
	const struct jump_entry			*jumps_end;
	const struct exception_table_entry	*fixups;
	const struct exception_table_entry	*fixups_end;
	const struct static_call_site		*calls;
	const struct static_call_site		*calls_end;
};

/**
 * struct djp_reach - where an instruction can send control, now or later
 * @to: addresses
 * @kind: what they are to it
 * @nr: how many
 * @indirect: it jumps to where a register or memory says
 * @reg: which register, 0 to 15; -1 for memory; -2 for a far jump
 */
struct djp_reach {
	unsigned long		to[2];
	enum djp_source_kind	kind[2];
	unsigned int		nr;
	bool			indirect;
	int			reg;
};

/* x86/textmap.c */
void djp_textmap_tables(const struct djp_textmap *map,
			struct djp_tables *tables);
struct djp_textmap *djp_textmap_of(unsigned long addr);

/* x86/functions.c */
void djp_functions_init(const struct djp_textmap *map);
void djp_functions_exit(void);
void djp_fault_mark(unsigned long addr);

/* x86/branch.c */
void djp_insn_reach(const struct insn *insn, unsigned long next,
		    struct djp_reach *reach);
unsigned long djp_fixup_address(const struct exception_table_entry *entry);
void djp_find_pointers(const struct djp_textmap *map,
		       void (*found)(void *data, unsigned long at,
				     unsigned long to),
		       void *data);

/* x86/calm.c */
void djp_stir_note(struct djp_textmap *map, unsigned long addr,
		   const struct insn *insn);

/* x86/indirect.c */
unsigned long djp_untraced_jump(const struct djp_textmap *map,
				unsigned long start, unsigned long end);

#endif /* _DJP_TEXTMAP_H */
