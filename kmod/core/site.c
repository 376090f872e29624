// SPDX-License-Identifier: GPL-2.0
/*
 * Sites and their life.
 *
 *	        djp_update_locked()          djp_commit()
 *	  NEW ----------------------> BYPASS -------------> JUMP
 *	   ^                            |                     |
 *	   +----------------------------+---------------------+
 *	                    djp_update_locked()
 *
 *	NEW	The text is the original; no detour is in use. Here is a site
 *		whose probes are all disabled; one without probes is freed.
 *	BYPASS	An int3 is at the insertion address, others are at the traps of
 *		the DCR, and the rest of the text is the original. The probes
 *		fire. Nobody enters the JTPR any more but by a trap, which leads
 *		to the detour; tasks may still stand in it. A site of method
 *		int3 stays here.
 *	JUMP	The jump is in the text. A quiescence after the int3 was seen
 *		by all CPUs has proven that nobody stood in the JTPR.
 *
 * Each change of the text passes through the int3 (x86/patch.c), so arrivals in
 * between go to the detour. Restoring text needs no quiescence: the JTPR of a
 * jump is never executed. When the set of enabled probes of a site changes, a
 * new detour is built and swapped in; a detour is never changed while it lives.
 *
 * A site of method kprobe has no text of ours. It is in BYPASS while its kprobe is
 * registered (core/kprobe.c), and its detour is just the list of actions.
 *
 * What is swapped out is retired: nothing reaches it any more, but tasks may
 * stand in it or return to it. djp_commit() frees it after a quiescence. Handlers
 * need not wait for that: clearing an action's handler_of and an RCU grace period
 * are enough, see x86/dispatch.c.
 *
 * djp_mutex guards all of this. The int3 handler reads the hash and @entry
 * without it.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "x86/x86.h"

DEFINE_MUTEX(djp_mutex);
LIST_HEAD(djp_sites);
LIST_HEAD(djp_probes);
struct djp_stats djp_stats;

/**
 * djp_site_find() - the site at an address
 * @addr: an insertion address
 *
 * Context: djp_mutex held.
 * Return: the site, or NULL.
 */
struct djp_site *djp_site_find(unsigned long addr)
{
	return djp_trap_find(addr);
}

/**
 * djp_site_overlap() - a site whose DCR shares bytes with a range
 * @addr: first byte of the range
 * @len: its length
 *
 * Context: djp_mutex held.
 * Return: a site, or NULL.
 */
struct djp_site *djp_site_overlap(unsigned long addr, unsigned int len)
{
	struct djp_site *site;
	unsigned long a;

	for (a = addr - DJP_DCR_MAX + 1; a < addr + len; a++) {
		site = djp_site_find(a);
		if (site && a + site->dcr.len > addr)
			return site;
	}
	return NULL;
}

/**
 * djp_original_text() - take our own patches out of a copy of text
 * @addr: where the copy was taken
 * @buf: the copy
 * @len: its length
 *
 * Context: djp_mutex held.
 */
void djp_original_text(unsigned long addr, u8 *buf, unsigned int len)
{
	struct djp_site *site;
	unsigned long a;

	if (list_empty(&djp_sites))	/* the kernel's map is being made */
		return;
	for (a = addr - DJP_DCR_MAX + 1; a < addr + len; a++) {
		unsigned int i;

		site = djp_site_find(a);
		if (!site || site->verdict.method == DJPROBE_KPROBE)
			continue;
		for (i = 0; i < site->dcr.len; i++) {
			if (a + i >= addr && a + i < addr + len)
				buf[a + i - addr] = site->dcr.text[i];
		}
	}
}

/**
 * djp_pin_module() - the module that holds an address, kept from going meanwhile
 * @addr: the address
 * @mod: the module, or NULL; to be given to djp_unpin_module()
 * @refusal: why not
 *
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_pin_module(unsigned long addr, struct module **mod,
		   struct djp_refusal *refusal)
{
	int ret = 0;

	preempt_disable();
	*mod = djp_k.__module_text_address(addr);
	if (*mod && *mod != THIS_MODULE &&
	    ((*mod)->state != MODULE_STATE_LIVE || !try_module_get(*mod))) {
		*mod = NULL;
		ret = djp_refuse(refusal, DJP_MODULE_GOING, addr);
	}
	preempt_enable();
	return ret;
}

/**
 * djp_unpin_module() - let it go
 * @mod: as djp_pin_module() gave it
 */
void djp_unpin_module(struct module *mod)
{
	if (mod && mod != THIS_MODULE)
		module_put(mod);
}

static int djp_site_check(struct djp_site *site, unsigned long addr,
			  struct module *mod, enum djprobe_method want,
			  struct djp_refusal *refusal)
{
	struct djp_verdict *v = &site->verdict;

	djp_check_site(addr, mod, want, &site->dcr, v);
	if (v->method == DJPROBE_ANY)
		return djp_refuse(refusal, v->why, v->offending);
	if (djp_strays_alloc(site))
		return djp_refuse(refusal, DJP_NO_MEMORY, addr);
	return 0;
}

static struct djp_site *djp_site_get(unsigned long addr,
				     enum djprobe_method want,
				     struct djp_refusal *refusal)
{
	struct djp_site *site;
	unsigned long ftrace;
	struct module *mod;
	int ret;

	addr = djp_behind_ftrace(addr, &ftrace);
	site = djp_site_find(addr);
	if (site && want != DJPROBE_ANY && want != site->verdict.method) {
		djp_refuse(refusal, DJP_OTHER_METHOD, addr);
		return NULL;
	}
	if (site)
		return site;

	if (djp_pin_module(addr, &mod, refusal))
		return NULL;
	site = kzalloc(sizeof(*site), GFP_KERNEL);
	ret = site ? djp_site_check(site, addr, mod, want, refusal) :
		     djp_refuse(refusal, DJP_NO_MEMORY, addr);
	/* From here on djp_module_gone() looks after it. */
	djp_unpin_module(mod);
	if (ret) {
		kfree(site);
		return NULL;
	}
	site->mod = mod;
	site->state = DJP_NEW;
	INIT_LIST_HEAD(&site->probes);
	INIT_LIST_HEAD(&site->touched);
	list_add_tail(&site->node, &djp_sites);
	djp_trap_add(site);
	djp_stats.sites++;
	return site;
}

static void djp_site_free(struct rcu_head *head)
{
	struct djp_site *site = container_of(head, struct djp_site, rcu);

	kfree(site->strays);
	kfree(site);
}

static void djp_site_drop_if_empty(struct djp_site *site)
{
	if (!list_empty(&site->probes))
		return;
	djp_trap_del(site);
	list_del(&site->node);
	djp_stats.sites--;
	call_rcu(&site->rcu, djp_site_free);
}

static int djp_probe_attach(struct djprobe *p, struct djp_refusal *refusal)
{
	struct djp_site *site;

	p->counter = djp_counter_alloc();
	if (!p->counter)
		return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	site = djp_site_get((unsigned long)p->addr, p->method, refusal);
	if (!site) {
		djp_counter_put(p->counter);
		p->counter = NULL;
		return djp_reason_errno(refusal->reason);
	}
	p->addr = (void *)site->dcr.addr;
	p->site = site;
	atomic_long_set(&p->missed, 0);
	list_add_tail(&p->site_node, &site->probes);
	list_add_tail(&p->node, &djp_probes);
	__module_get(THIS_MODULE);
	djp_stats.probes++;
	return 0;
}

static void djp_probe_detach(struct djprobe *p)
{
	struct djp_site *site = p->site;

	if (site) {
		list_del(&p->site_node);
		djp_site_drop_if_empty(site);
	}
	p->site = NULL;
	list_del(&p->node);
	djp_counter_put(p->counter);
	p->counter = NULL;
	p->flags &= ~(DJP_PROBE_LEAVING | DJPROBE_FLAG_GONE);
	djp_stats.probes--;
	module_put(THIS_MODULE);
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
		return 0;
	}
	return 0;
}

/**
 * struct djp_plan - an update under way
 * @sites: those whose detour changes, through djp_site.touched
 * @pokes: a text change for each of them that needs one
 * @nr: how many @pokes
 * @nr_new: how many of them, the first ones, put a new site in
 * @exposed: the detours of the new sites have been reached
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
	/* Nor can one be taken out while the optimiser waits, or others register. */
	if (refusal->reason == DJP_OK && !site->next != !site->kprobe &&
	    site->verdict.method == DJPROBE_KPROBE) {
		if (!mutex_trylock(djp_k.kprobe_mutex)) {
			djp_refuse(refusal, DJP_KPROBES_BUSY, site->dcr.addr);
		} else {
			mutex_unlock(djp_k.kprobe_mutex);
			if (site->next)
				djp_kprobe_arm(site, refusal);
		}
	}
	if (refusal->reason == DJP_OK)
		return 0;
	djp_detour_free(site->next);
	site->next = NULL;
	return djp_reason_errno(refusal->reason);
}

static int djp_plan_sites(struct djp_plan *plan, struct djp_update *updates,
			  int nr, struct djp_refusal *refusal)
{
	struct djp_site *site;
	int i, count = 0;

	for (i = 0; i < nr; i++) {
		site = updates[i].probe->site;
		if (!site || !list_empty(&site->touched))
			continue;
		refusal->index = i;
		if (djp_plan_site(site, refusal))
			return djp_reason_errno(refusal->reason);
		list_add_tail(&site->touched, &plan->sites);
		count++;
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
		poke->ban = true;
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

static void djp_plan_undo(struct djp_plan *plan, struct djp_update *updates,
			  int nr)
{
	struct djp_site *site, *tmp;
	struct djp_refusal ignored;

	list_for_each_entry_safe(site, tmp, &plan->sites, touched) {
		list_del_init(&site->touched);
		if (site->kprobe && !site->detour) {
			djp_kprobe_disarm(site->kprobe);
			site->kprobe = NULL;
		}
		if (plan->exposed && site->state == DJP_NEW)
			djp_retire(site->next);
		else
			djp_detour_free(site->next);
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
	while (djp_poke_all(plan->pokes, plan->nr_new, false) == -EAGAIN)
		cond_resched();
	for (i = 0; i < plan->nr_new; i++) {
		WRITE_ONCE(plan->pokes[i].site->entry, 0);
		djp_strays_enter(plan->pokes[i].site, NULL);
	}
	djp_text_sync();
}

/*
 * Somebody may have been on the way to register a kprobe in what is now a JTPR: past
 * the look at the blacklist, and waiting for kprobe_mutex. We wait for it again,
 * behind them, and look. A kprobe that is found there is not optimised yet, or the
 * optimiser is still waiting for tasks in our detours.
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
		poke->ban = false;
		poke->recheck = true;
	}
	return djp_poke_all(plan->pokes, plan->nr_new, true);
}

/* Write the text: the new sites first, for they can be taken out again. */
static int djp_plan_write(struct djp_plan *plan)
{
	int ret = djp_poke_all(plan->pokes, plan->nr_new, true);

	if (ret || !plan->nr)
		return ret;
	plan->exposed = plan->nr_new;
	if (plan->nr_new)
		ret = djp_plan_recheck(plan);
	if (!ret && plan->nr > plan->nr_new)
		ret = djp_poke_all(plan->pokes + plan->nr_new,
				   plan->nr - plan->nr_new, true);
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
	}
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
		list_del_init(&site->touched);
		djp_site_settle(site);
	}
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

/**
 * djp_update_locked() - add, remove, enable and disable probes
 * @updates: what to do; no probe stands in it twice
 * @nr: how much
 * @refusal: why not, and at which index
 *
 * All or nothing: if one element can't be done, none is, and no text has been
 * written. Added probes fire when this returns, through the int3 at least;
 * removed and disabled ones do not, and their handlers are not running.
 *
 * Context: djp_mutex held, may sleep, takes text_mutex.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_update_locked(struct djp_update *updates, int nr,
		      struct djp_refusal *refusal)
{
	struct djp_plan plan = { .sites = LIST_HEAD_INIT(plan.sites) };
	int done, i, ret;

	memset(refusal, 0, sizeof(*refusal));
	/* Before anything waits for the text: is it to be had at all? */
	if (djp_poke_all(NULL, 0, true))
		return djp_refuse(refusal, DJP_KPROBES_BUSY, 0);
	for (done = 0; done < nr; done++) {
		refusal->index = done;
		ret = djp_change(&updates[done], false, refusal);
		if (ret)
			goto undo;
		cond_resched();
	}
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
		if (updates[i].change == DJP_REMOVE)
			djp_probe_detach(updates[i].probe);
	}
	return 0;
undo:
	djp_plan_undo(&plan, updates, done);
	kvfree(plan.pokes);
	return ret;
}

/**
 * djp_module_gone() - a module is about to be freed
 * @mod: the module
 *
 * Its text is put back, its probes keep their counts and are marked gone.
 *
 * Context: djp_mutex held, may sleep, takes text_mutex.
 */
void djp_module_gone(const struct module *mod)
{
	struct djp_plan plan = { .sites = LIST_HEAD_INIT(plan.sites) };
	struct djp_site *site, *tmp;
	struct djprobe *p, *next;
	struct djp_poke one;

	list_for_each_entry(site, &djp_sites, node) {
		if (site->mod == mod)
			list_add_tail(&site->touched, &plan.sites);
	}
	list_for_each_entry(site, &plan.sites, touched) {
		memset(&one, 0, sizeof(one));
		plan.pokes = &one;
		plan.nr = 0;
		djp_plan_poke(&plan, site);
		/* If others have patched it too, the text goes all the same. */
		if (plan.nr)
			djp_poke_all(&one, plan.nr, true);
		djp_site_unban(site);
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
