// SPDX-License-Identifier: GPL-2.0
/*
 * Counters that one instruction increments, exactly, on every CPU and in every
 * context: "incq %gs:ADDRESS".
 *
 * The address of a per-CPU object is relative to the CPU's %gs base. It fits the
 * instruction's sign-extended disp32 only for objects in the first per-CPU
 * chunk; later chunks are in vmalloc space. So counters come in small blocks,
 * which the allocator can still place in the first chunk for a while, and
 * djp_detour_build() uses a register where an address does not fit.
 */
#include <linux/bitmap.h>
#include <linux/percpu.h>
#include <linux/slab.h>

#include "core/internal.h"

#define DJP_COUNTERS_PER_BLOCK 32

/**
 * struct djp_counter_block - counters that were allocated together
 * @node: on djp_counter_blocks
 * @slots: the per-CPU memory
 * @used: a bit for each slot
 */
struct djp_counter_block {
	struct list_head	node;
	u64 __percpu		*slots;
	DECLARE_BITMAP(used, DJP_COUNTERS_PER_BLOCK);
};

/* Blocks with a free slot first. djp_mutex guards it. */
static LIST_HEAD(djp_counter_blocks);

static struct djp_counter_block *djp_counter_block_get(void)
{
	struct djp_counter_block *block;

	block = list_first_entry_or_null(&djp_counter_blocks,
					 struct djp_counter_block, node);
	if (block && !bitmap_full(block->used, DJP_COUNTERS_PER_BLOCK))
		return block;

	block = kzalloc(sizeof(*block), GFP_KERNEL);
	if (!block)
		return NULL;
	block->slots = __alloc_percpu(DJP_COUNTERS_PER_BLOCK * sizeof(u64),
				      sizeof(u64));
	if (!block->slots) {
		kfree(block);
		return NULL;
	}
	list_add(&block->node, &djp_counter_blocks);
	return block;
}

/**
 * djp_counter_alloc() - a counter that stands at 0
 *
 * Context: djp_mutex held, may sleep.
 * Return: a counter with one reference, or NULL.
 */
struct djp_counter *djp_counter_alloc(void)
{
	struct djp_counter_block *block;
	struct djp_counter *counter;
	unsigned int i;
	int cpu;

	counter = kmalloc(sizeof(*counter), GFP_KERNEL);
	if (!counter)
		return NULL;
	block = djp_counter_block_get();
	if (!block) {
		kfree(counter);
		return NULL;
	}
	i = find_first_zero_bit(block->used, DJP_COUNTERS_PER_BLOCK);
	__set_bit(i, block->used);
	if (bitmap_full(block->used, DJP_COUNTERS_PER_BLOCK))
		list_move_tail(&block->node, &djp_counter_blocks);

	counter->slot = block->slots + i;
	counter->block = block;
	for_each_possible_cpu(cpu)
		*per_cpu_ptr(counter->slot, cpu) = 0;
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
	struct djp_counter_block *block;

	if (!counter || !refcount_dec_and_test(&counter->refs))
		return;

	block = counter->block;
	__clear_bit(counter->slot - block->slots, block->used);
	list_move(&block->node, &djp_counter_blocks);
	kfree(counter);
}

/**
 * djp_counter_sum() - what a counter stands at
 * @counter: the counter
 *
 * Return: the sum over all possible CPUs, so that CPUs that went off line are
 * in it. Hits that happen while it is summed may or may not be.
 */
u64 djp_counter_sum(const struct djp_counter *counter)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter->slot, cpu));
	return sum;
}

/**
 * djp_counters_exit() - free all counter memory
 *
 * Context: module unload; no counter and no detour is left.
 */
void djp_counters_exit(void)
{
	struct djp_counter_block *block, *tmp;

	list_for_each_entry_safe(block, tmp, &djp_counter_blocks, node) {
		free_percpu(block->slots);
		kfree(block);
	}
}
