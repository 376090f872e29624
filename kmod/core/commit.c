// SPDX-License-Identifier: GPL-2.0
/*
 * Commits: one quiescence for all sites that wait for their jump and for all
 * detours that wait to be freed.
 *
 * A commit is bounded and may be partial. What could not be proven stays as it
 * is - a bypass fires, a retired detour costs memory - and is tried again in the
 * background, less and less often.
 */
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/workqueue.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

#define DJP_RETRY_MIN	msecs_to_jiffies(100)
#define DJP_RETRY_MAX	msecs_to_jiffies(10000)

/* This much retired memory is reclaimed without being asked. */
#define DJP_RECLAIM_BYTES	(64 << 10)

DEFINE_MUTEX(djp_commit_mutex);

/* djp_mutex guards both. */
static LIST_HEAD(djp_retired);
static unsigned long djp_retry_delay;

static void djp_retry(struct work_struct *work);
static DECLARE_DELAYED_WORK(djp_retry_work, djp_retry);

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
	list_add_tail(&detour->retired_node, &djp_retired);
	djp_stats.detour_bytes_live -= detour->slot.size;
	djp_stats.detour_bytes_retired += detour->slot.size;
	if (djp_stats.detour_bytes_retired >= DJP_RECLAIM_BYTES)
		queue_delayed_work(system_long_wq, &djp_retry_work,
				   DJP_RETRY_MIN);
}

static int djp_scrub(void *data)
{
	struct list_head *detours = data;
	struct djp_detour *detour;

	list_for_each_entry(detour, detours, retired_node) {
		djp_detour_scrub(detour);
		cond_resched();
	}
	return 0;
}

/* Free retired detours; or, if the text can't be written now, leave them retired. */
static void djp_reclaim(struct list_head *detours)
{
	struct djp_detour *detour, *tmp;

	if (list_empty(detours))
		return;
	if (djp_text_do(djp_scrub, detours)) {
		list_splice(detours, &djp_retired);
		return;
	}
	list_for_each_entry_safe(detour, tmp, detours, retired_node) {
		djp_stats.detour_bytes_retired -= detour->slot.size;
		djp_stats.detour_bytes_live += detour->slot.size;
		djp_stats.detours_reclaimed++;
		djp_detour_free(detour);
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

	list_for_each_entry(detour, &djp_retired, retired_node) {
		for (i = 0; i < detour->nr_actions; i++) {
			struct djprobe *p = detour->actions[i].handler_of;

			if (!p || !(p->flags & (DJPROBE_FLAG_DISABLED |
						DJPROBE_FLAG_GONE |
						DJP_PROBE_LEAVING)))
				continue;
			WRITE_ONCE(detour->actions[i].handler_of, NULL);
			cleared = true;
		}
	}
	if (cleared)
		synchronize_rcu();
}

static int djp_danger_cmp(const void *a, const void *b)
{
	const struct djp_danger *da = a, *db = b;

	return da->start < db->start ? -1 : da->start > db->start;
}

/*
 * The JTPR of a site: but for its traps, where whoever goes on meets an int3 and
 * is sent to the detour.
 */
static unsigned int djp_danger_site(struct djp_danger *dangers,
				    struct djp_site *site)
{
	unsigned long addr = site->dcr.addr;
	unsigned int k, from = 1, n = 0;

	for (k = 1; k <= site->dcr.len; k++) {
		bool trap = k < DJP_JMP32_LEN && (site->dcr.traps & BIT(k));

		if (k < site->dcr.len && !trap)
			continue;
		if (k > from) {
			dangers[n].start = addr + from;
			dangers[n].end = addr + k;
			dangers[n].site = site;
			n++;
		}
		from = k + 1;
	}
	return n;
}

/* What nobody may stand in: the JTPRs of sites in bypass; retired detours. */
static struct djp_danger *djp_dangers(unsigned int *nr)
{
	struct djp_danger *dangers;
	struct djp_detour *detour;
	struct djp_site *site;
	unsigned int n = 0;

	list_for_each_entry(site, &djp_sites, node) {
		if (djp_awaits_jump(site))
			n += 1 + hweight8(site->dcr.traps);
	}
	list_for_each_entry(detour, &djp_retired, retired_node)
		n++;
	dangers = kvcalloc(max(n, 1u), sizeof(*dangers), GFP_KERNEL);
	if (!dangers)
		return NULL;

	n = 0;
	list_for_each_entry(site, &djp_sites, node) {
		if (djp_awaits_jump(site))
			n += djp_danger_site(&dangers[n], site);
	}
	list_for_each_entry(detour, &djp_retired, retired_node) {
		dangers[n].start = detour->text;
		dangers[n].end = detour->text + detour->len;
		dangers[n].detour = detour;
		n++;
	}
	sort(dangers, n, sizeof(*dangers), djp_danger_cmp, NULL);
	*nr = n;
	return dangers;
}

/*
 * A task in a detour that was retired but not proven empty will yet jump to the
 * byte behind the old DCR. If that is in the JTPR of a newer site, which may
 * start inside the old DCR, the newer site has to wait.
 */
static void djp_mark_landings(void)
{
	struct djp_detour *detour;
	struct djp_site *site;

	list_for_each_entry(detour, &djp_retired, retired_node) {
		site = djp_site_overlap(detour->back, 1);
		if (site && site->dcr.addr != detour->back)
			site->deferred = true;
	}
}

static void djp_settle_dangers(struct djp_danger *dangers, unsigned int nr,
			       bool proven)
{
	LIST_HEAD(proven_empty);
	struct djp_site *site;
	unsigned int i;

	/* Of a site's dangers each one may defer it. */
	list_for_each_entry(site, &djp_sites, node)
		site->deferred = false;
	for (i = 0; i < nr; i++) {
		bool busy = !proven || dangers[i].busy;

		if (dangers[i].site)
			dangers[i].site->deferred |= busy;
		else if (!busy)
			list_move(&dangers[i].detour->retired_node,
				  &proven_empty);
	}
	djp_reclaim(&proven_empty);
	djp_mark_landings();
}

/* Write the jumps of all sites in bypass that are not deferred. */
static int djp_jump(void)
{
	struct djp_poke *pokes;
	struct djp_site *site;
	int nr = 0, busy, i;

	list_for_each_entry(site, &djp_sites, node)
		nr += djp_awaits_jump(site) && !site->deferred;
	pokes = kvcalloc(max(nr, 1), sizeof(*pokes), GFP_KERNEL);
	if (!pokes)
		return -ENOMEM;

	nr = 0;
	list_for_each_entry(site, &djp_sites, node) {
		struct djp_poke *poke = &pokes[nr];

		if (!djp_awaits_jump(site) || site->deferred)
			continue;
		poke->site = site;
		poke->tail = site->dcr.len - 1;
		poke->first = true;
		djp_site_text(site, poke->expect);
		djp_jump_text(site, site->detour, poke->text);
		nr++;
	}
	busy = djp_poke_all(pokes, nr, false);
	for (i = 0; i < nr; i++) {
		site = pokes[i].site;
		if (busy || pokes[i].foreign) {
			site->deferred = true;
			continue;
		}
		site->state = DJP_JUMP;
		djp_stats.sites_jump++;
		djp_stats.patched++;
	}
	kvfree(pokes);
	return 0;
}

static unsigned long djp_count_bypass(void)
{
	struct djp_site *site;
	unsigned long nr = 0;

	list_for_each_entry(site, &djp_sites, node)
		nr += djp_awaits_jump(site);
	return nr;
}

static void djp_record(const struct djp_proof *proof, u64 begin)
{
	djp_stats.last_stop_ns = proof->stop_ns;
	djp_stats.max_stop_ns = max(djp_stats.max_stop_ns, proof->stop_ns);
	djp_stats.last_quiescence_ns = ktime_get_ns() - begin;
	djp_stats.last_tasks = proof->tasks;
	djp_stats.last_words = proof->words;
	if (proof->nr_busy)
		pr_info("commit: %u of %u regions busy; %s[%d] is at %pS\n",
			proof->nr_busy, proof->nr, proof->blocker.comm,
			proof->blocker.pid, (void *)proof->blocker.addr);
}

static void djp_retry_later(bool again, bool was_retry)
{
	if (!again) {
		djp_retry_delay = 0;
		return;
	}
	djp_retry_delay = was_retry ?
		min(djp_retry_delay * 2, DJP_RETRY_MAX) : DJP_RETRY_MIN;
	mod_delayed_work(system_long_wq, &djp_retry_work, djp_retry_delay);
}

/**
 * djp_commit_locked() - one quiescence, and what it allows
 * @retry: asked for by nobody but the last partial commit
 *
 * Context: djp_commit_mutex held, djp_mutex not. May sleep for as long as the
 * freezer needs. A user task must be able to be frozen elsewhere: nobody may
 * wait uninterruptibly for djp_commit_mutex.
 * Return: how many sites are left in bypass, or a negative errno.
 */
int djp_commit_locked(bool retry)
{
	const struct djp_strategy *strategy = djp_strategy_current();
	struct djp_proof proof = { };
	u64 begin = ktime_get_ns();
	bool begun;
	int ret;

	/* Do not freeze everybody for nothing. */
	mutex_lock(&djp_mutex);
	if (!djp_count_bypass() && list_empty(&djp_retired)) {
		djp_stats.commits += !retry;
		djp_stats.deferred = 0;
		mutex_unlock(&djp_mutex);
		return 0;
	}
	mutex_unlock(&djp_mutex);

	/*
	 * The scan alone is the proof. In the background it does without what
	 * the strategy would do to the rest of the system before it.
	 */
	ret = djp_exiting_settle();
	begun = !ret && (retry || !strategy->begin());

	mutex_lock(&djp_mutex);
	proof.dangers = djp_dangers(&proof.nr);
	ret = -ENOMEM;
	if (proof.dangers)
		ret = !begun ? -EBUSY : retry ? djp_stop_and_scan(&proof) :
			strategy->prove(&proof);
	if (proof.dangers)
		djp_settle_dangers(proof.dangers, proof.nr, !ret);
	/* Nobody can enter a JTPR behind its int3: it stays as it was proven. */
	if (begun && !retry)
		strategy->end();
	if (!ret)
		ret = djp_jump();

	djp_record(&proof, begin);
	djp_stats.commits += !retry;
	djp_stats.retries += retry;
	djp_stats.deferred = djp_count_bypass();
	djp_stats.commits_partial += !retry && djp_stats.deferred;
	djp_retry_later(djp_stats.deferred || !list_empty(&djp_retired), retry);
	/* What could not be proven now is partial, not an error. */
	if (ret != -ENOMEM)
		ret = djp_stats.deferred;
	mutex_unlock(&djp_mutex);
	kvfree(proof.dangers);
	return ret;
}

static void djp_retry(struct work_struct *work)
{
	mutex_lock(&djp_commit_mutex);
	djp_commit_locked(true);
	mutex_unlock(&djp_commit_mutex);
}

/**
 * djp_commit_exit() - free every retired detour
 *
 * Waits until no task stands in one, for as long as that takes: memory in use is
 * not freed. Every 10 s at the latest the log says who is waited for.
 *
 * Context: module unload; no probe is left.
 */
void djp_commit_exit(void)
{
	while (true) {
		bool empty;

		cancel_delayed_work_sync(&djp_retry_work);
		mutex_lock(&djp_mutex);
		empty = list_empty(&djp_retired);
		mutex_unlock(&djp_mutex);
		if (empty)
			return;
		djp_retry(NULL);
		schedule_timeout_uninterruptible(max(djp_retry_delay, 1ul));
	}
}
