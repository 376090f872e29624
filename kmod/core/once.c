// SPDX-License-Identifier: GPL-2.0
/*
 * Probes for one hit: with the next batch, those that have had it go out of the text.
 */
#include <linux/slab.h>

#include "core/internal.h"

static bool djp_is_done(const struct djprobe *p)
{
	return djp_is_once(p->counter) && p->counter->extra->fired &&
		!(p->flags & (DJPROBE_FLAG_DISABLED | DJPROBE_FLAG_GONE));
}

/*
 * All that can be. Where somebody else's bytes are in the way a probe stays: it does not
 * count any more, and is tried again.
 */
static void djp_spend(struct djp_update *updates, int nr)
{
	struct djp_refusal refusal;

	while (nr && djp_update_locked(updates, nr, &refusal)) {
		if (refusal.reason != DJP_FOREIGN_TEXT)
			return;
		updates[refusal.index] = updates[--nr];
	}
}

/**
 * djp_once_settle() - take probes that have had their one hit out of the text
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_once_settle(void)
{
	struct djp_update *updates;
	struct djprobe *p;
	int nr = 0;

	if (!djp_stats.once)
		return;
	list_for_each_entry(p, &djp_probes, node)
		nr += djp_is_done(p);
	updates = nr ? kvcalloc(nr, sizeof(*updates), GFP_KERNEL) : NULL;
	if (!updates)
		return;
	nr = 0;
	list_for_each_entry(p, &djp_probes, node) {
		if (!djp_is_done(p))
			continue;
		updates[nr].probe = p;
		updates[nr++].change = DJP_SPEND;
	}
	djp_spend(updates, nr);
	kvfree(updates);
}
