// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel looks for one entry after the other when a kprobe is registered,
 * sorted: for x86/mainline.c.
 */
#include <linux/bsearch.h>
#include <linux/bug.h>
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/static_call_types.h>
#include <linux/string.h>
#include <linux/stringhash.h>

#include "x86/mainline.h"
#include "x86/textmap.h"

static int djp_cmp_addr(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a;
	unsigned long y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

static int djp_cmp_hash(const void *a, const void *b)
{
	u32 x = *(const u32 *)a;
	u32 y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

/* bug_addr(), lib/bug.c */
static unsigned long djp_bug_addr(const struct bug_entry *bug)
{
#ifdef CONFIG_GENERIC_BUG_RELATIVE_POINTERS
	return (unsigned long)&bug->bug_addr_disp + bug->bug_addr_disp;
#else
	return bug->bug_addr;
#endif
}

/*
 * jump_label_text_reserved(), static_call_text_reserved(), find_bug(): those of
 * the kernel, or of the module. Init text is among it, where nobody asks.
 */
static int djp_list_taken(struct djp_mainline *m, const struct djp_textmap *map)
{
	const struct bug_entry *bugs = djp_k.__start___bug_table;
	unsigned int nr_bugs = djp_k.__stop___bug_table - bugs;
	const struct module *mod = djp_textmap_mod(map);
	const struct static_call_site *call;
	const struct jump_entry *jump;
	struct djp_tables tables;
	unsigned int i;
	size_t nr;

	djp_textmap_tables(map, &tables);
	if (mod) {
		bugs = mod->bug_table;
		nr_bugs = mod->num_bugs;
	}
	nr = (tables.jumps_end - tables.jumps) +
		(tables.calls_end - tables.calls) + nr_bugs;
	m->taken = kvcalloc(nr, sizeof(*m->taken), GFP_KERNEL);
	if (nr && !m->taken)
		return -ENOMEM;
	for (jump = tables.jumps; jump < tables.jumps_end; jump++)
		m->taken[m->nr_taken++] = jump_entry_code(jump);
	for (call = tables.calls; call < tables.calls_end; call++)
		m->taken[m->nr_taken++] = djp_static_call_address(call);
	for (i = 0; i < nr_bugs; i++)
		m->taken[m->nr_taken++] = djp_bug_addr(&bugs[i]);
	sort(m->taken, nr, sizeof(*m->taken), djp_cmp_addr, NULL);
	return 0;
}

/* The hash of a symbol's name without what the compiler put behind a dot. */
static u32 djp_hash_symbol(unsigned long addr, bool *suffixed)
{
	char name[KSYM_SYMBOL_LEN];
	size_t len;

	/* "NAME", or "NAME [MODULE]" */
	sprint_symbol_no_offset(name, addr);
	len = strcspn(name, ". ");
	*suffixed = name[len] == '.';
	return full_name_hash(NULL, name, len);
}

/* __within_kprobe_blacklist(), kernel/kprobes.c */
static int djp_list_blacklist(struct djp_mainline *m)
{
	const struct kprobe_blacklist_entry *entry;
	unsigned int nr = 0;

	rcu_read_lock();
	list_for_each_entry_rcu(entry, djp_k.kprobe_blacklist, list)
		nr++;
	rcu_read_unlock();

	m->blacklist = kvcalloc(nr, sizeof(*m->blacklist), GFP_KERNEL);
	if (nr && !m->blacklist)
		return -ENOMEM;
	rcu_read_lock();
	list_for_each_entry_rcu(entry, djp_k.kprobe_blacklist, list) {
		if (m->nr_blacklist == nr)
			break;
		/* What is probed is judged as if it were not. */
		if (djp_ban_is(entry))
			continue;
		m->blacklist[m->nr_blacklist][0] = entry->start_addr;
		m->blacklist[m->nr_blacklist][1] = entry->end_addr;
		m->nr_blacklist++;
	}
	rcu_read_unlock();
	sort(m->blacklist, m->nr_blacklist, sizeof(*m->blacklist),
	     djp_cmp_addr, NULL);
	return 0;
}

/*
 * within_kprobe_blacklist() looks up the name of foo for foo.cold, which reads
 * all names before v6.2. Few symbols are on the blacklist: it need not be asked
 * if none of those is called foo.
 */
static int djp_list_names(struct djp_mainline *m)
{
	unsigned long addr, size, offset;
	unsigned int i;
	bool suffixed;
	u32 hash;

	/* An entry can be of several symbols; then it counts for the first. */
	m->names = kvcalloc(m->nr_blacklist, sizeof(*m->names), GFP_KERNEL);
	if (m->nr_blacklist && !m->names)
		return -ENOMEM;
	for (i = 0; i < m->nr_blacklist; i++) {
		addr = m->blacklist[i][0];
		if (!djp_k.kallsyms_lookup_size_offset(addr, &size, &offset))
			continue;
		hash = djp_hash_symbol(addr, &suffixed);
		if (!suffixed)
			m->names[m->nr_names++] = hash;
	}
	sort(m->names, m->nr_names, sizeof(*m->names), djp_cmp_hash, NULL);
	return 0;
}

/**
 * djp_mainline_forget() - free the tables
 * @m: whose
 */
void djp_mainline_forget(struct djp_mainline *m)
{
	kvfree(m->taken);
	kvfree(m->blacklist);
	kvfree(m->names);
	m->taken = NULL;
	m->blacklist = NULL;
	m->names = NULL;
	m->nr_taken = 0;
	m->nr_blacklist = 0;
	m->nr_names = 0;
	m->part = 0;
}

/**
 * djp_mainline_know() - make the tables, if they are not there
 * @m: whose
 * @addr: they are made for the kernel, or for the module that this is in
 *
 * Context: djp_mutex held, may sleep.
 * Return: 0 or -ENOMEM.
 */
int djp_mainline_know(struct djp_mainline *m, unsigned long addr)
{
	const struct djp_textmap *map = djp_textmap_of(addr);
	int ret;

	if (!map)
		return -ENOMEM;
	m->map = map;
	if (m->part == djp_textmap_id(map))
		return 0;

	/* Modules that came or went have changed the blacklist too. */
	djp_mainline_forget(m);
	ret = djp_list_taken(m, map);
	if (!ret && djp_k.kprobe_blacklist) {
		ret = djp_list_blacklist(m);
		if (!ret)
			ret = djp_list_names(m);
	}
	if (!ret)
		m->part = djp_textmap_id(map);
	return ret;
}

/**
 * djp_mainline_listed_by_name() - is it foo.cold, and foo on the blacklist?
 * @m: the facts of foo.cold
 *
 * within_kprobe_blacklist() refuses that.
 *
 * Context: may sleep.
 */
bool djp_mainline_listed_by_name(const struct djp_mainline *m)
{
	bool suffixed;
	u32 hash = djp_hash_symbol(m->start, &suffixed);

	return suffixed &&
	       bsearch(&hash, m->names, m->nr_names, sizeof(hash),
		       djp_cmp_hash) &&
	       djp_k.within_kprobe_blacklist(m->start);
}
