// SPDX-License-Identifier: GPL-2.0
/*
 * Commits: one quiescence for all sites that wait for their jump and for all
 * detours that wait to be freed.
 *
 * A commit takes down what nobody may stand in, lets go of djp_mutex, has the
 * strategy find out who does, and then writes the jumps of the sites and frees the
 * detours that nobody is in. It tries again, less and less often, until nothing is
 * left or its time is over; the rest is partial. What could not be proven stays as
 * it is - a bypass fires, a retired detour costs memory -, the file blockers says who
 * holds it up, and it is tried again in the background.
 *
 * No lock is held while it waits but djp_commit_mutex. Meanwhile probes come and go;
 * what was proven of a site holds if it is still the same, in the same bypass, which
 * its @seq tells. Detours are freed nowhere else.
 */
#include <linux/freezer.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

static unsigned int djp_deadline_ms = 2000;
module_param_named(deadline_ms, djp_deadline_ms, uint, 0644);
MODULE_PARM_DESC(deadline_ms, "how long a commit may take before it is partial, in milliseconds (default: 2000)");

/* Even if no time is left: what was proven is not to be lost. */
#define DJP_PATIENCE_MIN	msecs_to_jiffies(100)
/* Between two looks of one commit. */
#define DJP_PAUSE_MIN	msecs_to_jiffies(1)
#define DJP_PAUSE_MAX	msecs_to_jiffies(50)
/* Between two looks in the background, at what could not be done. */
#define DJP_RETRY_MIN	msecs_to_jiffies(100)
#define DJP_RETRY_MAX	msecs_to_jiffies(10000)

DEFINE_MUTEX(djp_commit_mutex);

/* djp_mutex guards all of them. */
static unsigned long djp_retry_delay;
static struct djp_blocker djp_last_blockers[DJP_BLOCKERS_MAX];
static unsigned int djp_nr_blockers;

/*
 * On an unbound queue: on a bound one it would stay behind whoever keeps that CPU
 * busy, with djp_commit_mutex held.
 */
static void djp_sweep(struct work_struct *work);
static DECLARE_DELAYED_WORK(djp_sweep_work, djp_sweep);

/*
 * The JTPR of a site: but for its traps, where whoever goes on meets an int3 and
 * is sent to the detour.
 */
static unsigned int djp_danger_site(struct djp_danger *dangers,
				    const struct djp_site *site)
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
			dangers[n].site = addr;
			dangers[n].seq = site->seq;
			dangers[n].detour = site->detour;
			n++;
		}
		from = k + 1;
	}
	return n;
}

/* Traps may leave nothing of a JTPR: then nobody can be in it. */
static bool djp_can_be_in(const struct djp_site *site)
{
	struct djp_danger dangers[DJP_JMP32_LEN];

	return djp_danger_site(dangers, site);
}

static int djp_site_cmp(void *priv, const struct list_head *a,
			const struct list_head *b)
{
	return list_entry(a, struct djp_site, node)->dcr.addr >
		list_entry(b, struct djp_site, node)->dcr.addr;
}

/* What nobody may stand in: the JTPRs of sites in bypass; retired detours. */
static int djp_dangers(struct djp_proof *proof)
{
	struct djp_danger *dangers;
	struct djp_detour *detour;
	struct djp_site *site;
	unsigned int n = 0;

	/* So that their text is written from front to back, see djp_text_put(). */
	list_sort(NULL, &djp_waiting, djp_site_cmp);
	list_for_each_entry(site, &djp_waiting, node)
		n += 1 + hweight8(site->dcr.traps);
	n += djp_stats.detours_retired;
	dangers = kvcalloc(max(n, 1u), sizeof(*dangers), GFP_KERNEL);
	if (!dangers)
		return -ENOMEM;

	n = 0;
	list_for_each_entry(site, &djp_waiting, node)
		n += djp_danger_site(&dangers[n], site);
	list_for_each_entry(detour, djp_retired_list(), retired_node) {
		dangers[n].start = detour->text;
		dangers[n].end = detour->text + detour->len;
		dangers[n].site = detour->addr;
		dangers[n].seq = detour->seq;
		dangers[n].detour = detour;
		dangers[n].reclaim = true;
		n++;
	}
	proof->dangers = dangers;
	proof->nr = n;
	return djp_dangers_index(proof);
}

/*
 * A task in a detour that was retired but not proven empty will yet jump to the
 * byte behind the old DCR. If that is in the JTPR of a newer site, which may
 * start inside the old DCR, the newer site has to wait.
 */
static void djp_mark_landings(struct djp_proof *proof)
{
	struct djp_detour *detour;
	struct djp_site *site;

	list_for_each_entry(detour, djp_retired_list(), retired_node) {
		unsigned long back = detour->addr + detour->dcr_len;

		site = djp_site_overlap(back, 1);
		if (!site || site->dcr.addr == back)
			continue;
		site->deferred = true;
		djp_danger_mark_landing(proof, detour, site->dcr.addr);
	}
}

/* The site that a danger is of, if it still is in the same bypass. */
static struct djp_site *djp_danger_still(const struct djp_danger *danger)
{
	struct djp_site *site = djp_site_find(danger->site);

	return site && site->seq == danger->seq && djp_awaits_jump(site) ?
		site : NULL;
}

/* How long to wait for those who keep us from writing text. */
static long djp_patience(const struct djp_proof *proof)
{
	return clamp_t(long, proof->deadline - jiffies, DJP_PATIENCE_MIN,
		       DJP_TEXT_PATIENCE);
}

static void djp_settle(struct djp_proof *proof)
{
	LIST_HEAD(empty);
	struct djp_site *site;
	unsigned int i;

	/* Those that came meanwhile have to wait for the next look. */
	list_for_each_entry(site, &djp_waiting, node)
		site->deferred = djp_can_be_in(site);
	for (i = 0; i < proof->nr; i++) {
		site = proof->dangers[i].reclaim ? NULL :
			djp_danger_still(&proof->dangers[i]);
		if (site)
			site->deferred = false;
	}
	/* Of a site's dangers each one may defer it. */
	for (i = 0; i < proof->nr; i++) {
		struct djp_danger *danger = &proof->dangers[i];

		site = danger->reclaim ? NULL : djp_danger_still(danger);
		if (site)
			site->deferred |= danger->busy;
		else if (danger->reclaim && !danger->busy)
			list_move_tail(&danger->detour->retired_node, &empty);
	}
	djp_reclaim(&empty, djp_patience(proof));
	djp_mark_landings(proof);
}

/* No task, but somebody's bytes are in the way, or nobody can write now. */
static void djp_name_foreign(struct djp_proof *proof, const struct djp_poke *poke,
			     bool busy)
{
	struct djp_danger danger = { .site = poke->site->dcr.addr };
	unsigned long addr = 0;

	if (!busy)
		djp_text_owner(poke, &addr);
	djp_danger_mark(proof, &danger, NULL, addr);
}

/* Write the jumps of all sites in bypass that are not deferred. */
static int djp_jump(struct djp_proof *proof)
{
	struct djp_poke *pokes;
	struct djp_site *site;
	int nr = 0, busy, i;

	list_for_each_entry(site, &djp_waiting, node)
		nr += !site->deferred;
	pokes = kvcalloc(max(nr, 1), sizeof(*pokes), GFP_KERNEL);
	if (!pokes)
		return -ENOMEM;

	nr = 0;
	list_for_each_entry(site, &djp_waiting, node) {
		struct djp_poke *poke = &pokes[nr];

		if (site->deferred)
			continue;
		poke->site = site;
		poke->tail = site->dcr.len - 1;
		poke->first = true;
		djp_site_text(site, poke->expect);
		djp_jump_text(site, site->detour, poke->text);
		nr++;
	}
	busy = djp_poke_all(pokes, nr, false, djp_patience(proof));
	for (i = 0; i < nr; i++) {
		site = pokes[i].site;
		if (busy || pokes[i].foreign) {
			site->deferred = true;
			djp_name_foreign(proof, &pokes[i], busy);
			continue;
		}
		site->state = DJP_JUMP;
		djp_site_file(site);
		djp_stats.sites_jump++;
		djp_stats.patched++;
	}
	kvfree(pokes);
	return 0;
}

static unsigned long djp_count_bypass(void)
{
	const struct djp_site *site;
	unsigned long nr = 0;

	list_for_each_entry(site, &djp_waiting, node)
		nr++;
	return nr;
}

static void djp_record(struct djp_proof *proof, u64 begin)
{
	djp_stats.last_stop_ns = max(djp_stats.last_stop_ns, proof->stop_ns);
	djp_stats.max_stop_ns = max(djp_stats.max_stop_ns, proof->stop_ns);
	djp_stats.last_quiescence_ns = ktime_get_ns() - begin;
	djp_stats.last_tasks = proof->tasks;
	djp_stats.last_words = proof->words;
	djp_stats.tasks_moved += proof->moved;
	djp_nr_blockers = min(atomic_read(&proof->nr_blockers),
			      DJP_BLOCKERS_MAX);
	memcpy(djp_last_blockers, proof->blockers,
	       djp_nr_blockers * sizeof(*djp_last_blockers));
}

/**
 * djp_blockers() - what the last proof found
 * @blockers: set to an array
 *
 * Context: djp_mutex held.
 * Return: its length.
 */
unsigned int djp_blockers(const struct djp_blocker **blockers)
{
	*blockers = djp_last_blockers;
	return djp_nr_blockers;
}

/* Is anything left that the commit is to do? Context: djp_mutex held. */
static bool djp_is_left(enum djp_commit_kind kind)
{
	return djp_count_bypass() ||
		(kind == DJP_RECLAIM && djp_stats.detours_retired);
}

/*
 * One look, and what it allows. Context: djp_commit_mutex held.
 * Return: 0, or -ENOMEM.
 */
static int djp_look(struct djp_proof *proof)
{
	const struct djp_strategy *strategy = djp_strategy_current();
	u64 begin = ktime_get_ns();
	unsigned int i;
	int ret;

	mutex_lock(&djp_mutex);
	ret = djp_dangers(proof);
	mutex_unlock(&djp_mutex);
	if (ret)
		return ret;

	ret = proof->nr ? djp_exiting_settle() : 0;
	if (!ret && proof->nr)
		ret = strategy->prove(proof);
	for (i = 0; ret && i < proof->nr; i++)
		djp_danger_mark(proof, &proof->dangers[i], NULL, 0);
	djp_proof_close(proof);

	mutex_lock(&djp_mutex);
	djp_settle(proof);
	ret = djp_jump(proof);
	djp_record(proof, begin);
	mutex_unlock(&djp_mutex);
	return ret;
}

/* The background goes on where a commit had to stop. Context: djp_mutex held. */
static void djp_sweep_later(bool again)
{
	bool left = djp_count_bypass() || djp_stats.detours_retired;
	long due = djp_retired_due();

	if (!left) {
		djp_retry_delay = 0;
		djp_nr_blockers = 0;
	} else if (djp_nr_blockers || djp_count_bypass()) {
		djp_retry_delay = again ? clamp(djp_retry_delay * 2,
						DJP_RETRY_MIN, DJP_RETRY_MAX) :
			DJP_RETRY_MIN;
		mod_delayed_work(system_unbound_wq, &djp_sweep_work,
				 djp_retry_delay);
	} else {
		djp_retry_delay = 0;
		mod_delayed_work(system_unbound_wq, &djp_sweep_work, due);
	}
}

/**
 * djp_sweep_soon() - a detour was retired
 *
 * Context: djp_mutex held.
 */
void djp_sweep_soon(void)
{
	long due = djp_retired_due();

	/* It comes anyway, and was held up before. */
	if (djp_retry_delay)
		return;
	if (due)
		queue_delayed_work(system_unbound_wq, &djp_sweep_work, due);
	else
		mod_delayed_work(system_unbound_wq, &djp_sweep_work, 0);
}

/* Return: false if there is no time left, or a signal wants the task. */
static bool djp_pause(unsigned long deadline, unsigned long *pause)
{
	if (time_after_eq(jiffies + *pause, deadline) ||
	    fatal_signal_pending(current))
		return false;
	/* A suspend does not have to wait for us. */
	try_to_freeze();
	schedule_timeout_killable(*pause);
	*pause = min(*pause * 2, DJP_PAUSE_MAX);
	return true;
}

/**
 * djp_commit_locked() - quiescence, and what it allows
 * @kind: what for
 *
 * Context: djp_commit_mutex held, djp_mutex not. May sleep up to the module
 * parameter deadline_ms and a little more. With strategy freezer user tasks are
 * frozen: nobody may wait uninterruptibly for djp_commit_mutex.
 * Return: how many sites are left in bypass, or a negative errno.
 */
int djp_commit_locked(enum djp_commit_kind kind)
{
	unsigned long deadline = jiffies +
		(kind == DJP_SWEEP ? 1 : msecs_to_jiffies(djp_deadline_ms));
	unsigned long pause = DJP_PAUSE_MIN;
	struct djp_proof *proof;
	u64 begin = ktime_get_ns();
	bool first = true, left;
	int ret;

	proof = kzalloc(sizeof(*proof), GFP_KERNEL);
	if (!proof)
		return -ENOMEM;
	if (kind != DJP_SWEEP) {
		mutex_lock(&djp_mutex);
		djp_stats.last_stop_ns = 0;
		mutex_unlock(&djp_mutex);
	}
	do {
		memset(proof, 0, sizeof(*proof));
		proof->deadline = deadline;
		proof->gentle = kind == DJP_SWEEP || !first;
		first = false;
		ret = djp_look(proof);
		djp_proof_free(proof);
		mutex_lock(&djp_mutex);
		left = djp_is_left(kind);
		mutex_unlock(&djp_mutex);
	} while (!ret && left && kind != DJP_SWEEP &&
		 djp_pause(deadline, &pause));
	kfree(proof);

	mutex_lock(&djp_mutex);
	djp_stats.deferred = djp_count_bypass();
	if (kind == DJP_SWEEP) {
		djp_stats.retries++;
	} else {
		djp_stats.commits++;
		djp_stats.commits_partial += left;
		djp_stats.last_commit_ns = ktime_get_ns() - begin;
	}
	djp_sweep_later(kind == DJP_SWEEP);
	/* What could not be proven now is partial, not an error. */
	if (!ret)
		ret = djp_stats.deferred;
	mutex_unlock(&djp_mutex);
	return ret;
}

static void djp_sweep(struct work_struct *work)
{
	mutex_lock(&djp_commit_mutex);
	djp_commit_locked(DJP_SWEEP);
	mutex_unlock(&djp_commit_mutex);
}

/**
 * djp_commit_exit() - nothing is done in the background any more
 *
 * Context: module unload; no probe and no retired detour is left, for each holds a
 * reference to the module.
 */
void djp_commit_exit(void)
{
	cancel_delayed_work_sync(&djp_sweep_work);
	WARN_ON(djp_stats.detours_retired);
}
