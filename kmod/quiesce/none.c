// SPDX-License-Identifier: GPL-2.0
/*
 * Strategies that are wrong, for tests that have to see them go wrong.
 *
 * "none" patches at once. "freeze_only" trusts the freezer, which leaves kernel
 * threads running. Both crash kernels, and are offered only if the module was
 * loaded with unsafe=1.
 */
#include <linux/freezer.h>
#include <linux/module.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

static bool djp_unsafe;
module_param_named(unsafe, djp_unsafe, bool, 0400);
MODULE_PARM_DESC(unsafe, "offer strategies that crash kernels, for tests (default: no)");

static bool djp_none_offered(void)
{
	return djp_unsafe;
}

static bool djp_freeze_only_offered(void)
{
	return djp_unsafe && djp_freezer.offered();
}

static int djp_none_begin(void)
{
	return 0;
}

static int djp_none_prove(struct djp_proof *proof)
{
	return 0;
}

static void djp_none_end(void)
{
}

static int djp_freeze_only_begin(void)
{
	return djp_freezer.begin();
}

static void djp_freeze_only_end(void)
{
	djp_freezer.end();
}

const struct djp_strategy djp_none = {
	.name = "none",
	.offered = djp_none_offered,
	.begin = djp_none_begin,
	.prove = djp_none_prove,
	.end = djp_none_end,
};

const struct djp_strategy djp_freeze_only = {
	.name = "freeze_only",
	.offered = djp_freeze_only_offered,
	.begin = djp_freeze_only_begin,
	.prove = djp_none_prove,
	.end = djp_freeze_only_end,
};
