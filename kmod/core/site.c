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
 * need not wait for that: djp_silence() and an RCU grace period are enough, see
 * x86/dispatch.c.
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
LIST_HEAD(djp_waiting);
LIST_HEAD(djp_probes);
struct djp_stats djp_stats;
/* Counts sites that came into bypass and detours that were retired. */
u64 djp_sequence;
/* Changes whenever the list of all probes does. */
u64 djp_generation;

/* Of their size: the next power of two is a third more. */
static struct kmem_cache *djp_site_cache;

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
	unsigned long a = addr - DJP_DCR_MAX + 1;
	struct djp_site *site;

	while ((site = djp_trap_next(a, addr + len))) {
		a = site->dcr.addr + 1;
		if (site->dcr.addr + site->dcr.len > addr)
			break;
	}
	return site;
}

/**
 * djp_site_file() - put a site on the list that its state calls for
 * @site: the site
 *
 * Context: djp_mutex held.
 */
void djp_site_file(struct djp_site *site)
{
	list_move_tail(&site->node, djp_awaits_jump(site) ? &djp_waiting :
		       &djp_sites);
}

/**
 * djp_is_ours() - may the byte at an address be of our writing?
 * @addr: the address
 *
 * Context: djp_mutex held.
 */
bool djp_is_ours(unsigned long addr)
{
	return djp_stats.sites && djp_site_overlap(addr, 1);
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
	unsigned long a = addr - DJP_DCR_MAX + 1;
	struct djp_site *site;

	if (!djp_stats.sites)	/* the kernel's map is being made */
		return;
	for (; (site = djp_trap_next(a, addr + len)); a++) {
		unsigned int i;

		a = site->dcr.addr;
		if (site->verdict.method == DJPROBE_KPROBE)
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
	if (!djp_site_cache)
		djp_site_cache = KMEM_CACHE(djp_site, 0);
	site = djp_site_cache ?
		kmem_cache_zalloc(djp_site_cache, GFP_KERNEL) : NULL;
	ret = site ? djp_site_check(site, addr, mod, want, refusal) :
		     djp_refuse(refusal, DJP_NO_MEMORY, addr);
	/* From here on djp_module_gone() looks after it. */
	djp_unpin_module(mod);
	if (ret) {
		if (site)
			kmem_cache_free(djp_site_cache, site);
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
	kmem_cache_free(djp_site_cache, site);
}

/**
 * djp_sites_exit() - free what sites were made of
 *
 * Context: module unload; no site is left, and none is being freed.
 */
void djp_sites_exit(void)
{
	kmem_cache_destroy(djp_site_cache);
}

/**
 * djp_site_drop_if_empty() - forget a site that has no probe any more
 * @site: the site; its text is the original. Freed after an RCU grace period
 *
 * Context: djp_mutex held.
 */
void djp_site_drop_if_empty(struct djp_site *site)
{
	if (!list_empty(&site->probes))
		return;
	djp_trap_del(site);
	list_del(&site->node);
	djp_stats.sites--;
	call_rcu(&site->rcu, djp_site_free);
}

/**
 * djp_probe_attach() - put a probe on the site at its address
 * @p: the probe
 * @refusal: why not
 *
 * The site is made if there is none. Its text is not touched.
 *
 * Context: djp_mutex held, may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_probe_attach(struct djprobe *p, struct djp_refusal *refusal)
{
	struct djp_site *site;

	p->counter = djp_counter_alloc(p->handler ? NULL : p->options);
	if (!p->counter)
		return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	site = djp_site_get((unsigned long)p->addr, p->method, refusal);
	if (!site) {
		djp_counter_put(p->counter);
		p->counter = NULL;
		return djp_reason_errno(refusal->reason);
	}
	djp_counter_switch(p->counter, !(p->flags & DJPROBE_FLAG_DISABLED));
	p->addr = (void *)site->dcr.addr;
	p->site = site;
	atomic_long_set(&p->missed, 0);
	list_add_tail(&p->site_node, &site->probes);
	list_add_tail(&p->node, &djp_probes);
	__module_get(THIS_MODULE);
	djp_generation++;
	djp_stats.once += djp_is_once(p->counter);
	djp_stats.probes++;
	return 0;
}

/**
 * djp_probe_detach() - undo djp_probe_attach()
 * @p: the probe; it is not in the detour of its site any more
 *
 * Context: djp_mutex held.
 */
void djp_probe_detach(struct djprobe *p)
{
	struct djp_site *site = p->site;

	if (site) {
		list_del(&p->site_node);
		djp_site_drop_if_empty(site);
	}
	p->site = NULL;
	list_del(&p->node);
	djp_stats.once -= djp_is_once(p->counter);
	djp_counter_put(p->counter);
	p->counter = NULL;
	p->flags &= ~(DJP_PROBE_LEAVING | DJP_PROBE_SPENT | DJPROBE_FLAG_GONE);
	djp_generation++;
	djp_stats.probes--;
	module_put(THIS_MODULE);
}
