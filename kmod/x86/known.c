// SPDX-License-Identifier: GPL-2.0
/*
 * What is asked for each site of an update, found out once for all of them: where
 * kprobes are, and where they may not be.
 *
 * To ask the kernel is to look into a hash for each byte that a kprobe could come from,
 * and to read its blacklist from the beginning, for each site. Nothing is taken for
 * granted that the kernel would answer otherwise: both are read with kprobe_mutex held,
 * and what is known is forgotten with the update, or when that mutex is let go.
 *
 * The blacklist itself is remembered. The kernel puts an entry at its end
 * (kprobe_add_ksym_blacklist(), kernel/kprobes.c, v6.1), and we put ours at its
 * beginning (x86/ban.c), so if the last entry is the same there are no new ones; what a
 * module takes off as it goes the module notifier tells.
 */
#include <linux/bitmap.h>
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "x86/x86.h"

/* Kprobes are remembered by the hash of the 64 bytes that they are in. */
#define DJP_BLOCK_SHIFT		6
#define DJP_BLOCK_BITS		12
/* With more than that it is not worth the while for a small update. */
#define DJP_KPROBES_FEW		4096

/* Kprobes' own hash, see djp_known_init(). */
#define DJP_KPROBE_HASH_BITS	6

/**
 * struct djp_known - what was found out; djp_mutex guards it
 * @kprobes: @blocks is right
 * @blocks: a bit for the hash of each 64 bytes with kprobes in them
 * @table: kprobes' hash is what we think it is
 * @lists: @ranges is right
 * @ranges: the blacklist without ours: sorted, and not overlapping
 * @nr_ranges: how many
 * @last: the last entry when @ranges was made; NULL if it never was, or is stale
 */
struct djp_known {
	bool			kprobes;
	bool			table;
	bool			lists;
	DECLARE_BITMAP(blocks, 1 << DJP_BLOCK_BITS);
	unsigned long		(*ranges)[2];
	unsigned int		nr_ranges;
	const struct list_head	*last;
};

static struct djp_known djp_known;

static unsigned int djp_block(unsigned long addr)
{
	return hash_long(addr >> DJP_BLOCK_SHIFT, DJP_BLOCK_BITS);
}

/**
 * djp_kprobes_take() - find out where kprobes are
 *
 * Those on ftrace sites do not count: they write nothing but that.
 *
 * Context: djp_mutex and kprobe_mutex held. djp_kprobes_drop() is due before another
 * kprobe matters.
 */
void djp_kprobes_take(void)
{
	const struct hlist_head *table = djp_k.kprobe_table;
	const struct kprobe *kp;
	unsigned int i, nr = 0;

	djp_known.kprobes = false;
	if (!djp_known.table)
		return;
	bitmap_zero(djp_known.blocks, 1 << DJP_BLOCK_BITS);
	for (i = 0; i < 1 << DJP_KPROBE_HASH_BITS; i++) {
		hlist_for_each_entry(kp, &table[i], hlist) {
			if (++nr > DJP_KPROBES_FEW)
				return;
			if (!(kp->flags & KPROBE_FLAG_FTRACE))
				__set_bit(djp_block((unsigned long)kp->addr),
					  djp_known.blocks);
		}
	}
	djp_known.kprobes = true;
}

/**
 * djp_kprobes_drop() - others may come from now on
 *
 * Context: djp_mutex held.
 */
void djp_kprobes_drop(void)
{
	djp_known.kprobes = false;
}

/**
 * djp_kprobes_none() - is it known that there is no kprobe in a range?
 * @start: first address
 * @end: one behind the last
 *
 * Context: djp_mutex held.
 */
bool djp_kprobes_none(unsigned long start, unsigned long end)
{
	unsigned long addr;

	if (!djp_known.kprobes)
		return false;
	for (addr = round_down(start, 1 << DJP_BLOCK_SHIFT); addr < end;
	     addr += 1 << DJP_BLOCK_SHIFT) {
		if (test_bit(djp_block(addr), djp_known.blocks))
			return false;
	}
	return true;
}

static int djp_range_cmp(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a;
	unsigned long y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

/* Those that overlap, or touch, become one. */
static void djp_ranges_merge(unsigned long (*ranges)[2], unsigned int *nr)
{
	unsigned int i, n = 0;

	for (i = 0; i < *nr; i++) {
		if (n && ranges[i][0] <= ranges[n - 1][1]) {
			ranges[n - 1][1] = max(ranges[n - 1][1], ranges[i][1]);
			continue;
		}
		ranges[n][0] = ranges[i][0];
		ranges[n][1] = ranges[i][1];
		n++;
	}
	*nr = n;
}

/* Context: kprobe_mutex held, as for whoever changes the list. */
static void djp_blacklist_read(void)
{
	const struct kprobe_blacklist_entry *entry;
	unsigned long (*ranges)[2];
	unsigned int nr = 0;

	kvfree(djp_known.ranges);
	djp_known.ranges = NULL;
	djp_known.last = NULL;
	list_for_each_entry(entry, djp_k.kprobe_blacklist, list)
		nr++;
	ranges = kvmalloc_array(nr + 1, sizeof(*ranges), GFP_KERNEL);
	if (!ranges)
		return;
	nr = 0;
	list_for_each_entry(entry, djp_k.kprobe_blacklist, list) {
		if (djp_ban_is(entry))
			continue;
		ranges[nr][0] = entry->start_addr;
		ranges[nr][1] = entry->end_addr;
		nr++;
	}
	sort(ranges, nr, sizeof(*ranges), djp_range_cmp, NULL);
	djp_ranges_merge(ranges, &nr);
	djp_known.ranges = ranges;
	djp_known.nr_ranges = nr;
	djp_known.last = djp_k.kprobe_blacklist->prev;
}

/**
 * djp_known_take() - find out what an update will ask for
 * @data: not used
 *
 * Context: djp_mutex, kprobe_mutex and text_mutex held, may sleep. djp_known_drop() is
 * due.
 * Return: 0.
 */
int djp_known_take(void *data)
{
	djp_kprobes_take();
	djp_known.lists = false;
	if (!djp_k.kprobe_blacklist || !djp_k.arch_within_kprobe_blacklist)
		return 0;
	if (!djp_known.last || djp_known.last != djp_k.kprobe_blacklist->prev)
		djp_blacklist_read();
	djp_known.lists = djp_known.last;
	return 0;
}

/**
 * djp_known_drop() - the update has asked for all that it needs
 *
 * Context: djp_mutex held.
 */
void djp_known_drop(void)
{
	djp_kprobes_drop();
	djp_known.lists = false;
}

/**
 * djp_known_stale() - a module has come or gone
 *
 * Context: djp_mutex held.
 */
void djp_known_stale(void)
{
	djp_known.last = NULL;
}

/* __within_kprobe_blacklist(), kernel/kprobes.c; without our own entries */
static bool djp_is_listed(unsigned long addr)
{
	unsigned int lo = 0, hi = djp_known.nr_ranges;

	if (djp_k.arch_within_kprobe_blacklist(addr))
		return true;
	while (lo < hi) {
		unsigned int mid = lo + (hi - lo) / 2;

		if (addr < djp_known.ranges[mid][0])
			hi = mid;
		else if (addr >= djp_known.ranges[mid][1])
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

/**
 * djp_is_blacklisted() - may kprobes not come here, whatever is probed by us?
 * @addr: an address in a function
 * @plain: its symbol has no suffix (foo.cold, foo.isra.0): false if that is not known
 *
 * within_kprobe_blacklist(), kernel/kprobes.c, but for our own entries, which are of
 * bytes that our sites have.
 *
 * Context: djp_mutex held, may sleep.
 */
bool djp_is_blacklisted(unsigned long addr, bool plain)
{
	char name[KSYM_SYMBOL_LEN];
	size_t len;

	if (!djp_known.lists)
		return djp_k.within_kprobe_blacklist(addr) &&
			!djp_site_overlap(addr, 1);
	if (djp_is_listed(addr))
		return true;
	if (plain)
		return false;
	/* "NAME", or "NAME [MODULE]" */
	sprint_symbol_no_offset(name, addr);
	len = strcspn(name, ". ");
	if (name[len] != '.')
		return false;
	name[len] = '\0';
	addr = djp_k.lookup_name(name);
	return addr && djp_is_listed(addr);
}

/* Is the kprobe where it would be in a hash of so many bits, and of no other number? */
static bool djp_table_has(const struct kprobe *kp)
{
	u32 hash = hash_ptr(kp->addr, DJP_KPROBE_HASH_BITS);
	const struct hlist_head *table = djp_k.kprobe_table;
	const struct kprobe *one;

	/* With other bits the head would be another, unless it is the first. */
	if (!hash)
		return false;
	hlist_for_each_entry(one, &table[hash], hlist) {
		if (one == kp)
			return true;
	}
	return false;
}

/**
 * djp_known_init() - find out whether kprobes' hash can be read
 *
 * Its size is not told by anything: a kprobe is put in and looked for.
 *
 * Context: module load, may sleep.
 */
void djp_known_init(void)
{
	static const char * const names[] = {
		"kallsyms_lookup_name", "sprint_symbol", "register_kprobes",
	};
	unsigned long size, offset;
	unsigned int i;

	if (!djp_k.kprobe_table ||
	    !djp_k.kallsyms_lookup_size_offset((unsigned long)djp_k.kprobe_table,
					       &size, &offset) ||
	    offset || size < sizeof(struct hlist_head) << DJP_KPROBE_HASH_BITS)
		return;
	for (i = 0; i < ARRAY_SIZE(names) && !djp_known.table; i++) {
		struct kprobe kp = { .symbol_name = names[i] };

		if (register_kprobe(&kp))
			continue;
		mutex_lock(djp_k.kprobe_mutex);
		djp_known.table = djp_table_has(&kp);
		mutex_unlock(djp_k.kprobe_mutex);
		unregister_kprobe(&kp);
	}
}

/**
 * djp_known_exit() - free what is remembered
 *
 * Context: module unload.
 */
void djp_known_exit(void)
{
	kvfree(djp_known.ranges);
}
