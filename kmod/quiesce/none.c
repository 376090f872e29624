// SPDX-License-Identifier: GPL-2.0
/*
 * Strategies that are wrong, for tests that have to see them go wrong.
 *
 * "none" patches at once. "freeze_only" (freezer.c) trusts the freezer, which leaves
 * kernel threads running. Both crash kernels, and are offered only if the module was
 * loaded with unsafe=1.
 */
#include <linux/module.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

bool djp_unsafe;
module_param_named(unsafe, djp_unsafe, bool, 0400);
MODULE_PARM_DESC(unsafe, "offer strategies that crash kernels, for tests (default: no)");

static bool djp_none_offered(void)
{
	return djp_unsafe;
}

static int djp_none_prove(struct djp_proof *proof)
{
	return 0;
}

const struct djp_strategy djp_none = {
	.name = "none",
	.offered = djp_none_offered,
	.prove = djp_none_prove,
};
