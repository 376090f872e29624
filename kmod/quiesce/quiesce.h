/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Quiescence: the proof that no CPU and no task stands in a range of addresses.
 */
#ifndef _DJP_QUIESCE_H
#define _DJP_QUIESCE_H

#include <linux/sched.h>
#include <linux/types.h>

struct djp_detour;
struct djp_site;

/**
 * struct djp_danger - addresses that nobody may stand in or return to
 * @start: first byte
 * @end: one behind the last byte
 * @busy: set if a task was found there, or could not be proven elsewhere
 * @site: if it is a JTPR, whose
 * @detour: if it is a retired detour, which
 */
struct djp_danger {
	unsigned long		start;
	unsigned long		end;
	bool			busy;
	struct djp_site		*site;
	struct djp_detour	*detour;
};

/**
 * struct djp_blocker - who was found in a danger
 * @addr: the word that was found
 * @pid: its task
 * @comm: its task's name
 */
struct djp_blocker {
	unsigned long	addr;
	pid_t		pid;
	char		comm[TASK_COMM_LEN];
};

/**
 * struct djp_proof - one quiescence
 * @dangers: what to look for, sorted by @start, not overlapping
 * @nr: how many
 * @tasks: how many tasks were looked at
 * @words: how many words of their stacks
 * @nr_busy: how many of @dangers are busy
 * @blocker: the first that was found, if @nr_busy
 * @stop_ns: how long the machine was stopped
 */
struct djp_proof {
	struct djp_danger	*dangers;
	unsigned int		nr;
	unsigned long		tasks;
	unsigned long		words;
	unsigned int		nr_busy;
	struct djp_blocker	blocker;
	u64			stop_ns;
};

/**
 * struct djp_strategy - one way to obtain quiescence
 * @name: as users write it
 * @offered: can this kernel do it?
 * @begin: make ready. No lock of ours but djp_commit_mutex is held; may take
 *	long. 0 or a negative errno, and then @end is not called
 * @prove: fill in @busy of all dangers. djp_mutex is held. 0, or a negative
 *	errno if nothing was proven
 * @end: undo @begin
 */
struct djp_strategy {
	const char	*name;
	bool (*offered)(void);
	int (*begin)(void);
	int (*prove)(struct djp_proof *proof);
	void (*end)(void);
};

extern const struct djp_strategy djp_freezer;
extern const struct djp_strategy djp_none;
extern const struct djp_strategy djp_freeze_only;

/* quiesce/strategy.c */
const struct djp_strategy *djp_strategy_current(void);
const struct djp_strategy *djp_strategy_nth(unsigned int i);
int djp_strategy_choose(const char *name);
int djp_strategy_init(void);

/* quiesce/scan.c */
int djp_stop_and_scan(struct djp_proof *proof);

/* quiesce/exiting.c */
int djp_exiting_init(void);
void djp_exiting_exit(void);
int djp_exiting_settle(void);
bool djp_exiting_complete(void);
void djp_exiting_each(void (*fn)(struct task_struct *task, void *data),
		      void *data);

#endif /* _DJP_QUIESCE_H */
