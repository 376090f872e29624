// SPDX-License-Identifier: GPL-2.0
/*
 * The list of strategies and the current one.
 */
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

static const struct djp_strategy * const djp_strategies[] = {
	&djp_freezer,
	&djp_none,
	&djp_freeze_only,
};

/* djp_commit_mutex guards it. */
static const struct djp_strategy *djp_current;

/**
 * djp_strategy_nth() - enumerate what this kernel offers and what it does not
 * @i: from 0 on
 *
 * Return: a strategy, or NULL behind the last.
 */
const struct djp_strategy *djp_strategy_nth(unsigned int i)
{
	return i < ARRAY_SIZE(djp_strategies) ? djp_strategies[i] : NULL;
}

/**
 * djp_strategy_current() - the one in use
 *
 * Context: djp_commit_mutex held.
 */
const struct djp_strategy *djp_strategy_current(void)
{
	return djp_current;
}

/**
 * djp_strategy_choose() - use another strategy from the next commit on
 * @name: its name
 *
 * Context: djp_commit_mutex held.
 * Return: 0; -ENOENT if there is none of this name; -EOPNOTSUPP if this kernel
 * does not offer it.
 */
int djp_strategy_choose(const char *name)
{
	const struct djp_strategy *strategy;
	unsigned int i;

	for (i = 0; (strategy = djp_strategy_nth(i)); i++) {
		if (strcmp(strategy->name, name))
			continue;
		if (!strategy->offered())
			return -EOPNOTSUPP;
		djp_current = strategy;
		return 0;
	}
	return -ENOENT;
}

/**
 * djp_strategy_init() - choose the first strategy that this kernel offers
 *
 * Context: module load.
 * Return: 0, or -EOPNOTSUPP if there is none.
 */
int djp_strategy_init(void)
{
	const struct djp_strategy *strategy;
	unsigned int i;

	for (i = 0; (strategy = djp_strategy_nth(i)); i++) {
		if (strategy->offered()) {
			djp_current = strategy;
			return 0;
		}
	}
	pr_err("this kernel offers no quiescence strategy (no freeze_processes?)\n");
	return -EOPNOTSUPP;
}
