/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Quiescence: the proof that no CPU and no task stands in a range of addresses.
 */
#ifndef _DJP_QUIESCE_H
#define _DJP_QUIESCE_H

#include <linux/atomic.h>
#include <linux/sched.h>
#include <linux/types.h>

struct djp_detour;
struct djp_scan;

/**
 * struct djp_danger - addresses that nobody may stand in or return to
 * @start: first byte
 * @end: one behind the last byte
 * @busy: set if a task was found there, or could not be proven elsewhere
 * @reclaim: it is a retired detour; otherwise a JTPR
 * @site: the insertion address, of the site or of the detour's
 * @seq: djp_sequence of when nobody could come in any more
 * @detour: the retired detour; or the one that the site had. Not freed before
 *	the proof has ended, for it takes djp_commit_mutex
 */
struct djp_danger {
	unsigned long		start;
	unsigned long		end;
	bool			busy;
	bool			reclaim;
	unsigned long		site;
	u64			seq;
	struct djp_detour	*detour;
};

/**
 * struct djp_blocker - who was found in a danger
 * @site: the danger's
 * @reclaim: the danger's
 * @addr: the word that was found, or 0
 * @detour: where the detour that it is in begins, or 0
 * @pid: its task, 0 if none is known
 * @comm: its task's name
 */
struct djp_blocker {
	unsigned long	site;
	bool		reclaim;
	unsigned long	addr;
	unsigned long	detour;
	pid_t		pid;
	char		comm[TASK_COMM_LEN];
};

#define DJP_BLOCKERS_MAX 64

/**
 * struct djp_proof - one quiescence
 * @dangers: what to look for, sorted by @start, not overlapping
 * @nr: how many
 * @filter: a bit for each hash of 16 bytes of addresses, see djp_danger_at()
 * @filter_bits: log2 of how many
 * @gentle: leave the rest of the system alone: no freezing
 * @deadline: in jiffies; to be done by then
 * @tasks: how many tasks were looked at
 * @words: how many words of their stacks
 * @moved: how many tasks were moved
 * @nr_busy: how many of @dangers are busy
 * @blockers: who was found in them, the first of each
 * @nr_blockers: how many; may be more than there is room for
 * @stop_ns: how long a CPU was kept from its work, at most: by a stop of the
 *	machine, or by an interrupt
 */
struct djp_proof {
	struct djp_danger	*dangers;
	unsigned int		nr;
	unsigned long		*filter;
	unsigned int		filter_bits;
	bool			gentle;
	unsigned long		deadline;
	unsigned long		tasks;
	unsigned long		words;
	unsigned long		moved;
	unsigned int		nr_busy;
	struct djp_blocker	blockers[DJP_BLOCKERS_MAX];
	atomic_t		nr_blockers;
	u64			stop_ns;
};

/**
 * struct djp_strategy - one way to obtain quiescence
 * @name: as users write it
 * @offered: can this kernel do it?
 * @prove: set @busy of each danger that somebody is in. The int3s that keep
 *	others from entering have been seen by all CPUs before, and retired detours
 *	can't be reached any more; so it is enough to have seen each task and each
 *	CPU elsewhere once. djp_commit_mutex is held, djp_mutex is not; it may sleep
 *	until @deadline. 0, or a negative errno if nothing was proven
 */
struct djp_strategy {
	const char	*name;
	bool (*offered)(void);
	int (*prove)(struct djp_proof *proof);
};

extern bool djp_unsafe;
extern const struct djp_strategy djp_rendezvous;
extern const struct djp_strategy djp_fixup;
extern const struct djp_strategy djp_stackscan;
extern const struct djp_strategy djp_freezer;
extern const struct djp_strategy djp_rcu_tasks;
extern const struct djp_strategy djp_none;
extern const struct djp_strategy djp_freeze_only;

/* quiesce/strategy.c */
const struct djp_strategy *djp_strategy_current(void);
const struct djp_strategy *djp_strategy_auto(void);
const struct djp_strategy *djp_strategy_nth(unsigned int i);
bool djp_strategy_is_auto(void);
int djp_strategy_choose(const char *name);

/* quiesce/danger.c */
int djp_dangers_index(struct djp_proof *proof);
struct djp_danger *djp_danger_at(const struct djp_proof *proof,
				 unsigned long addr);
void djp_danger_mark(struct djp_proof *proof, struct djp_danger *danger,
		     const struct task_struct *task, unsigned long addr);
void djp_danger_mark_landing(struct djp_proof *proof,
			     const struct djp_detour *detour, unsigned long site);
void djp_proof_close(struct djp_proof *proof);
void djp_proof_free(struct djp_proof *proof);

/* quiesce/stack.c */
void djp_scan_begin(struct djp_scan *scan, struct djp_proof *proof,
		    bool moves);
void djp_scan_end(struct djp_scan *scan);
bool djp_scan_task(struct djp_scan *scan, struct task_struct *task,
		   unsigned long sp, bool mark);
unsigned long djp_scan_range(struct djp_scan *scan, struct task_struct *task,
			     unsigned long start, unsigned long end, bool mark);

/**
 * struct djp_scan - stacks are being looked at
 * @proof: what for
 * @optprobes: kprobes have buffers of optimised kprobes
 * @landing: a task in one of them, who may land in any JTPR
 * @landing_addr: the word that was found
 * @moves: tasks may be moved
 */
struct djp_scan {
	struct djp_proof	*proof;
	bool			optprobes;
	struct task_struct	*landing;
	unsigned long		landing_addr;
	bool			moves;
};

/* quiesce/stop.c */
int djp_stop_and_scan(struct djp_proof *proof);

/* quiesce/rendezvous.c */
int djp_rendezvous_idle(struct djp_proof *proof);
int djp_rendezvous_passed(unsigned long start, unsigned long end,
			  unsigned long deadline);

/* quiesce/rcu_tasks.c */
void djp_rcu_tasks_exit(void);

/* quiesce/exiting.c */
int djp_exiting_init(void);
void djp_exiting_exit(void);
int djp_exiting_settle(void);
bool djp_exiting_complete(void);
void djp_exiting_each(void (*fn)(struct task_struct *task, void *data),
		      void *data);

#endif /* _DJP_QUIESCE_H */
