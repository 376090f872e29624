/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel's own probes would make of an instruction: x86/mainline.c.
 */
#ifndef _DJP_MAINLINE_H
#define _DJP_MAINLINE_H

#include <linux/types.h>

struct djp_textmap;

/* The same bits as in the flags of a judgement, docs/debugfs.md. */
#define DJP_PEER_KPROBE		0x04	/* register_kprobe() accepts it */
#define DJP_PEER_OPTPROBE	0x08	/* and the kprobe becomes a jump */

/**
 * struct djp_mainline - what the kernel's rules ask of one function
 * @start: its first byte
 * @end: one behind its last byte
 * @facts: a byte for each of its bytes, and one more: DJP_FACT_* of mainline.c
 * @size: of @facts, bytes
 * @optimizable: nothing in the function forbids jumps in all of it
 * @map: the text map that it is in; may be gone once djp_mutex was let go
 * @part: the id of the text map that the tables below are of, 0 if they are not made
 * @taken: sorted addresses of its jump labels, static calls and bug entries
 * @nr_taken: how many
 * @blacklist: kprobes' blacklist; one entry is two words, first byte and one
 *	behind the last
 * @nr_blacklist: how many entries
 * @names: sorted hashes of the names of all symbols on the blacklist
 * @nr_names: how many
 *
 * Zeroed before it is first used. All of it belongs to mainline.c and
 * mainline_tables.c.
 */
struct djp_mainline {
	unsigned long		start;
	unsigned long		end;
	u8			*facts;
	size_t			size;
	bool			optimizable;
	const struct djp_textmap *map;
	unsigned int		part;
	unsigned long		*taken;
	unsigned int		nr_taken;
	unsigned long		(*blacklist)[2];
	unsigned int		nr_blacklist;
	u32			*names;
	unsigned int		nr_names;
};

/* x86/mainline.c */
int djp_mainline_enter(struct djp_mainline *m, unsigned long start,
		       unsigned long end);
unsigned int djp_mainline_judge(const struct djp_mainline *m,
				unsigned long addr);
void djp_mainline_leave(struct djp_mainline *m);

/* x86/mainline_tables.c */
int djp_mainline_know(struct djp_mainline *m, unsigned long addr);
bool djp_mainline_listed_by_name(const struct djp_mainline *m);
void djp_mainline_forget(struct djp_mainline *m);

#endif /* _DJP_MAINLINE_H */
