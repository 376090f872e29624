// SPDX-License-Identifier: GPL-2.0
/*
 * Executable memory for detours.
 *
 * The memory is never writable and executable at once: text_poke() writes it
 * through an alias that only the writing CPU has, and only while it writes. What
 * is not in use is filled with int3.
 *
 * A jump to a detour is opcode and rel32. Where a byte of the rel32 has to be an
 * int3, because something branches to it, the detour has to be where the rel32 has
 * that byte. For the low two bytes a place is found in any 64 KiB; for the third
 * in 64 KiB of each 16 MiB, for the fourth in 16 MiB of the 4 GiB: memory is then
 * mapped there. Besides the module area there is room for it in the 2 GiB below the
 * kernel's image, which nothing uses (Documentation/x86/x86_64/mm.rst, v6.1).
 */
#include <linux/genalloc.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/numa.h>
#include <linux/slab.h>

#include "x86/x86.h"

#define DJP_CHUNK_SIZE	(16 * PAGE_SIZE)
/* For detours that must be in one place: few share it. */
#define DJP_CHUNK_SMALL	(4 * PAGE_SIZE)
#define DJP_SLOT_ORDER	4
#define DJP_SLOT_SIZE	(1ul << DJP_SLOT_ORDER)

/* The unused hole, less what a guard against off-by-ones is worth. */
#define DJP_LOWEST	0xffffffff01000000ul

/**
 * struct djp_chunk - executable memory for many detours
 * @node: on djp_chunks
 * @mem: its start
 * @size: bytes
 * @placed: it was mapped where detours with int3s in their jump need it
 */
struct djp_chunk {
	struct list_head	node;
	void			*mem;
	size_t			size;
	bool			placed;
};

/* djp_mutex guards both. */
static struct gen_pool *djp_pool;
static LIST_HEAD(djp_chunks);

/**
 * struct djp_fit - where a detour has to be
 * @from: the address that the jump's rel32 counts from
 * @header: bytes of the slot before the detour's first instruction
 * @mask: the bits of the rel32 that are given
 * @value: what they are
 */
struct djp_fit {
	unsigned long	from;
	size_t		header;
	u32		mask;
	u32		value;
};

static void djp_fit_init(struct djp_fit *fit, unsigned long ia, size_t header,
			 unsigned int traps)
{
	unsigned int k;

	memset(fit, 0, sizeof(*fit));
	fit->from = ia + DJP_JMP32_LEN;
	fit->header = header;
	for (k = 1; k < DJP_JMP32_LEN; k++) {
		if (!(traps & BIT(k)))
			continue;
		fit->mask |= 0xffu << 8 * (k - 1);
		fit->value |= (u32)DJP_INT3 << 8 * (k - 1);
	}
}

/* The smallest number from @rel on that has the given bits; false if none. */
static bool djp_fit_next(const struct djp_fit *fit, u32 rel, u32 *next)
{
	u32 candidate = (rel & ~fit->mask) | fit->value;
	u32 below;
	u64 raised;

	if (candidate == rel) {
		*next = rel;
		return true;
	}
	/* All bits up to the highest that differs. */
	below = (2u << __fls(candidate ^ rel)) - 1;
	if (candidate > rel) {
		*next = (candidate & ~(below & ~fit->mask)) | fit->value;
		return true;
	}
	/* Count up in the free bits above it. */
	raised = (u64)(candidate | fit->mask | below) + 1;
	if (raised >> 32)
		return false;
	*next = ((u32)raised & ~fit->mask & ~below) | fit->value;
	return true;
}

/* The first address from @addr on, below @end, where the text may begin. */
static bool djp_fit_address(const struct djp_fit *fit, unsigned long addr,
			    unsigned long end, unsigned long *found)
{
	long rel = addr - fit->from;
	u32 next;

	if (rel != (s32)rel || !djp_fit_next(fit, rel, &next))
		return false;
	*found = fit->from + (long)(s32)next;
	return *found >= addr && *found < end;
}

/* A genpool_algo_t: bits are slots. */
static unsigned long djp_fit_algo(unsigned long *bits, unsigned long size,
				  unsigned long start, unsigned int nr,
				  void *data, struct gen_pool *pool,
				  unsigned long base)
{
	const struct djp_fit *fit = data;
	unsigned long end = base + (size << DJP_SLOT_ORDER);
	unsigned long addr = base + (start << DJP_SLOT_ORDER) + fit->header;
	unsigned long text, bit, used;

	while (djp_fit_address(fit, addr, end, &text)) {
		bit = (text - fit->header - base) >> DJP_SLOT_ORDER;
		if (bit + nr > size)
			break;
		used = find_next_bit(bits, bit + nr, bit);
		if (used >= bit + nr)
			return bit;
		addr = max(text + 1, base + ((used + 1) << DJP_SLOT_ORDER) +
			   fit->header);
	}
	return size;
}

static bool djp_chunk_keep(void *mem, size_t size, bool placed)
{
	struct djp_chunk *chunk;

	if (!mem)
		return false;
	chunk = kmalloc(sizeof(*chunk), GFP_KERNEL);
	if (chunk && !gen_pool_add(djp_pool, (unsigned long)mem, size,
				   NUMA_NO_NODE)) {
		chunk->mem = mem;
		chunk->size = size;
		chunk->placed = placed;
		list_add(&chunk->node, &djp_chunks);
		djp_stats.detour_bytes_mapped += size;
		return true;
	}
	kfree(chunk);
	if (placed)
		djp_exec_free_in(mem, size);
	else
		djp_exec_free(mem, size);
	return false;
}

/*
 * Addresses that a chunk may have: not in the kernel's image. vmalloc knows of what
 * else is mapped.
 */
static bool djp_is_free_range(unsigned long start, unsigned long end)
{
	unsigned long image = ALIGN_DOWN((unsigned long)djp_k._text, PMD_SIZE);
	unsigned long image_end = ALIGN((unsigned long)djp_k._end, PMD_SIZE) +
		PMD_SIZE;

	return start >= DJP_LOWEST && start < end && end <= MODULES_END &&
		(end <= image || start >= image_end);
}

/*
 * The windows of addresses that the upper two bytes of the rel32 leave, one after
 * the other: @i counts from 0 on.
 * Return: false if there are no more.
 */
static bool djp_window(const struct djp_fit *fit, unsigned int i,
		       unsigned long *start, unsigned long *end)
{
	bool third = fit->mask & 0x00ff0000;
	bool fourth = fit->mask & 0xff000000;
	unsigned long size = third ? SZ_64K : SZ_16M;
	u32 rel;

	if (fourth && i)
		return false;
	if (i > 0xff)
		return false;
	/* From the nearest on: 0, -1, 1, -2, ... */
	rel = fourth ? 0 : (u32)((i & 1) ? -(int)((i + 1) / 2) : (int)(i / 2)) << 24;
	rel |= fit->value & 0xffff0000;
	*start = fit->from + (long)(s32)rel;
	*end = *start + size;
	return true;
}

/* Map a chunk where a window is. */
static bool djp_chunk_place(const struct djp_fit *fit)
{
	unsigned long start, end;
	unsigned int i;

	for (i = 0; djp_window(fit, i, &start, &end); i++) {
		void *mem;

		/* vmalloc keeps a page free behind each area. */
		start = ALIGN_DOWN(start, PAGE_SIZE);
		end = ALIGN(end, PAGE_SIZE) + PAGE_SIZE;
		if (!djp_is_free_range(start, end))
			continue;
		mem = djp_exec_alloc_in(DJP_CHUNK_SMALL, start, end);
		if (djp_chunk_keep(mem, DJP_CHUNK_SMALL, true))
			return true;
	}
	return false;
}

/* The same, all of a window: the low bytes are given too. */
static bool djp_chunk_place_all(const struct djp_fit *fit)
{
	unsigned long start, end, text;
	unsigned int i;

	for (i = 0; djp_window(fit, i, &start, &end); i++) {
		unsigned long at = start;

		while (djp_fit_address(fit, at, end, &text)) {
			unsigned long page = ALIGN_DOWN(text - fit->header,
							PAGE_SIZE);
			void *mem;

			at = text + PAGE_SIZE;
			if (!djp_is_free_range(page, page + DJP_CHUNK_SMALL +
					       PAGE_SIZE))
				continue;
			mem = djp_exec_alloc_in(DJP_CHUNK_SMALL, page,
						page + DJP_CHUNK_SMALL +
						PAGE_SIZE);
			if (djp_chunk_keep(mem, DJP_CHUNK_SMALL, true))
				return true;
		}
	}
	return false;
}

static bool djp_chunk_add(const struct djp_fit *fit)
{
	if (!(fit->mask & 0xffff0000))
		return djp_chunk_keep(djp_exec_alloc(DJP_CHUNK_SIZE),
				      DJP_CHUNK_SIZE, false);
	if (fit->mask & 0x0000ffff)
		return djp_chunk_place_all(fit);
	return djp_chunk_place(fit);
}

/**
 * djp_slot_possible() - can there be a detour at all?
 * @ia: the insertion address
 * @traps: bit k: byte k of the jump is an int3
 *
 * By the layout of the address space; memory is another matter.
 */
bool djp_slot_possible(unsigned long ia, unsigned int traps)
{
	unsigned long start, end;
	struct djp_fit fit;
	unsigned int i;

	djp_fit_init(&fit, ia, 0, traps);
	if (!(fit.mask & 0xffff0000))
		return true;
	if (IS_ENABLED(CONFIG_KASAN))
		return false;
	for (i = 0; djp_window(&fit, i, &start, &end); i++) {
		if (djp_is_free_range(start, end + 2 * PAGE_SIZE))
			return true;
	}
	return false;
}

/**
 * djp_slot_alloc() - memory for a detour
 * @slot: filled in: @addr, @size and @text
 * @size: bytes, with its header
 * @header: bytes before its first instruction
 * @ia: the insertion address
 * @traps: bit k: byte k of the jump from @ia to it is an int3
 *
 * Context: djp_mutex held, may sleep.
 * Return: false for want of memory in the right place.
 */
bool djp_slot_alloc(struct djp_slot *slot, size_t size, size_t header,
		    unsigned long ia, unsigned int traps)
{
	/* The text need not begin where a slot does. */
	size_t room = size + (traps ? DJP_SLOT_SIZE - 1 : 0);
	struct djp_fit fit;
	unsigned long text;

	if (!djp_pool)
		djp_pool = gen_pool_create(DJP_SLOT_ORDER, NUMA_NO_NODE);
	if (!djp_pool)
		return false;
	djp_fit_init(&fit, ia, header, traps);
	slot->addr = gen_pool_alloc_algo(djp_pool, room, djp_fit_algo, &fit);
	if (!slot->addr && djp_chunk_add(&fit))
		slot->addr = gen_pool_alloc_algo(djp_pool, room, djp_fit_algo,
						 &fit);
	if (!slot->addr)
		return false;
	slot->size = room;
	if (!djp_fit_address(&fit, slot->addr + header, slot->addr + room,
			     &text)) {
		djp_stats.detour_bytes_live += room;
		djp_slot_free(slot);
		return false;
	}
	slot->text = text;
	djp_stats.detour_bytes_live += room;
	return true;
}

/**
 * djp_slot_free() - give back what djp_slot_alloc() gave
 * @slot: the slot; nothing can reach it, and it is filled with int3
 *
 * Context: djp_mutex held.
 */
void djp_slot_free(const struct djp_slot *slot)
{
	gen_pool_free(djp_pool, slot->addr, slot->size);
	djp_stats.detour_bytes_live -= slot->size;
}

/**
 * djp_slots_exit() - free the executable memory
 *
 * Context: module unload; no detour is left.
 */
void djp_slots_exit(void)
{
	struct djp_chunk *chunk, *tmp;

	if (djp_pool)
		gen_pool_destroy(djp_pool);
	list_for_each_entry_safe(chunk, tmp, &djp_chunks, node) {
		if (chunk->placed)
			djp_exec_free_in(chunk->mem, chunk->size);
		else
			djp_exec_free(chunk->mem, chunk->size);
		kfree(chunk);
	}
}
