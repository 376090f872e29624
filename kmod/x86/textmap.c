// SPDX-License-Identifier: GPL-2.0
/*
 * Where instructions start, what can be branched to, and what the kernel patches.
 *
 * Three bits for each byte of text, from one linear decode of the whole of it. The
 * maps of the kernel and of the modules that are there are made when djprobes
 * loads, that of a later module as it loads. To check a site is then to look at
 * a few bits, however far away the branch is: foo.cold branches back into the
 * middle of foo. What counts as a target stands in x86/branch.c and
 * x86/indirect.c.
 */
#include <linux/bitmap.h>
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <asm/extable.h>

#include "x86/textmap.h"

/* The kernel's map is the first. djp_mutex guards it. */
static LIST_HEAD(djp_textmaps);
static unsigned int djp_textmap_last_id;

static bool djp_kprobe_at(unsigned long addr)
{
	bool found;

	preempt_disable();
	found = djp_k.get_kprobe((void *)addr);
	preempt_enable();
	return found;
}

/* Return: true if there is an indirect jump in it. */
static bool djp_map_symbol(struct djp_textmap *map, unsigned long start,
			   unsigned long end)
{
	struct djp_reach reach;
	unsigned long addr = start;
	bool indirect = false;
	bool lost = false;
	struct insn insn;
	unsigned int i;
	int len;

	djp_mark(map, start);
	while (addr < end) {
		/* A third of the text is padding, not worth decoding. */
		if (*(u8 *)addr == DJP_INT3 && !djp_kprobe_at(addr) &&
		    !djp_is_ours(addr)) {
			__set_bit(addr - map->start, map->insns);
			addr++;
			continue;
		}
		len = djp_decode(&insn, addr, end);
		if (len < 0) {
			/*
			 * Data between the code, perhaps. No site from here on,
			 * but any branch that the rest may hold counts.
			 */
			if (!lost)
				djp_stir_note(map, addr, NULL);
			lost = true;
			addr++;
			continue;
		}
		djp_stir_note(map, addr, &insn);
		if (!lost)
			__set_bit(addr - map->start, map->insns);
		djp_insn_reach(&insn, addr + len, &reach);
		for (i = 0; i < reach.nr; i++)
			djp_mark(map, reach.to[i]);
		indirect |= reach.indirect;
		addr += len;
	}
	return indirect;
}

/* An indirect jump that can't be traced may go to each instruction. */
static void djp_map_untraced(struct djp_textmap *map, unsigned long start,
			     unsigned long end)
{
	unsigned long addr;

	if (!djp_untraced_jump(map, start, end))
		return;
	map->untraced++;
	for (addr = start; addr < end; addr++) {
		if (djp_textmap_insn(map, addr))
			djp_mark(map, addr);
	}
}

static void djp_map_pointer(void *data, unsigned long at, unsigned long to)
{
	struct djp_textmap *map = data;

	djp_mark(map, to);
	map->pointers++;
}

/* The instruction at @addr is patched while the kernel runs. */
static void djp_reserve(struct djp_textmap *map, unsigned long addr)
{
	if (!djp_in_map(map, addr))	/* init text */
		return;
	do {
		__set_bit(addr - map->start, map->reserved);
		addr++;
	} while (addr < map->end && !djp_textmap_insn(map, addr));
}

static void djp_map_tables(struct djp_textmap *map)
{
	const struct exception_table_entry *fixup;
	const struct static_call_site *call;
	const struct jump_entry *jump;
	struct djp_tables tables;

	djp_textmap_tables(map, &tables);
	for (jump = tables.jumps; jump < tables.jumps_end; jump++) {
		djp_mark(map, jump_entry_target(jump));
		djp_reserve(map, jump_entry_code(jump));
	}
	for (fixup = tables.fixups; fixup < tables.fixups_end; fixup++) {
		djp_mark(map, djp_fixup_address(fixup));
		djp_fault_mark((unsigned long)&fixup->insn + fixup->insn);
	}
	for (call = tables.calls; call < tables.calls_end; call++)
		djp_reserve(map, djp_static_call_address(call));
}

static void djp_textmap_free(struct djp_textmap *map)
{
	kvfree(map->insns);
	kvfree(map->targets);
	kvfree(map->reserved);
	kfree(map->stirs);
	kfree(map);
}

/*
 * A module's text is filled up to a page with zeros, which would pass for
 * instructions. The last one may end in a few zeros of its own.
 */
static void djp_trim_zeros(struct djp_textmap *map)
{
	unsigned long end = map->end;

	while (end > map->start && !*(u8 *)(end - 1))
		end--;
	map->end = min(map->end, ALIGN(end, 16));
}

static struct djp_textmap *djp_textmap_alloc(const struct module *mod)
{
	struct djp_textmap *map = kzalloc(sizeof(*map), GFP_KERNEL);
	unsigned long longs;

	if (!map)
		return NULL;
	map->mod = mod;
	if (mod) {
		djp_module_text(mod, &map->start, &map->end);
		djp_trim_zeros(map);
	} else {
		map->start = (unsigned long)djp_k._stext;
		map->end = (unsigned long)djp_k._etext;
	}
	longs = BITS_TO_LONGS(map->end - map->start);
	map->insns = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	map->targets = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	map->reserved = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	if (map->insns && map->targets && map->reserved)
		return map;
	djp_textmap_free(map);
	return NULL;
}

/* The end of the symbol that @addr is in, and whether it is its start. */
static unsigned long djp_symbol_end(const struct djp_textmap *map,
				    unsigned long addr)
{
	unsigned long size, offset;

	if (djp_k.kallsyms_lookup_size_offset(addr, &size, &offset) &&
	    size > offset)
		return min(map->end, addr - offset + size);
	return map->end;
}

/* None if the machine has started with more than one CPU. */
static bool djp_has_smp_lock(unsigned long start, unsigned long end)
{
	bool has;

	mutex_lock(djp_k.text_mutex);
	/* Its end is inclusive. */
	has = djp_k.alternatives_text_reserved((void *)start, (void *)end - 1);
	mutex_unlock(djp_k.text_mutex);
	return has;
}

static struct djp_textmap *djp_textmap_build(const struct module *mod)
{
	u64 begin = ktime_get_ns();
	unsigned long *indirect, longs;
	struct djp_textmap *map;
	unsigned long addr, end;

	map = djp_textmap_alloc(mod);
	if (!map)
		return NULL;
	/* Where functions with an indirect jump start. */
	longs = BITS_TO_LONGS(map->end - map->start);
	indirect = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	if (!indirect) {
		djp_textmap_free(map);
		return NULL;
	}
	for (addr = map->start; addr < map->end; addr = end) {
		end = djp_symbol_end(map, addr);
		if (djp_map_symbol(map, addr, end))
			__set_bit(addr - map->start, indirect);
		cond_resched();
	}
	map->smp_locks = djp_has_smp_lock(map->start, map->end);
	djp_map_tables(map);
	djp_find_pointers(map, djp_map_pointer, map);

	/* With all other targets known. */
	for_each_set_bit(addr, indirect, map->end - map->start) {
		unsigned long start = map->start + addr;

		djp_map_untraced(map, start, djp_symbol_end(map, start));
		cond_resched();
	}
	kvfree(indirect);
	map->build_ns = ktime_get_ns() - begin;
	map->id = ++djp_textmap_last_id;
	list_add_tail(&map->node, &djp_textmaps);
	return map;
}

/**
 * djp_textmap_of() - the map that an address is in
 * @addr: the address
 *
 * Context: djp_mutex held.
 * Return: the map, or NULL.
 */
struct djp_textmap *djp_textmap_of(unsigned long addr)
{
	struct djp_textmap *map;

	list_for_each_entry(map, &djp_textmaps, node) {
		if (djp_in_map(map, addr))
			return map;
	}
	return NULL;
}

/**
 * djp_textmap_next() - walk over the maps
 * @map: a map, or NULL for the first
 *
 * Context: djp_mutex held.
 * Return: the next, or NULL.
 */
struct djp_textmap *djp_textmap_next(struct djp_textmap *map)
{
	if (!map)
		return list_first_entry_or_null(&djp_textmaps,
						struct djp_textmap, node);
	return list_is_last(&map->node, &djp_textmaps) ?
		NULL : list_next_entry(map, node);
}

/**
 * djp_textmap_init() - map the kernel's text
 *
 * Those of the modules that are there follow from djp_textmap_add_all().
 *
 * Context: module load. Takes seconds under emulation.
 * Return: 0 or -ENOMEM.
 */
int djp_textmap_init(void)
{
	struct djp_textmap *map;

	mutex_lock(&djp_mutex);
	map = djp_textmap_build(NULL);
	if (map)
		djp_functions_init(map);
	mutex_unlock(&djp_mutex);
	return map ? 0 : -ENOMEM;
}

/**
 * djp_textmap_exit() - free all maps
 *
 * Context: module unload.
 */
void djp_textmap_exit(void)
{
	struct djp_textmap *map, *tmp;

	djp_functions_exit();
	list_for_each_entry_safe(map, tmp, &djp_textmaps, node)
		djp_textmap_free(map);
}

/**
 * djp_textmap_get() - the map of the kernel or of a module, made if need be
 * @mod: the module, which may not go meanwhile; NULL for the kernel
 *
 * Context: djp_mutex held, may sleep.
 * Return: the map, or NULL for want of memory.
 */
struct djp_textmap *djp_textmap_get(const struct module *mod)
{
	struct djp_textmap *map;

	list_for_each_entry(map, &djp_textmaps, node) {
		if (map->mod == mod)
			return map;
	}
	return djp_textmap_build(mod);
}

/* Modules that were there before the notifier; with a reference on each. */
static int djp_modules_get(struct module **mods, int max)
{
	struct module *mod;
	int nr = 0;

	mutex_lock(djp_k.module_mutex);
	list_for_each_entry(mod, djp_k.modules, list) {
		if (mod != THIS_MODULE && mod->state == MODULE_STATE_LIVE &&
		    nr < max && try_module_get(mod))
			mods[nr++] = mod;
	}
	mutex_unlock(djp_k.module_mutex);
	return nr;
}

/**
 * djp_textmap_add_all() - map the text of all modules that are live
 *
 * One that is missed, for want of memory, is mapped when it is asked for.
 *
 * Context: module load, after the module notifier was registered.
 */
void djp_textmap_add_all(void)
{
	const int max = 1024;
	struct module **mods;
	int nr, i;

	mods = kvcalloc(max, sizeof(*mods), GFP_KERNEL);
	if (!mods)
		return;
	nr = djp_modules_get(mods, max);
	for (i = 0; i < nr; i++) {
		mutex_lock(&djp_mutex);
		djp_textmap_get(mods[i]);
		mutex_unlock(&djp_mutex);
		module_put(mods[i]);
	}
	kvfree(mods);
}

/**
 * djp_textmap_drop() - forget a module's map
 * @mod: the module, which is going
 *
 * Context: djp_mutex held.
 */
void djp_textmap_drop(const struct module *mod)
{
	struct djp_textmap *map;

	list_for_each_entry(map, &djp_textmaps, node) {
		if (map->mod == mod) {
			list_del(&map->node);
			djp_textmap_free(map);
			return;
		}
	}
}

/**
 * djp_textmap_id() - a number that no other map has had
 * @map: the map
 */
unsigned int djp_textmap_id(const struct djp_textmap *map)
{
	return map->id;
}

/**
 * djp_textmap_mod() - whose text it is
 * @map: the map
 *
 * Return: the module, or NULL for the kernel.
 */
const struct module *djp_textmap_mod(const struct djp_textmap *map)
{
	return map->mod;
}

/**
 * djp_textmap_start() - the first byte of a map
 * @map: the map
 */
unsigned long djp_textmap_start(const struct djp_textmap *map)
{
	return map->start;
}

/**
 * djp_textmap_size() - how many bytes of text a map is of
 * @map: the map
 */
unsigned long djp_textmap_size(const struct djp_textmap *map)
{
	return map->end - map->start;
}

/**
 * djp_textmap_has() - is an address in a map?
 * @map: the map
 * @addr: the address
 */
bool djp_textmap_has(const struct djp_textmap *map, unsigned long addr)
{
	return djp_in_map(map, addr);
}

/**
 * djp_textmap_end() - one behind the last byte of a map
 * @map: the map
 */
unsigned long djp_textmap_end(const struct djp_textmap *map)
{
	return map->end;
}

/**
 * djp_textmap_insn() - does an instruction start here?
 * @map: the map
 * @addr: an address in it
 */
bool djp_textmap_insn(const struct djp_textmap *map, unsigned long addr)
{
	return test_bit(addr - map->start, map->insns);
}

/**
 * djp_textmap_target() - the first branch target in a range
 * @map: the map
 * @start: first byte of the range, in the map
 * @end: one behind its last byte
 *
 * Return: the address, or 0.
 */
unsigned long djp_textmap_target(const struct djp_textmap *map,
				 unsigned long start, unsigned long end)
{
	unsigned long last = min(end, map->end) - map->start;
	unsigned long bit = find_next_bit(map->targets, last,
					  start - map->start);

	return bit < last ? map->start + bit : 0;
}

/**
 * djp_textmap_reserved() - does the kernel patch something in a range?
 * @map: the map
 * @start: first byte of the range, in the map
 * @end: one behind its last byte
 * @where: the first byte that it patches
 *
 * Return: DJP_OK, DJP_JUMP_LABEL or DJP_STATIC_CALL.
 */
enum djp_reason djp_textmap_reserved(const struct djp_textmap *map,
				     unsigned long start, unsigned long end,
				     unsigned long *where)
{
	unsigned long last = min(end, map->end) - map->start;
	unsigned long bit = find_next_bit(map->reserved, last,
					  start - map->start);
	const struct static_call_site *call;
	struct djp_tables tables;
	unsigned long addr;

	if (bit >= last)
		return DJP_OK;
	*where = map->start + bit;
	djp_textmap_tables(map, &tables);
	for (call = tables.calls; call < tables.calls_end; call++) {
		addr = djp_static_call_address(call);
		if (addr < end && addr + DJP_JMP32_LEN > start)
			return DJP_STATIC_CALL;
	}
	return DJP_JUMP_LABEL;
}

/**
 * djp_textmap_smp_lock() - is there a lock prefix that the kernel patches?
 * @map: the map
 * @start: first byte of a range, in the map
 * @end: one behind its last byte
 *
 * Only a machine that has started with one CPU of several has any.
 *
 * Context: may sleep; takes text_mutex on such a machine.
 */
bool djp_textmap_smp_lock(const struct djp_textmap *map, unsigned long start,
			  unsigned long end)
{
	return map->smp_locks && djp_has_smp_lock(start, end);
}

/**
 * djp_textmap_tables() - what the kernel or a module says of its text
 * @map: whose
 * @tables: filled in
 */
void djp_textmap_tables(const struct djp_textmap *map,
			struct djp_tables *tables)
{
	memset(tables, 0, sizeof(*tables));
	if (map->mod) {
		tables->jumps = map->mod->jump_entries;
		tables->jumps_end = tables->jumps + map->mod->num_jump_entries;
		tables->fixups = map->mod->extable;
		tables->fixups_end = tables->fixups + map->mod->num_exentries;
		tables->calls = djp_module_static_calls(map->mod,
							&tables->calls_end);
	} else {
		tables->jumps = djp_k.__start___jump_table;
		tables->jumps_end = djp_k.__stop___jump_table;
		tables->fixups = djp_k.__start___ex_table;
		tables->fixups_end = djp_k.__stop___ex_table;
		tables->calls = djp_k.__start_static_call_sites;
		tables->calls_end = djp_k.__stop_static_call_sites;
	}
}

/**
 * djp_textmap_show() - sizes and times, for debugfs' features file
 * @m: where to
 *
 * Context: djp_mutex held.
 */
void djp_textmap_show(struct seq_file *m)
{
	const struct djp_textmap *map;
	unsigned long bytes, all_bytes = 0, memory = 0;
	unsigned int insns = 0, targets = 0, pointers = 0, untraced = 0;
	unsigned int modules = 0;
	u64 kernel_ns = 0, modules_ns = 0;

	list_for_each_entry(map, &djp_textmaps, node) {
		bytes = map->end - map->start;
		all_bytes += bytes;
		memory += sizeof(*map) + 3 * BITS_TO_LONGS(bytes) * sizeof(long);
		insns += bitmap_weight(map->insns, bytes);
		targets += bitmap_weight(map->targets, bytes);
		pointers += map->pointers;
		untraced += map->untraced;
		modules += !!map->mod;
		if (map->mod)
			modules_ns += map->build_ns;
		else
			kernel_ns += map->build_ns;
	}
	seq_printf(m, "branch_map_text_bytes %lu\n", all_bytes);
	seq_printf(m, "branch_map_instructions %u\n", insns);
	seq_printf(m, "branch_map_targets %u\n", targets);
	seq_printf(m, "branch_map_bytes %lu\n", memory);
	seq_printf(m, "branch_map_ms %llu\n", div_u64(kernel_ns, NSEC_PER_MSEC));
	seq_printf(m, "branch_map_modules %u\n", modules);
	seq_printf(m, "branch_map_modules_ms %llu\n",
		   div_u64(modules_ns, NSEC_PER_MSEC));
	seq_printf(m, "branch_map_pointers %u\n", pointers);
	seq_printf(m, "branch_map_untraced_functions %u\n", untraced);
}
