// SPDX-License-Identifier: GPL-2.0
/*
 * The functions of the kernel's text: where they begin, and their ftrace sites.
 *
 * Neither changes while the kernel runs, and kallsyms and ftrace would be asked for
 * each site. Those of modules come and go, and are asked for.
 */
#include <linux/bitmap.h>
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "x86/textmap.h"

/* A bit for the hash of each instruction with an exception-table entry, ever. */
#define DJP_FAULT_BITS	16
static DECLARE_BITMAP(djp_faults, 1 << DJP_FAULT_BITS);

/* More than one ftrace site, or one across its end: ftrace has to be asked. */
#define DJP_FTRACE_ASK	U32_MAX

/**
 * struct djp_functions - those of a text
 * @map: its text
 * @nr: how many
 * @starts: where each begins, in bytes from the map's start; sorted
 * @ftrace: its ftrace site, one more than bytes from there; 0 if it has none; or
 *	DJP_FTRACE_ASK
 * @suffixed: a bit for each whose name has a dot
 */
struct djp_functions {
	const struct djp_textmap	*map;
	unsigned int			nr;
	u32				*starts;
	u32				*ftrace;
	unsigned long			*suffixed;
};

/* djp_mutex guards it. */
static struct djp_functions djp_functions;

/* The last one that begins at an offset or before; there is one. */
static unsigned int djp_function_index(u32 offset)
{
	const struct djp_functions *f = &djp_functions;
	unsigned int lo = 0, hi = f->nr;

	while (hi - lo > 1) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (f->starts[mid] <= offset)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static unsigned long djp_function_end(unsigned int i)
{
	const struct djp_functions *f = &djp_functions;

	return i + 1 < f->nr ? f->map->start + f->starts[i + 1] : f->map->end;
}

/**
 * djp_function_find() - the function that an address is in
 * @addr: the address
 * @fn: filled in
 *
 * Context: djp_mutex held.
 * Return: false if it is not known: kallsyms and ftrace have to be asked.
 */
bool djp_function_find(unsigned long addr, struct djp_function *fn)
{
	const struct djp_functions *f = &djp_functions;
	unsigned int i;

	if (!f->map || !djp_in_map(f->map, addr))
		return false;
	i = djp_function_index(addr - f->map->start);
	if (f->ftrace[i] == DJP_FTRACE_ASK)
		return false;
	fn->start = f->map->start + f->starts[i];
	fn->end = djp_function_end(i);
	fn->ftrace = f->ftrace[i] ? f->map->start + f->ftrace[i] - 1 : 0;
	fn->plain = !test_bit(i, f->suffixed);
	return true;
}

static bool djp_functions_alloc(struct djp_functions *f, unsigned int nr)
{
	f->starts = kvcalloc(nr, sizeof(*f->starts), GFP_KERNEL);
	f->ftrace = kvcalloc(nr, sizeof(*f->ftrace), GFP_KERNEL);
	f->suffixed = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL);
	return f->starts && f->ftrace && f->suffixed;
}

static unsigned int djp_functions_list(struct djp_functions *f,
				       const struct djp_textmap *map)
{
	unsigned long addr, size, offset;
	unsigned int nr = 0;

	for (addr = map->start; addr < map->end; addr += size - offset) {
		if (!djp_k.kallsyms_lookup_size_offset(addr, &size, &offset) ||
		    size <= offset)
			return 0;
		if (f->starts)
			f->starts[nr] = addr - map->start;
		nr++;
		if (!(nr % 1024))
			cond_resched();
	}
	return nr;
}

static void djp_functions_ftrace(struct djp_functions *f)
{
	unsigned int i;

	for (i = 0; i < f->nr; i++) {
		unsigned long end = djp_function_end(i), site;

		site = djp_k.ftrace_location_range(f->map->start + f->starts[i],
						   end - 1);
		if (!site)
			continue;
		f->ftrace[i] = site - f->map->start + 1;
		if (site < f->map->start + f->starts[i] ||
		    site + MCOUNT_INSN_SIZE > end ||
		    djp_k.ftrace_location_range(f->map->start + f->starts[i],
						site - 1) ||
		    djp_k.ftrace_location_range(site + MCOUNT_INSN_SIZE,
						end - 1))
			f->ftrace[i] = DJP_FTRACE_ASK;
		if (!(i % 1024))
			cond_resched();
	}
}

/**
 * struct djp_naming - names are being looked at, by address
 * @f: the functions
 * @last: the address of the last one: of several names the first counts
 */
struct djp_naming {
	struct djp_functions	*f;
	unsigned long		last;
};

static int djp_function_name(void *data, const char *name, unsigned long addr)
{
	struct djp_naming *naming = data;
	struct djp_functions *f = naming->f;
	bool first = addr != naming->last;
	unsigned int i;

	naming->last = addr;
	if (!first || !djp_in_map(f->map, addr) || !strchr(name, '.'))
		return 0;
	i = djp_function_index(addr - f->map->start);
	if (f->map->start + f->starts[i] == addr)
		__set_bit(i, f->suffixed);
	return 0;
}

/**
 * djp_fault_mark() - the instruction at an address has an exception-table entry
 * @addr: the address
 *
 * Context: djp_mutex held.
 */
void djp_fault_mark(unsigned long addr)
{
	__set_bit(hash_long(addr, DJP_FAULT_BITS), djp_faults);
}

/**
 * djp_may_fault() - can it have an exception-table entry?
 * @addr: the address of an instruction in a map
 *
 * All entries of the kernel and of a module are marked when their map is made. The
 * table itself, which is searched for those few that may, has the last word.
 *
 * Context: djp_mutex held.
 */
bool djp_may_fault(unsigned long addr)
{
	return test_bit(hash_long(addr, DJP_FAULT_BITS), djp_faults);
}

/**
 * djp_functions_init() - list the functions of the kernel
 * @map: its text
 *
 * Without memory for it kallsyms and ftrace will be asked.
 *
 * Context: module load, djp_mutex held, may sleep.
 */
void djp_functions_init(const struct djp_textmap *map)
{
	struct djp_functions *f = &djp_functions;
	struct djp_naming naming = { .f = f };
	unsigned int nr = djp_functions_list(f, map);

	if (!nr || !djp_functions_alloc(f, nr)) {
		djp_functions_exit();
		return;
	}
	f->map = map;
	f->nr = djp_functions_list(f, map);
	djp_functions_ftrace(f);
	djp_each_symbol(djp_function_name, &naming);
}

/**
 * djp_functions_exit() - forget them
 *
 * Context: module unload.
 */
void djp_functions_exit(void)
{
	struct djp_functions *f = &djp_functions;

	kvfree(f->starts);
	kvfree(f->ftrace);
	kvfree(f->suffixed);
	memset(f, 0, sizeof(*f));
}
