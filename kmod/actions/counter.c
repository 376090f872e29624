// SPDX-License-Identifier: GPL-2.0
/*
 * Counters that one instruction increments, exactly, on every CPU and in every
 * context: "incq %gs:ADDRESS".
 *
 * The address of a per-CPU object is relative to the CPU's %gs base, and has to fit the
 * instruction's sign-extended disp32. It does for objects in the first per-CPU chunk,
 * in which the allocator has room for a few more; later chunks are in vmalloc space, too
 * far away. But the first chunk is in the direct map (pcpu_embed_first_chunk(),
 * mm/percpu.c), where the CPUs' areas are at fixed distances. So pages are taken that
 * have the same distances: one run that covers all of them, of which what is between
 * them is given back. Where there is none near enough, counters are of the allocator's,
 * and djp_detour_build() uses a register.
 */
#include <linux/bitmap.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "actions/actions.h"
#include "core/internal.h"

/* Of the first chunk; a larger block would not be placed there. */
#define DJP_BLOCK_SMALL	32
/* Of pages: 64 KiB for each CPU. */
#define DJP_BLOCK_LARGE	(SZ_64K / sizeof(u64))
/* Most that is asked for in one piece, if only for a moment: 256 CPUs' areas or so. */
#define DJP_SPAN_MAX	SZ_64M

/**
 * struct djp_counter_block - slots that were allocated together
 * @node: on djp_counter_blocks
 * @slots: the per-CPU memory
 * @nr: how many
 * @free: how many are not in use
 * @from: none before this is free
 * @near: they are in reach of a disp32
 * @paged: they are in pages, not the allocator's
 * @used: a bit for each slot
 */
struct djp_counter_block {
	struct list_head	node;
	u64 __percpu		*slots;
	unsigned int		nr;
	unsigned int		free;
	unsigned int		from;
	bool			near;
	bool			paged;
	unsigned long		used[];
};

/* Blocks with a free slot first. djp_mutex guards all. */
static LIST_HEAD(djp_counter_blocks);
/* There is no room in the first chunk; there are no pages near it. */
static bool djp_first_chunk_full, djp_no_near_pages;
static unsigned long djp_slots_near, djp_slots_far;

static bool djp_fits_disp32(const u64 __percpu *slot)
{
	long at = (__force long)slot;

	return at == (s32)at;
}

static struct djp_counter_block *djp_block_new(unsigned int nr)
{
	struct djp_counter_block *block;

	block = kzalloc(struct_size(block, used, BITS_TO_LONGS(nr)), GFP_KERNEL);
	if (block) {
		block->nr = nr;
		block->free = nr;
	}
	return block;
}

static struct djp_counter_block *djp_block_percpu(unsigned int nr)
{
	struct djp_counter_block *block = djp_block_new(nr);

	if (!block)
		return NULL;
	block->slots = __alloc_percpu(nr * sizeof(u64), sizeof(u64));
	if (!block->slots) {
		kfree(block);
		return NULL;
	}
	block->near = djp_fits_disp32(block->slots) &&
		djp_fits_disp32(block->slots + nr - 1);
	return block;
}

/* A CPU's part of pages that begin where the lowest CPU's part does. */
static bool djp_is_slice(unsigned long off)
{
	unsigned long lowest = ULONG_MAX;
	int cpu;

	for_each_possible_cpu(cpu)
		lowest = min(lowest, per_cpu_offset(cpu));
	for_each_possible_cpu(cpu) {
		if (off - (per_cpu_offset(cpu) - lowest) < SZ_64K)
			return true;
	}
	return false;
}

static void djp_free_slices(const struct djp_counter_block *block)
{
	unsigned long page;
	int cpu;

	for_each_possible_cpu(cpu) {
		page = (unsigned long)per_cpu_ptr(block->slots, cpu);
		for (; page < (unsigned long)per_cpu_ptr(block->slots, cpu) +
		     SZ_64K; page += PAGE_SIZE)
			free_page(page);
	}
}

static struct djp_counter_block *djp_block_pages(void)
{
	unsigned long lowest = ULONG_MAX, highest = 0, span, off;
	struct djp_counter_block *block;
	struct page *pages;
	int cpu;

	for_each_possible_cpu(cpu) {
		lowest = min(lowest, per_cpu_offset(cpu));
		highest = max(highest, per_cpu_offset(cpu));
	}
	for_each_possible_cpu(cpu) {
		if (!PAGE_ALIGNED(per_cpu_offset(cpu) - lowest))
			return NULL;
	}
	span = highest - lowest + SZ_64K;
	if (span > DJP_SPAN_MAX)
		return NULL;
	block = djp_block_new(DJP_BLOCK_LARGE);
	pages = block ? djp_pages_alloc(span >> PAGE_SHIFT) : NULL;
	if (!pages) {
		kfree(block);
		return NULL;
	}
	for (off = 0; off < span; off += PAGE_SIZE) {
		if (!djp_is_slice(off))
			__free_page(pages + (off >> PAGE_SHIFT));
	}
	block->slots = (u64 __percpu __force *)
		((unsigned long)page_address(pages) - lowest);
	block->paged = true;
	block->near = djp_fits_disp32(block->slots) &&
		djp_fits_disp32(block->slots + DJP_BLOCK_LARGE - 1);
	if (!block->near) {
		djp_free_slices(block);
		kfree(block);
		return NULL;
	}
	return block;
}

static void djp_block_free(struct djp_counter_block *block)
{
	if (block->paged)
		djp_free_slices(block);
	else
		free_percpu(block->slots);
	list_del(&block->node);
	kfree(block);
}

/* Memory for at least @nr slots. */
static struct djp_counter_block *djp_block_get(unsigned int nr)
{
	struct djp_counter_block *block = NULL;

	if (nr <= DJP_BLOCK_SMALL && !djp_first_chunk_full) {
		block = djp_block_percpu(DJP_BLOCK_SMALL);
		if (block && !block->near) {
			djp_first_chunk_full = true;
			free_percpu(block->slots);
			kfree(block);
			block = NULL;
		}
	}
	if (!block && !djp_no_near_pages) {
		block = djp_block_pages();
		djp_no_near_pages = !block;
	}
	if (!block)
		block = djp_block_percpu(max_t(unsigned int, nr, DJP_BLOCK_SMALL));
	if (block)
		list_add(&block->node, &djp_counter_blocks);
	return block;
}

static bool djp_block_take(struct djp_counter_block *block,
			   struct djp_counter *counter)
{
	unsigned long i;
	unsigned int n;
	int cpu;

	if (block->free < counter->nr)
		return false;
	i = bitmap_find_next_zero_area(block->used, block->nr, block->from,
				       counter->nr, 0);
	if (i >= block->nr)
		return false;
	bitmap_set(block->used, i, counter->nr);
	block->free -= counter->nr;
	if (i == block->from)
		block->from += counter->nr;
	if (!block->free)
		list_move_tail(&block->node, &djp_counter_blocks);
	counter->slot = block->slots + i;
	counter->block = block;
	for_each_possible_cpu(cpu) {
		for (n = 0; n < counter->nr; n++)
			*per_cpu_ptr(counter->slot + n, cpu) = 0;
	}
	if (block->near)
		djp_slots_near++;
	else
		djp_slots_far++;
	return true;
}

static bool djp_slots_take(struct djp_counter *counter)
{
	struct djp_counter_block *block;

	list_for_each_entry(block, &djp_counter_blocks, node) {
		if (!block->free)
			break;
		if (djp_block_take(block, counter))
			return true;
	}
	block = djp_block_get(counter->nr);
	return block && djp_block_take(block, counter);
}

static void djp_slots_give(struct djp_counter *counter)
{
	struct djp_counter_block *block = counter->block;
	unsigned int i = counter->slot - block->slots;

	if (block->near)
		djp_slots_near--;
	else
		djp_slots_far--;
	bitmap_clear(block->used, i, counter->nr);
	block->free += counter->nr;
	block->from = min(block->from, i);
	list_move(&block->node, &djp_counter_blocks);
	/* The last one stays: most batches are followed by others. */
	if (block->free == block->nr && !list_is_singular(&djp_counter_blocks))
		djp_block_free(block);
}

/* Can't be done by the few instructions of x86/inline.c? */
static bool djp_needs_c(const struct djp_counter *counter)
{
	const struct djp_options *o = &counter->extra->options;

	/* %sp is not what it was once flags or a register are pushed. */
	return !counter->block->near || o->cond.deref || o->hist.deref ||
		(o->cond.size && o->cond.reg == DJP_REG_SP) ||
		(o->hist.size && o->hist.reg == DJP_REG_SP);
}

static bool djp_extra_alloc(struct djp_counter *counter,
			    const struct djp_options *options)
{
	struct djp_extra *extra = kzalloc(sizeof(*extra), GFP_KERNEL);

	if (!extra)
		return false;
	counter->extra = extra;
	extra->options = *options;
	if (options->sample)
		extra->sample = counter->nr++;
	if (options->soft)
		extra->soft = counter->nr++;
	if (options->hist.size) {
		extra->hist = counter->nr;
		counter->nr += DJP_HIST_BUCKETS;
	}
	if (options->by == DJP_BY_PID || options->by == DJP_BY_COMM) {
		extra->map = djp_map_alloc(options->by);
		return extra->map;
	}
	return true;
}

static void djp_counter_free(struct djp_counter *counter)
{
	if (counter->extra)
		djp_map_free(counter->extra->map);
	kfree(counter->extra);
	kfree(counter);
}

/**
 * djp_counter_alloc() - a counter that stands at 0
 * @options: what else it is for; NULL for nothing
 *
 * Context: djp_mutex held, may sleep.
 * Return: a counter with one reference, switched on, or NULL.
 */
struct djp_counter *djp_counter_alloc(const struct djp_options *options)
{
	struct djp_counter *counter = kzalloc(sizeof(*counter), GFP_KERNEL);

	if (!counter)
		return NULL;
	counter->nr = 1;
	if ((options && !djp_extra_alloc(counter, options)) ||
	    !djp_slots_take(counter)) {
		djp_counter_free(counter);
		return NULL;
	}
	if (options) {
		counter->extra->in_c = djp_needs_c(counter);
		djp_counter_switch(counter, true);
	}
	refcount_set(&counter->refs, 1);
	return counter;
}

/**
 * djp_counter_get() - take a reference
 * @counter: the counter
 */
void djp_counter_get(struct djp_counter *counter)
{
	refcount_inc(&counter->refs);
}

/**
 * djp_counter_put() - drop a reference, and the counter with the last one
 * @counter: the counter, or NULL
 *
 * Context: djp_mutex held.
 */
void djp_counter_put(struct djp_counter *counter)
{
	if (!counter || !refcount_dec_and_test(&counter->refs))
		return;
	djp_slots_give(counter);
	djp_counter_free(counter);
}

/**
 * djp_counter_near() - is it in reach of "%gs:disp32"?
 * @counter: the counter
 */
bool djp_counter_near(const struct djp_counter *counter)
{
	return counter->block->near;
}

/**
 * djp_counter_sum() - what a slot stands at
 * @counter: the counter
 * @slot: which of its slots; 0 is the hits
 *
 * Return: the sum over all possible CPUs, so that CPUs that went off line are
 * in it. Hits that happen while it is summed may or may not be.
 */
u64 djp_counter_sum(const struct djp_counter *counter, unsigned int slot)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter->slot + slot, cpu));
	return sum;
}

/**
 * djp_counter_switch() - let a soft probe count, or not
 * @counter: its counter; nothing is done if it is not soft
 * @on: which
 *
 * A hit that has read the flag before may still be counted.
 *
 * Context: djp_mutex held.
 */
void djp_counter_switch(struct djp_counter *counter, bool on)
{
	int cpu;

	if (!djp_is_soft(counter))
		return;
	for_each_possible_cpu(cpu)
		WRITE_ONCE(*per_cpu_ptr(counter->slot + counter->extra->soft, cpu),
			   on);
}

/**
 * djp_counters_show() - how many there are, for the file "stats"
 * @m: where to
 *
 * Context: djp_mutex held.
 */
void djp_counters_show(struct seq_file *m)
{
	seq_printf(m, "counters_near %lu\ncounters_far %lu\n", djp_slots_near,
		   djp_slots_far);
}

/**
 * djp_counters_exit() - free all counter memory
 *
 * Context: module unload; no counter and no detour is left.
 */
void djp_counters_exit(void)
{
	struct djp_counter_block *block, *tmp;

	list_for_each_entry_safe(block, tmp, &djp_counter_blocks, node)
		djp_block_free(block);
}
