/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a probe does when it is hit: its options, and the memory that it counts in.
 */
#ifndef _DJP_ACTIONS_H
#define _DJP_ACTIONS_H

#include <linux/atomic.h>
#include <linux/refcount.h>
#include <linux/types.h>

struct pt_regs;
struct seq_file;

/* Numbers of registers, as instructions have them. */
#define DJP_REG_SP	4
#define DJP_NR_REGS	16

/**
 * struct djp_field - a value that a hit comes with: of a register, or where one points
 * @reg: the register's number
 * @size: bytes of the value: 1, 2, 4 or 8; 0 if there is no field
 * @sign: it is signed
 * @deref: it is in memory, at the register's value plus @off
 * @off: bytes
 */
struct djp_field {
	u8	reg;
	u8	size;
	bool	sign;
	bool	deref;
	s32	off;
};

enum djp_op {
	DJP_OP_EQ,
	DJP_OP_NE,
	DJP_OP_LT,
	DJP_OP_LE,
	DJP_OP_GT,
	DJP_OP_GE,
	DJP_OP_AND,
	DJP_NR_OPS
};

enum djp_by {
	DJP_BY_NONE,
	DJP_BY_CPU,
	DJP_BY_PID,
	DJP_BY_COMM,
	DJP_NR_BY
};

#define DJP_SAMPLE_MAX	32768

/**
 * struct djp_options - what a probe does beyond counting
 * @cond: what @op compares; none if its size is 0
 * @op: how
 * @value: with what, extended to 64 bits as @cond is
 * @hist: what a histogram is made of; none if its size is 0
 * @sample: one hit in so many counts; 0 for each
 * @by: what the hits are split by
 * @once: one hit, and that is all
 * @soft: enabled and disabled by a flag that the detour reads
 */
struct djp_options {
	struct djp_field	cond;
	enum djp_op		op;
	u64			value;
	struct djp_field	hist;
	u32			sample;
	enum djp_by		by;
	bool			once;
	bool			soft;
};

/* By powers of two: bucket k is for values of k bits. */
#define DJP_HIST_BUCKETS	65

/* Keys that a map has room for on each CPU. */
#define DJP_MAP_KEYS	1024

struct djp_map;
struct djp_counter_block;

/**
 * struct djp_extra - what a counter has for a probe with options
 * @options: which
 * @in_c: they need more than a detour does by itself
 * @sample: the slot in which samples are counted off; 0 if none
 * @soft: the slot with the flag; 0 if none
 * @hist: the first slot of the histogram; 0 if none
 * @fired: bit 0: @options.once, and the hit has been
 * @missed: hits that were refused as recursion
 * @unreadable: hits whose field could not be read
 * @map: hits by task, or NULL
 */
struct djp_extra {
	struct djp_options	options;
	bool			in_c;
	u8			sample;
	u8			soft;
	u8			hist;
	unsigned long		fired;
	atomic_long_t		missed;
	atomic_long_t		unreadable;
	struct djp_map		*map;
};

/**
 * struct djp_counter - u64s on every CPU; the first counts the hits
 * @slot: the per-CPU pointer to the first
 * @block: where they were allocated
 * @extra: what options need, or NULL
 * @refs: the probe, and each detour that increments it: a retired detour may
 *	still do so until it is reclaimed
 * @nr: how many
 */
struct djp_counter {
	u64 __percpu			*slot;
	struct djp_counter_block	*block;
	struct djp_extra		*extra;
	refcount_t			refs;
	unsigned int			nr;
};

/**
 * djp_sample_step() - what each hit adds, so that a u64 overflows at each Nth
 * @every: N, 2 to DJP_SAMPLE_MAX
 *
 * If N is no power of two the step is rounded up, and each overflow leaves less than N in
 * it; to take that out again would be a second instruction, which a task that is moved to
 * another CPU in between would do there. So a sample comes one hit early after 2^64 / N^2
 * of them: for the largest N that is when a CPU has had 2^49 hits.
 */
static inline u64 djp_sample_step(u32 every)
{
	return ~0ull / every + 1;
}

/* actions/counter.c */
struct djp_counter *djp_counter_alloc(const struct djp_options *options);
void djp_counter_get(struct djp_counter *counter);
void djp_counter_put(struct djp_counter *counter);
bool djp_counter_near(const struct djp_counter *counter);
u64 djp_counter_sum(const struct djp_counter *counter, unsigned int slot);
void djp_counter_switch(struct djp_counter *counter, bool on);
void djp_counters_show(struct seq_file *m);
void djp_counters_exit(void);

/* actions/run.c */
void djp_count_hit(struct djp_counter *counter, const struct pt_regs *regs);

/* actions/map.c */
struct djp_map *djp_map_alloc(enum djp_by by);
void djp_map_free(struct djp_map *map);
void djp_map_hit(struct djp_map *map);
int djp_map_show(struct seq_file *m, const char *name, const struct djp_map *map);

static inline bool djp_is_once(const struct djp_counter *counter)
{
	return counter->extra && counter->extra->options.once;
}

static inline bool djp_is_soft(const struct djp_counter *counter)
{
	return counter->extra && counter->extra->options.soft;
}

#endif /* _DJP_ACTIONS_H */
