// SPDX-License-Identifier: GPL-2.0
/*
 * Where AC and DF are known to be clear, so that a handler can be called as it is and
 * nothing is to be restored.
 *
 * By the ABI DF is clear at the entry of a function and behind its return (System V ABI
 * for x86-64, 3.2.1), and the kernel calls nothing but a few assembler routines while
 * access to user memory is open (tools/objtool/check.c, uaccess_safe_builtin, v6.1). So
 * they are clear in all of a function that a compiler made - it has an ftrace site - and
 * that does not set them itself. Its parts elsewhere, foo.cold, have no site.
 */
#include <linux/kernel.h>
#include <linux/slab.h>

#include "x86/textmap.h"

/* No memory to note one: it may be anywhere. */
#define DJP_STIRS_UNKNOWN	UINT_MAX
/* There is room for so many more each time. */
#define DJP_STIRS_ROOM		256

static bool djp_may_stir(const struct insn *insn)
{
	const u8 *op = insn->opcode.bytes;

	switch (op[0]) {
	case 0x9d:	/* popf */
	case 0xfd:	/* std */
		return true;
	case 0x0f:	/* stac */
		return op[1] == 0x01 && insn->modrm.bytes[0] == 0xcb;
	}
	return false;
}

/**
 * djp_stir_note() - look whether an instruction may set AC or DF
 * @map: the map that is being made, from front to back
 * @addr: where
 * @insn: the instruction; NULL if there is none that can be decoded
 *
 * Context: may sleep.
 */
void djp_stir_note(struct djp_textmap *map, unsigned long addr,
		   const struct insn *insn)
{
	u32 *more;

	if ((insn && !djp_may_stir(insn)) || map->nr_stirs == DJP_STIRS_UNKNOWN)
		return;
	if (!(map->nr_stirs % DJP_STIRS_ROOM)) {
		more = krealloc(map->stirs,
				(map->nr_stirs + DJP_STIRS_ROOM) * sizeof(*more),
				GFP_KERNEL);
		if (!more) {
			map->nr_stirs = DJP_STIRS_UNKNOWN;
			return;
		}
		map->stirs = more;
	}
	map->stirs[map->nr_stirs++] = addr - map->start;
}

/* Does anything in a range set AC or DF? */
static bool djp_stirs(const struct djp_textmap *map, unsigned long start,
		      unsigned long end)
{
	unsigned int lo = 0, hi = map->nr_stirs;

	if (map->nr_stirs == DJP_STIRS_UNKNOWN)
		return true;
	while (lo < hi) {	/* the first one from @start on */
		unsigned int mid = lo + (hi - lo) / 2;

		if (map->start + map->stirs[mid] < start)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < map->nr_stirs && map->start + map->stirs[lo] < end;
}

/**
 * djp_is_calm() - are AC and DF clear all over a function?
 * @place: the function
 *
 * Context: djp_mutex held.
 */
bool djp_is_calm(const struct djp_place *place)
{
	return place->ftrace && !djp_stirs(place->map, place->start, place->end);
}
