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
 *
 * From there not all is in reach that a displaced instruction refers to: per-CPU data
 * for one, whose RIP-relative address is a small number (0x20000 is 4 GiB above
 * DJP_LOWEST). So each detour has its range of addresses, and those that need no
 * place of their own stay out of memory that was mapped for the others.
 */
#include <linux/bitmap.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "x86/x86.h"

#define DJP_CHUNK_SIZE	(16 * PAGE_SIZE)
/* For detours that must be in one place: few share it. */
#define DJP_CHUNK_SMALL	(4 * PAGE_SIZE)
/* A detour is some 25 bytes: what is lost by rounding counts. */
#define DJP_GRAIN	4ul

/* The unused hole, less what a guard against off-by-ones is worth. */
#define DJP_LOWEST	0xffffffff01000000ul

/* What a detour is taken to need, as long as it is not known; few need more. */
#define DJP_SPAN	256

/**
 * struct djp_chunk - executable memory for many detours
 * @node: on djp_chunks
 * @mem: its start
 * @grains: its size, in grains
 * @free: how many of them are free
 * @next: where to look first: behind what was given last
 * @fails: so many in a row were not to be had; UINT_MAX if that is not known
 * @placed: it was mapped where detours with int3s in their jump need it
 * @bits: a bit for each grain that is in use
 */
struct djp_chunk {
	struct list_head	node;
	unsigned long		mem;
	unsigned int		grains;
	unsigned int		free;
	unsigned int		next;
	unsigned int		fails;
	bool			placed;
	unsigned long		*bits;
};

/* djp_mutex guards it. */
static LIST_HEAD(djp_chunks);

/**
 * struct djp_fit - where a detour has to be
 * @from: the address that the jump's rel32 counts from
 * @header: bytes of the slot before the detour's first instruction
 * @len: bytes from there on
 * @min: the first address from which all is in reach
 * @max: one behind the last
 * @mask: the bits of the rel32 that are given
 * @value: what they are
 */
struct djp_fit {
	unsigned long	from;
	size_t		header;
	size_t		len;
	unsigned long	min;
	unsigned long	max;
	u32		mask;
	u32		value;
};

/* A rel32 in the detour leads to @to: it counts from somewhere in [@min, @max]. */
static void djp_fit_reach(struct djp_fit *fit, unsigned long to)
{
	/* Signed: addresses of the kernel are just below 0, per-CPU ones above. */
	long low = (long)to - S32_MAX, high = (long)to - S32_MIN;

	fit->min = max((long)fit->min, low);
	fit->max = min((long)fit->max, high);
}

static void djp_fit_init(struct djp_fit *fit, const struct djp_dcr *dcr,
			 size_t header, size_t len, bool calls)
{
	unsigned int i, k;

	memset(fit, 0, sizeof(*fit));
	fit->from = dcr->addr + DJP_JMP32_LEN;
	fit->header = header;
	fit->len = len;
	fit->min = DJP_LOWEST;
	fit->max = MODULES_END;
	/* The jump to it, which counts the other way round, and the one back. */
	djp_fit_reach(fit, dcr->addr);
	djp_fit_reach(fit, dcr->addr + dcr->len);
	if (calls) {
		djp_fit_reach(fit, djp_entry_address(DJP_ENTRY_HANDLER));
		djp_fit_reach(fit, (unsigned long)djp_entries_end);
	}
	for (i = 0; i < dcr->nr_insns; i++) {
		unsigned long to;

		if (djp_insn_refers(dcr, &dcr->insns[i], &to))
			djp_fit_reach(fit, to);
	}
	djp_for_each_trap(k, dcr->traps) {
		fit->mask |= 0xffu << 8 * (k - 1);
		fit->value |= (u32)DJP_INT3 << 8 * (k - 1);
	}
}

/* Has the detour to be in one place of a large area? */
static bool djp_fit_is_far(const struct djp_fit *fit)
{
	return fit->mask & 0xffff0000;
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
	long rel;
	u32 next;

	addr = max(addr, fit->min);
	end = min(end, fit->max - fit->len + 1);
	rel = addr - fit->from;
	if (addr >= end || rel != (s32)rel || !djp_fit_next(fit, rel, &next))
		return false;
	*found = fit->from + (long)(s32)next;
	return *found >= addr && *found < end;
}

/* The grains that a detour takes whose text begins at @text. */
static void djp_chunk_grains(const struct djp_chunk *chunk,
			     const struct djp_fit *fit, unsigned long text,
			     unsigned int *first, unsigned int *end)
{
	*first = (text - fit->header - chunk->mem) / DJP_GRAIN;
	*end = DIV_ROUND_UP(text + fit->len - chunk->mem, DJP_GRAIN);
}

/* Where the text may begin if some bits of the rel32 are given, or 0. */
static unsigned long djp_chunk_match(const struct djp_chunk *chunk,
				     const struct djp_fit *fit)
{
	unsigned long addr = chunk->mem + fit->header;
	unsigned long stop = chunk->mem + chunk->grains * DJP_GRAIN - fit->len + 1;
	unsigned int first, end, used;
	unsigned long text;

	while (djp_fit_address(fit, addr, stop, &text)) {
		djp_chunk_grains(chunk, fit, text, &first, &end);
		used = find_next_bit(chunk->bits, end, first);
		if (used >= end)
			return text;
		used = find_next_zero_bit(chunk->bits, chunk->grains, used);
		addr = max(text + 1, chunk->mem + used * DJP_GRAIN + fit->header);
	}
	return 0;
}

/* The same if none are. */
static unsigned long djp_chunk_next(struct djp_chunk *chunk,
				    const struct djp_fit *fit)
{
	unsigned int nr = DIV_ROUND_UP(fit->header + fit->len, DJP_GRAIN);
	unsigned long size = chunk->grains * DJP_GRAIN, at;

	/* Chunks that are not placed are in reach of all, or of none of it. */
	if (nr >= chunk->fails || chunk->mem < fit->min ||
	    chunk->mem + size > fit->max)
		return 0;
	at = bitmap_find_next_zero_area(chunk->bits, chunk->grains,
					chunk->next, nr, 0);
	if (at >= chunk->grains)
		at = bitmap_find_next_zero_area(chunk->bits, chunk->grains, 0,
						nr, 0);
	if (at >= chunk->grains) {
		chunk->fails = nr;
		return 0;
	}
	return chunk->mem + at * DJP_GRAIN + fit->header;
}

static unsigned long djp_chunk_take(struct djp_chunk *chunk,
				    const struct djp_fit *fit,
				    struct djp_slot *slot)
{
	unsigned int first, end;
	unsigned long text;

	if (chunk->free * DJP_GRAIN < fit->header + fit->len)
		return 0;
	text = fit->mask ? djp_chunk_match(chunk, fit) :
		djp_chunk_next(chunk, fit);
	if (!text)
		return 0;
	djp_chunk_grains(chunk, fit, text, &first, &end);
	bitmap_set(chunk->bits, first, end - first);
	chunk->free -= end - first;
	chunk->next = end;
	slot->addr = chunk->mem + first * DJP_GRAIN;
	slot->size = (end - first) * DJP_GRAIN;
	return text;
}

static void djp_exec_free_at(void *mem, size_t size, bool placed)
{
	if (placed)
		djp_exec_free_in(mem, size);
	else
		djp_exec_free(mem, size);
}

static struct djp_chunk *djp_chunk_keep(void *mem, size_t size, bool placed)
{
	struct djp_chunk *chunk;

	if (!mem)
		return NULL;
	chunk = kzalloc(sizeof(*chunk), GFP_KERNEL);
	if (chunk)
		chunk->bits = bitmap_zalloc(size / DJP_GRAIN, GFP_KERNEL);
	if (!chunk || !chunk->bits) {
		kfree(chunk);
		djp_exec_free_at(mem, size, placed);
		return NULL;
	}
	chunk->mem = (unsigned long)mem;
	chunk->grains = size / DJP_GRAIN;
	chunk->free = chunk->grains;
	chunk->fails = UINT_MAX;
	chunk->placed = placed;
	list_add(&chunk->node, &djp_chunks);
	djp_stats.detour_bytes_mapped += size;
	return chunk;
}

static void djp_chunk_drop(struct djp_chunk *chunk)
{
	size_t size = chunk->grains * DJP_GRAIN;

	list_del(&chunk->node);
	djp_stats.detour_bytes_mapped -= size;
	djp_exec_free_at((void *)chunk->mem, size, chunk->placed);
	bitmap_free(chunk->bits);
	kfree(chunk);
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
 * the other: @i counts from 0 on. Empty ones have no bytes.
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
	/* Whole pages of what is in reach, so that any place in them will do. */
	*start = max(*start, ALIGN(fit->min, PAGE_SIZE));
	*end = max(*start, min(*end, ALIGN_DOWN(fit->max, PAGE_SIZE)));
	return true;
}

/* Map a chunk where a window is. */
static struct djp_chunk *djp_chunk_place(const struct djp_fit *fit)
{
	unsigned long start, end;
	struct djp_chunk *chunk;
	unsigned int i;

	for (i = 0; djp_window(fit, i, &start, &end); i++) {
		void *mem;

		if (start == end)
			continue;
		/* vmalloc keeps a page free behind each area. */
		start = ALIGN_DOWN(start, PAGE_SIZE);
		end = ALIGN(end, PAGE_SIZE) + PAGE_SIZE;
		if (!djp_is_free_range(start, end))
			continue;
		mem = djp_exec_alloc_in(DJP_CHUNK_SMALL, start, end);
		chunk = djp_chunk_keep(mem, DJP_CHUNK_SMALL, true);
		if (chunk)
			return chunk;
	}
	return NULL;
}

/* The same, all of a window: the low bytes are given too. */
static struct djp_chunk *djp_chunk_place_all(const struct djp_fit *fit)
{
	unsigned long start, end, text;
	struct djp_chunk *chunk;
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
			chunk = djp_chunk_keep(mem, DJP_CHUNK_SMALL, true);
			if (chunk)
				return chunk;
		}
	}
	return NULL;
}

static struct djp_chunk *djp_chunk_add(const struct djp_fit *fit)
{
	if (!djp_fit_is_far(fit))
		return djp_chunk_keep(djp_exec_alloc(DJP_CHUNK_SIZE),
				      DJP_CHUNK_SIZE, false);
	if (fit->mask & 0x0000ffff)
		return djp_chunk_place_all(fit);
	return djp_chunk_place(fit);
}

/**
 * djp_slot_possible() - can there be a detour at all?
 * @dcr: of what; its text is there
 *
 * By the layout of the address space; memory is another matter.
 */
bool djp_slot_possible(const struct djp_dcr *dcr)
{
	unsigned long start, end;
	struct djp_fit fit;
	unsigned int i;

	djp_fit_init(&fit, dcr, 0, DJP_SPAN, false);
	/* Where modules are, all is in reach: it is for them, too. */
	if (!djp_fit_is_far(&fit))
		return true;
	if (IS_ENABLED(CONFIG_KASAN))
		return false;
	for (i = 0; djp_window(&fit, i, &start, &end); i++) {
		if (end - start >= DJP_SPAN &&
		    djp_is_free_range(start, end + 2 * PAGE_SIZE))
			return true;
	}
	return false;
}

/**
 * djp_slot_alloc() - memory for a detour
 * @slot: filled in
 * @dcr: what the detour is of; the jump to it has the int3s that are @traps of it
 * @header: bytes before its first instruction
 * @len: bytes from there on
 * @calls: it calls djp_handler_entry() or one of its kind
 *
 * Context: djp_mutex held, may sleep.
 * Return: where its first instruction has to be; 0 for want of memory in the right
 * place.
 */
unsigned long djp_slot_alloc(struct djp_slot *slot, const struct djp_dcr *dcr,
			     size_t header, size_t len, bool calls)
{
	struct djp_chunk *chunk;
	unsigned long text = 0;
	struct djp_fit fit;

	djp_fit_init(&fit, dcr, header, len, calls);
	list_for_each_entry(chunk, &djp_chunks, node) {
		/* What is placed is scarce: for those that need it. */
		if (chunk->placed && !djp_fit_is_far(&fit))
			continue;
		text = djp_chunk_take(chunk, &fit, slot);
		if (text)
			break;
	}
	if (!text) {
		chunk = djp_chunk_add(&fit);
		text = chunk ? djp_chunk_take(chunk, &fit, slot) : 0;
		if (chunk && !text)
			djp_chunk_drop(chunk);
	}
	if (text)
		djp_stats.detour_bytes_live += slot->size;
	return text;
}

static struct djp_chunk *djp_chunk_of(unsigned long addr)
{
	struct djp_chunk *chunk;

	list_for_each_entry(chunk, &djp_chunks, node) {
		if (addr - chunk->mem < chunk->grains * DJP_GRAIN)
			return chunk;
	}
	return NULL;
}

/* Is there another that is empty? One is kept, for who comes and goes. */
static bool djp_chunk_is_spare(const struct djp_chunk *chunk)
{
	const struct djp_chunk *other;

	if (chunk->placed)
		return true;
	list_for_each_entry(other, &djp_chunks, node) {
		if (other != chunk && !other->placed &&
		    other->free == other->grains)
			return true;
	}
	return false;
}

/**
 * djp_slot_free() - give back what djp_slot_alloc() gave
 * @slot: the slot; nothing can reach it, and it is filled with int3
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_slot_free(const struct djp_slot *slot)
{
	struct djp_chunk *chunk = djp_chunk_of(slot->addr);
	unsigned int nr = slot->size / DJP_GRAIN;

	djp_stats.detour_bytes_live -= slot->size;
	if (WARN_ON_ONCE(!chunk))
		return;
	bitmap_clear(chunk->bits, (slot->addr - chunk->mem) / DJP_GRAIN, nr);
	chunk->free += nr;
	chunk->fails = UINT_MAX;
	if (chunk->free == chunk->grains && djp_chunk_is_spare(chunk))
		djp_chunk_drop(chunk);
}

/**
 * djp_slots_exit() - free the executable memory
 *
 * Context: module unload; no detour is left.
 */
void djp_slots_exit(void)
{
	struct djp_chunk *chunk, *tmp;

	list_for_each_entry_safe(chunk, tmp, &djp_chunks, node)
		djp_chunk_drop(chunk);
}
