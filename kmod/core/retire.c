// SPDX-License-Identifier: GPL-2.0
/*
 * Detours that nothing reaches any more, and their end.
 *
 * Tasks may still stand in one, or return to it. Commits find out (core/commit.c),
 * and those that nobody is in are freed. To look costs the same for one as for
 * thousands: so it is done for many together, or when the oldest is old enough, or
 * when a commit looks anyway.
 *
 * Each holds a reference to this module: memory in use is not freed, and unloading
 * refuses instead of waiting for a task that may be preempted for ever.
 */
#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "core/internal.h"
#include "x86/x86.h"

static unsigned int djp_reclaim_batch = 1000;
module_param_named(reclaim_batch, djp_reclaim_batch, uint, 0644);
MODULE_PARM_DESC(reclaim_batch, "free retired detours when there are so many (default: 1000)");

static unsigned int djp_reclaim_age_ms = 10000;
module_param_named(reclaim_age_ms, djp_reclaim_age_ms, uint, 0644);
MODULE_PARM_DESC(reclaim_age_ms, "or when one was retired so many milliseconds ago (default: 10000)");

/* The oldest first. djp_mutex guards it. */
static LIST_HEAD(djp_retired);
/* How many of them call something. */
static unsigned long djp_retired_callers;

/* Then it has its own address before its first instruction. */
static bool djp_calls(const struct djp_detour *detour)
{
	return detour->size != detour->len;
}

/**
 * djp_retired_list() - all retired detours
 *
 * Context: djp_mutex held.
 * Return: the list, through djp_detour.retired_node, the oldest first.
 */
struct list_head *djp_retired_list(void)
{
	return &djp_retired;
}

/**
 * djp_retired_due() - when are retired detours to be looked for?
 *
 * Context: djp_mutex held.
 * Return: how many jiffies from now; -1 if there are none.
 */
long djp_retired_due(void)
{
	const struct djp_detour *oldest;
	s32 due;

	oldest = list_first_entry_or_null(&djp_retired, struct djp_detour,
					  retired_node);
	if (!oldest)
		return -1;
	if (djp_stats.detours_retired >= READ_ONCE(djp_reclaim_batch) ||
	    !djp_stats.sites)
		return 0;
	/* As far as they fit. */
	due = oldest->retired_at + (u32)msecs_to_jiffies(READ_ONCE(djp_reclaim_age_ms)) - (u32)jiffies;
	return max(due, 0);
}

/**
 * djp_retire() - nothing reaches a detour any more
 * @detour: the detour, or NULL. Freed by a later commit
 *
 * Context: djp_mutex held, after djp_text_sync().
 */
void djp_retire(struct djp_detour *detour)
{
	if (!detour)
		return;
	__module_get(THIS_MODULE);
	detour->seq = ++djp_sequence;
	detour->retired_at = jiffies;
	list_add_tail(&detour->retired_node, &djp_retired);
	djp_stats.detours_retired++;
	djp_retired_callers += djp_calls(detour);
	djp_stats.detour_bytes_live -= detour->slot.size;
	djp_stats.detour_bytes_retired += detour->slot.size;
	djp_sweep_soon();
}

static int djp_scrub(void *data)
{
	struct list_head *detours = data;
	struct djp_detour *detour;

	list_for_each_entry(detour, detours, retired_node) {
		djp_detour_scrub(detour);
		cond_resched();
	}
	djp_text_flush();
	return 0;
}

static int djp_detour_cmp(void *priv, const struct list_head *a,
			  const struct list_head *b)
{
	return list_entry(a, struct djp_detour, retired_node)->slot.addr >
		list_entry(b, struct djp_detour, retired_node)->slot.addr;
}

/**
 * djp_reclaim() - free retired detours
 * @detours: those that nobody is in, off the list of all
 * @patience: how long to wait for the text locks, jiffies
 *
 * If the text can't be written now they stay retired.
 *
 * Context: djp_commit_mutex and djp_mutex held, may sleep.
 */
void djp_reclaim(struct list_head *detours, long patience)
{
	struct djp_detour *detour, *tmp;

	if (list_empty(detours))
		return;
	/* So that they are written from front to back, see djp_text_put(). */
	list_sort(NULL, detours, djp_detour_cmp);
	if (djp_text_do(djp_scrub, detours, patience)) {
		list_splice(detours, &djp_retired);
		return;
	}
	list_for_each_entry_safe(detour, tmp, detours, retired_node) {
		djp_stats.detours_retired--;
		djp_retired_callers -= djp_calls(detour);
		djp_stats.detour_bytes_retired -= detour->slot.size;
		djp_stats.detour_bytes_live += detour->slot.size;
		djp_stats.detours_reclaimed++;
		/* In place of the list: it has been written. */
		list_del(&detour->retired_node);
		detour->code = NULL;
		djp_detour_free(detour);
		module_put(THIS_MODULE);
	}
}

/**
 * djp_retired_silence() - no retired detour calls an unwanted handler again
 *
 * Unwanted are those of probes that are disabled, leaving or gone. When this
 * returns, none of them is running.
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_retired_silence(void)
{
	struct djp_detour *detour;
	bool cleared = false;
	unsigned int i;

	if (!djp_retired_callers)
		return;
	list_for_each_entry(detour, &djp_retired, retired_node) {
		for (i = 0; i < detour->nr_actions; i++) {
			struct djprobe *p = detour->actions[i].handler_of;

			if (!p || !(p->flags & (DJPROBE_FLAG_DISABLED |
						DJPROBE_FLAG_GONE |
						DJP_PROBE_LEAVING)))
				continue;
			djp_silence(&detour->actions[i]);
			cleared = true;
		}
	}
	if (cleared)
		synchronize_rcu();
}
