/* SPDX-License-Identifier: GPL-2.0 */
/*
 * djp_bench: functions that are called so often, and what others put into them, for
 * pyctl/bench. Driven through /sys/kernel/debug/djp_bench/.
 */
#ifndef _DJP_BENCH_H
#define _DJP_BENCH_H

#include <linux/linkage.h>
#include <linux/percpu.h>
#include <linux/types.h>

struct dentry;

/*
 * bench_text.S: each returns 42 for 39. Where the probe goes, nothing lives in the
 * flags, or CF does, or ZF; the last has an ftrace site at its entry.
 */
asmlinkage unsigned long djp_bench_dead(unsigned long x);
asmlinkage unsigned long djp_bench_carry(unsigned long x);
asmlinkage unsigned long djp_bench_live(unsigned long x);
asmlinkage unsigned long djp_bench_entry(unsigned long x);

/* bench_text.S: targets of a direct call from an ftrace site. */
asmlinkage void djp_bench_direct_count(void);
asmlinkage void djp_bench_direct_handler(void);

/* What every handler increments, and nothing else. */
DECLARE_PER_CPU(unsigned long, djp_bench_hits);

/**
 * struct djp_bench_function - one to be called
 * @name: without "djp_bench_", or the kernel's
 * @fn: the function
 * @point: of the probe, in bytes from its beginning
 * @want: what it returns
 */
struct djp_bench_function {
	const char	*name;
	unsigned long	(*fn)(unsigned long x);
	unsigned int	point;
	unsigned long	want;
};

/* bench.c */
const struct djp_bench_function *djp_bench_find(const char *name);
int djp_bench_point(const char *name, unsigned long *addr);
int djp_bench_read(char *buf, size_t size, const char __user *user, size_t len);
char *djp_bench_read_lines(const char __user *user, size_t len, size_t max);

/* bench_peer.c */
void djp_bench_peer_init(struct dentry *dir);
void djp_bench_peer_exit(void);

/* bench_entries.c */
void djp_bench_entries_init(struct dentry *dir);
void djp_bench_entries_exit(void);

/* bench_watch.c */
void djp_bench_watch_init(struct dentry *dir);
void djp_bench_watch_exit(void);

/* bench_rate.c */
int djp_bench_rate_init(struct dentry *dir);
void djp_bench_rate_exit(void);

#endif /* _DJP_BENCH_H */
