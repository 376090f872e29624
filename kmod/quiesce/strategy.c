// SPDX-License-Identifier: GPL-2.0
/*
 * The list of strategies and the current one.
 */
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/* The best first: "auto" is the first sound one that the kernel offers. */
static const struct djp_strategy * const djp_strategies[] = {
	&djp_rendezvous,
	&djp_fixup,
	&djp_stackscan,
	&djp_freezer,
	&djp_rcu_tasks,
	&djp_none,
	&djp_freeze_only,
};

/* NULL for "auto". Each look of a commit reads it once. */
static const struct djp_strategy *djp_chosen;

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
 * djp_strategy_auto() - the best sound one that this kernel offers
 *
 * "stackscan" needs nothing, so there always is one.
 */
const struct djp_strategy *djp_strategy_auto(void)
{
	const struct djp_strategy *strategy;
	unsigned int i;

	for (i = 0; (strategy = djp_strategy_nth(i)); i++) {
		if (strategy->offered())
			return strategy;
	}
	return &djp_stackscan;
}

/**
 * djp_strategy_is_auto() - is it left to us?
 */
bool djp_strategy_is_auto(void)
{
	return !READ_ONCE(djp_chosen);
}

/**
 * djp_strategy_current() - the one in use
 */
const struct djp_strategy *djp_strategy_current(void)
{
	return READ_ONCE(djp_chosen) ?: djp_strategy_auto();
}

/**
 * djp_strategy_choose() - use another strategy, from the next look on
 * @name: its name, or "auto"
 *
 * Return: 0; -ENOENT if there is none of this name; -EOPNOTSUPP if this kernel
 * does not offer it.
 */
int djp_strategy_choose(const char *name)
{
	const struct djp_strategy *strategy;
	unsigned int i;

	if (!strcmp(name, "auto")) {
		WRITE_ONCE(djp_chosen, NULL);
		return 0;
	}
	for (i = 0; (strategy = djp_strategy_nth(i)); i++) {
		if (strcmp(strategy->name, name))
			continue;
		if (!strategy->offered())
			return -EOPNOTSUPP;
		WRITE_ONCE(djp_chosen, strategy);
		return 0;
	}
	return -ENOENT;
}
