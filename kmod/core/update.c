// SPDX-License-Identifier: GPL-2.0
/*
 * Updates: many probes added, removed, enabled and disabled as one step. All or
 * nothing: our records are changed, detours are built, and only then is text
 * written, that of new sites first, for they can be taken out again.
 */
#include <linux/list_sort.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "x86/x86.h"

/* One that is spent can have its hit again once it is back. */
static void djp_rearm(struct djp_update *u, bool undo)
{
	struct djprobe *p = u->probe;

	if (undo && u->rearmed) {
		p->flags |= DJP_PROBE_SPENT;
		set_bit(0, &p->counter->extra->fired);
	} else if (p->flags & DJP_PROBE_SPENT) {
		p->flags &= ~DJP_PROBE_SPENT;
		clear_bit(0, &p->counter->extra->fired);
		u->rearmed = true;
	}
}

/* Make or undo one change in our own records; the text comes later. */
static int djp_change(struct djp_update *u, bool undo,
		      struct djp_refusal *refusal)
{
	struct djprobe *p = u->probe;

	switch (u->change) {
	case DJP_ADD:
		if (!undo)
			return djp_probe_attach(p, refusal);
		djp_probe_detach(p);
		return 0;
	case DJP_REMOVE:
		if (undo)
			p->flags &= ~DJP_PROBE_LEAVING;
		else
			p->flags |= DJP_PROBE_LEAVING;
		return 0;
	case DJP_ENABLE:
	case DJP_DISABLE:
		if (p->flags & DJPROBE_FLAG_GONE)
			return djp_refuse(refusal, DJP_GONE, 0);
		if ((u->change == DJP_DISABLE) != undo)
			p->flags |= DJPROBE_FLAG_DISABLED;
		else
			p->flags &= ~DJPROBE_FLAG_DISABLED;
		if (u->change == DJP_ENABLE)
			djp_rearm(u, undo);
		return 0;
	case DJP_SPEND:
		if (undo)
			p->flags &= ~(DJPROBE_FLAG_DISABLED | DJP_PROBE_SPENT);
		else
			p->flags |= DJPROBE_FLAG_DISABLED | DJP_PROBE_SPENT;
		return 0;
	}
	return 0;
}

/* Does it leave the detour as it is? A flag that the detour reads is enough, then. */
static bool djp_only_switches(const struct djp_update *u)
{
	return (u->change == DJP_ENABLE || u->change == DJP_DISABLE) &&
		!u->rearmed && djp_is_soft(u->probe->counter);
}

/**
 * struct djp_plan - an update under way
 * @sites: those whose detour changes, through djp_site.touched
 * @pokes: a text change for each of them that needs one
 * @nr: how many @pokes
 * @nr_new: how many of them, the first ones, put a new site in
 * @exposed: the new sites' text is in
 */
struct djp_plan {
	struct list_head	sites;
	struct djp_poke		*pokes;
	int			nr;
	int			nr_new;
	bool			exposed;
};

/*
 * No address for the detour makes the jump's bytes what they have to be: then an
 * int3 alone, if nobody asked for more.
 */
static bool djp_site_demote(struct djp_site *site)
{
	struct djprobe *p;

	if (site->state != DJP_NEW || !site->dcr.traps)
		return false;
	list_for_each_entry(p, &site->probes, site_node) {
		if (p->method != DJPROBE_ANY)
			return false;
	}
	djp_trap_del(site);
	synchronize_rcu();
	djp_verdict_demote(&site->dcr, &site->verdict);
	kfree(site->strays);
	site->strays = NULL;
	djp_trap_add(site);
	return true;
}

static int djp_plan_site(struct djp_site *site, struct djp_refusal *refusal)
{
	site->next = djp_detour_build(site, refusal);
	if (refusal->reason != DJP_OK && djp_site_demote(site))
		site->next = djp_detour_build(site, refusal);
	if (refusal->reason == DJP_OK && site->next && !site->kprobe &&
	    site->verdict.method == DJPROBE_KPROBE)
		djp_kprobe_arm(site, refusal);
	if (refusal->reason == DJP_OK && site->next && djp_ban_alloc(site))
		djp_refuse(refusal, DJP_NO_MEMORY, site->dcr.addr);
	if (refusal->reason == DJP_OK)
		return 0;
	djp_detour_free(site->next);
	site->next = NULL;
	return djp_reason_errno(refusal->reason);
}

static int djp_index_of(const struct djp_update *updates, int nr,
			const struct djp_site *site)
{
	int i;

	for (i = 0; i < nr; i++) {
		if (updates[i].probe->site == site)
			return i;
	}
	return 0;
}

static int djp_site_cmp(void *priv, const struct list_head *a,
			const struct list_head *b)
{
	const struct djp_site *sa = list_entry(a, struct djp_site, touched);
	const struct djp_site *sb = list_entry(b, struct djp_site, touched);

	return sa->dcr.addr > sb->dcr.addr;
}

static int djp_plan_sites(struct djp_plan *plan, struct djp_update *updates,
			  int nr, struct djp_refusal *refusal)
{
	struct djp_site *site;
	int i, count = 0;

	for (i = 0; i < nr; i++) {
		site = updates[i].probe->site;
		if (!site || !list_empty(&site->touched) ||
		    djp_only_switches(&updates[i]))
			continue;
		list_add_tail(&site->touched, &plan->sites);
		count++;
	}
	/* So that their text is written from front to back, see djp_text_put(). */
	list_sort(NULL, &plan->sites, djp_site_cmp);
	list_for_each_entry(site, &plan->sites, touched) {
		if (djp_plan_site(site, refusal)) {
			refusal->index = djp_index_of(updates, nr, site);
			return djp_reason_errno(refusal->reason);
		}
		cond_resched();
	}
	plan->pokes = kvcalloc(max(count, 1), sizeof(*plan->pokes), GFP_KERNEL);
	return plan->pokes ? 0 : djp_refuse(refusal, DJP_NO_MEMORY, 0);
}

static void djp_plan_poke(struct djp_plan *plan, struct djp_site *site)
{
	struct djp_poke *poke = &plan->pokes[plan->nr];

	if (site->verdict.method == DJPROBE_KPROBE)
		return;
	poke->site = site;
	djp_site_text(site, poke->expect);
	memcpy(poke->text, site->dcr.text, site->dcr.len);

	switch (site->state) {
	case DJP_NEW:
		/* Nothing reads them before the int3s are there. */
		WRITE_ONCE(site->entry, site->next ? site->next->text : 0);
		djp_strays_enter(site, site->next);
		if (!site->next)
			return;
		djp_bypass_text(site, poke->text);
		poke->int3 = true;
		poke->tail = site->dcr.insns[0].len - 1;
		break;
	case DJP_BYPASS:
		/* With a new detour, the int3 handler only needs to know it. */
		if (site->next)
			return;
		poke->tail = site->dcr.insns[0].len - 1;
		poke->first = true;
		poke->unban = true;
		break;
	case DJP_JUMP:
		poke->int3 = true;
		poke->tail = site->dcr.len - 1;
		poke->first = true;
		poke->unban = !site->next;
		/* A jump to the new detour has its traps at the same bytes. */
		if (site->next)
			djp_jump_text(site, site->next, poke->text);
		break;
	}
	plan->nr++;
}

/* A detour that is not to be used. Unless it was never written it has to be scrubbed. */
static void djp_discard(struct djp_detour *detour)
{
	if (!detour || detour->code || !detour->slot.addr) {
		djp_detour_free(detour);
		return;
	}
	djp_detour_silence(detour);
	djp_retire(detour);
}

static void djp_plan_undo(struct djp_plan *plan, struct djp_update *updates,
			  int nr)
{
	struct djp_site *site, *tmp;
	struct djp_refusal ignored;

	list_for_each_entry_safe(site, tmp, &plan->sites, touched) {
		list_del_init(&site->touched);
		if (!site->detour)
			djp_ban_lift(site, false);
		if (site->kprobe && !site->detour) {
			djp_kprobe_disarm(site->kprobe);
			site->kprobe = NULL;
		}
		djp_discard(site->next);
		site->next = NULL;
	}
	while (nr--)
		djp_change(&updates[nr], true, &ignored);
}

/* Take the new sites out again. */
static void djp_plan_withdraw(struct djp_plan *plan)
{
	int i;

	for (i = 0; i < plan->nr_new; i++) {
		struct djp_poke *poke = &plan->pokes[i];
		struct djp_site *site = poke->site;

		memset(poke, 0, sizeof(*poke));
		poke->site = site;
		memcpy(poke->expect, site->dcr.text, site->dcr.len);
		djp_bypass_text(site, poke->expect);
		memcpy(poke->text, site->dcr.text, site->dcr.len);
		poke->tail = site->dcr.insns[0].len - 1;
		poke->first = true;
		poke->unban = true;
		poke->withdraw = true;
	}
	/* Whatever holds it up, it can't stay: nobody would know of it. */
	while (djp_poke_all(plan->pokes, plan->nr_new, false,
			    DJP_TEXT_PATIENCE))
		cond_resched();
	for (i = 0; i < plan->nr_new; i++) {
		struct djp_site *site = plan->pokes[i].site;

		djp_ban_lift(site, false);
		WRITE_ONCE(site->entry, 0);
		djp_strays_enter(site, NULL);
		djp_detour_silence(site->next);
	}
	djp_text_sync();
	/* The probes are the caller's again, tasks may still be in the detours. */
	synchronize_rcu();
}

/*
 * Nobody could tell whether somebody was on the way to register a kprobe in what is now
 * a JTPR, past the look at the blacklist. We wait for kprobe_mutex again, behind them,
 * and look.
 */
static int djp_plan_recheck(struct djp_plan *plan)
{
	struct djp_poke *poke;
	int i;

	for (i = 0; i < plan->nr_new; i++) {
		poke = &plan->pokes[i];
		memcpy(poke->expect, poke->text, sizeof(poke->expect));
		poke->int3 = false;
		poke->tail = 0;
		poke->recheck = true;
	}
	return djp_poke_all(plan->pokes, plan->nr_new, true,
			    DJP_TEXT_PATIENCE);
}

/* Also ban kprobes, before an int3 leads anybody to a detour. */
static int djp_plan_prepare(void *data)
{
	struct djp_plan *plan = data;
	struct djp_site *site;
	int i;

	for (i = 0; i < plan->nr_new; i++)
		djp_ban_set(plan->pokes[i].site);
	list_for_each_entry(site, &plan->sites, touched) {
		if (site->next)
			djp_detour_put(site->next);
		cond_resched();
	}
	djp_text_flush();
	return 0;
}

/* Write the text: the new sites first, for they can be taken out again. */
static int djp_plan_write(struct djp_plan *plan)
{
	int ret = djp_text_do(djp_plan_prepare, plan, DJP_TEXT_PATIENCE);
	bool unsure = false;

	/*
	 * Kprobes of those who looked at the blacklist before have to be there to
	 * be found now: once a kprobe's optimiser has begun to wait for preempted
	 * tasks, it does not know of those who come to the detour later.
	 */
	if (!ret && plan->nr_new) {
		ret = djp_ban_settle();
		unsure = ret == -EOPNOTSUPP;
	}
	if ((!ret || unsure) && plan->nr_new)
		ret = djp_poke_all(plan->pokes, plan->nr_new, true,
				   DJP_TEXT_PATIENCE);
	if (ret)
		return ret;
	plan->exposed = plan->nr_new;
	if (unsure)
		ret = djp_plan_recheck(plan);
	if (!ret && plan->nr > plan->nr_new)
		ret = djp_poke_all(plan->pokes + plan->nr_new,
				   plan->nr - plan->nr_new, true,
				   DJP_TEXT_PATIENCE);
	return ret;
}

static void djp_plan_pokes(struct djp_plan *plan)
{
	struct djp_site *site;

	list_for_each_entry(site, &plan->sites, touched) {
		if (site->state == DJP_NEW)
			djp_plan_poke(plan, site);
	}
	plan->nr_new = plan->nr;
	list_for_each_entry(site, &plan->sites, touched) {
		if (site->state != DJP_NEW)
			djp_plan_poke(plan, site);
	}
}

/* Nothing goes to the old detour any more. */
static void djp_site_settle(struct djp_site *site)
{
	struct djp_detour *old = site->detour;

	if (site->state == DJP_JUMP && !site->next)
		djp_stats.sites_jump--;
	site->detour = site->next;
	site->next = NULL;
	if (!site->detour) {
		WRITE_ONCE(site->entry, 0);
		djp_strays_enter(site, NULL);
		site->state = DJP_NEW;
		site->deferred = false;
	} else if (site->state == DJP_NEW) {
		site->state = DJP_BYPASS;
		site->seq = ++djp_sequence;
	}
	djp_site_file(site);
	if (site->verdict.method != DJPROBE_KPROBE) {
		djp_retire(old);
		return;
	}
	/* Its handlers run with preemption off, and nobody stands in it. */
	if (!site->detour && site->kprobe) {
		djp_kprobe_disarm(site->kprobe);
		site->kprobe = NULL;
	}
	if (old) {
		synchronize_rcu();
		djp_detour_free(old);
	}
}

/* The text has been written: put our records in step. */
static void djp_plan_done(struct djp_plan *plan)
{
	struct djp_site *site, *tmp;

	list_for_each_entry(site, &plan->sites, touched) {
		if (!site->next)
			continue;
		WRITE_ONCE(site->entry, site->next->text);
		djp_strays_enter(site, site->next);
	}
	/* Whoever is in the int3 handler may have read the old one. */
	djp_text_sync();

	list_for_each_entry_safe(site, tmp, &plan->sites, touched) {
		INIT_LIST_HEAD(&site->touched);	/* all of them leave the list */
		djp_site_settle(site);
	}
	INIT_LIST_HEAD(&plan->sites);
}

/**
 * djp_update_locked() - add, remove, enable and disable probes
 * @updates: what to do; no probe stands in it twice
 * @nr: how much
 * @refusal: why not, and at which index
 *
 * All or nothing: if one element can't be done, none is, and all text is what it
 * was; new sites may have been in it for a moment. Added probes fire when this
 * returns, through the int3 at least; removed and disabled ones do not, and their
 * handlers are not running.
 *
 * Context: djp_mutex held, may sleep, takes kprobe_mutex and text_mutex.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_update_locked(struct djp_update *updates, int nr,
		      struct djp_refusal *refusal)
{
	struct djp_plan plan = { .sites = LIST_HEAD_INIT(plan.sites) };
	int done, i, ret;

	memset(refusal, 0, sizeof(*refusal));
	/* Before anything waits for the text: is it to be had at all? */
	if (djp_text_do(djp_known_take, NULL, DJP_TEXT_PATIENCE))
		return djp_refuse(refusal, DJP_KPROBES_BUSY, 0);
	for (done = 0, ret = 0; done < nr; done++) {
		refusal->index = done;
		ret = djp_change(&updates[done], false, refusal);
		if (ret)
			break;
		cond_resched();
	}
	djp_known_drop();
	if (ret)
		goto undo;
	ret = djp_plan_sites(&plan, updates, nr, refusal);
	if (ret)
		goto undo;

	djp_plan_pokes(&plan);
	ret = djp_plan_write(&plan);
	if (ret == -EBUSY) {
		for (i = 0; i < plan.nr && !plan.pokes[i].foreign; i++)
			;
		ret = djp_refuse(refusal, DJP_FOREIGN_TEXT, 0);
		refusal->owner = djp_text_owner(&plan.pokes[i],
						&refusal->offending);
		refusal->index = djp_index_of(updates, nr, plan.pokes[i].site);
	} else if (ret) {
		ret = djp_refuse(refusal, ret == -EAGAIN ? DJP_KPROBES_BUSY :
				 DJP_NO_MEMORY, 0);
	}
	if (ret) {
		if (plan.exposed)
			djp_plan_withdraw(&plan);
		goto undo;
	}
	djp_plan_done(&plan);
	kvfree(plan.pokes);

	djp_retired_silence();
	for (i = 0; i < nr; i++) {
		struct djprobe *p = updates[i].probe;

		if (updates[i].change == DJP_REMOVE)
			djp_probe_detach(p);
		else
			djp_counter_switch(p->counter,
					   !(p->flags & DJPROBE_FLAG_DISABLED));
	}
	/* Nothing is left to wait for. */
	if (!djp_stats.sites)
		djp_sweep_soon();
	return 0;
undo:
	djp_plan_undo(&plan, updates, done);
	kvfree(plan.pokes);
	return ret;
}

static int djp_touch_module(struct list_head *from, const struct module *mod,
			    struct list_head *touched)
{
	struct djp_site *site;
	int nr = 0;

	list_for_each_entry(site, from, node) {
		if (site->mod != mod)
			continue;
		list_add_tail(&site->touched, touched);
		nr++;
	}
	return nr;
}

/**
 * djp_module_gone() - a module is about to be freed
 * @mod: the module
 *
 * Its text is put back, its probes keep their counts and are marked gone.
 *
 * Context: djp_mutex held, may sleep, takes kprobe_mutex and text_mutex.
 */
void djp_module_gone(const struct module *mod)
{
	struct djp_plan plan = { .sites = LIST_HEAD_INIT(plan.sites) };
	struct djp_site *site, *tmp;
	struct djprobe *p, *next;
	int nr;

	nr = djp_touch_module(&djp_sites, mod, &plan.sites) +
		djp_touch_module(&djp_waiting, mod, &plan.sites);
	plan.pokes = kvcalloc(max(nr, 1), sizeof(*plan.pokes),
			      GFP_KERNEL | __GFP_NOFAIL);
	djp_plan_pokes(&plan);
	/* What others have patched too, or can't be written: the text goes anyway. */
	djp_poke_all(plan.pokes, plan.nr, false, DJP_TEXT_PATIENCE);
	kvfree(plan.pokes);
	list_for_each_entry(site, &plan.sites, touched) {
		djp_ban_lift(site, false);
		list_for_each_entry(p, &site->probes, site_node)
			p->flags |= DJPROBE_FLAG_GONE;
	}
	list_for_each_entry_safe(site, tmp, &plan.sites, touched) {
		list_del_init(&site->touched);
		djp_site_settle(site);
		list_for_each_entry_safe(p, next, &site->probes, site_node) {
			list_del_init(&p->site_node);
			p->site = NULL;
		}
		djp_site_drop_if_empty(site);
	}
	djp_retired_silence();
	djp_textmap_drop(mod);
}
