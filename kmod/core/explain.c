// SPDX-License-Identifier: GPL-2.0
/*
 * What there is to say of an address, whether it is probed, could be or can't.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "x86/x86.h"

/**
 * djp_method_name() - a method as users write it
 * @method: the method
 *
 * Return: a static string; "-" for DJPROBE_ANY.
 */
const char *djp_method_name(enum djprobe_method method)
{
	static const char * const names[DJPROBE_NR_METHODS] = {
		[DJPROBE_ANY] = "-",
		[DJPROBE_JUMP] = "jump",
		[DJPROBE_JUMP_INT3] = "jump+int3",
		[DJPROBE_INT3] = "int3",
		[DJPROBE_KPROBE] = "kprobe",
	};

	return names[method];
}

/**
 * djp_source_name() - what makes an address a branch target, in a word
 * @kind: in which way
 *
 * Return: a static string.
 */
const char *djp_source_name(enum djp_source_kind kind)
{
	static const char * const names[DJP_NR_SOURCES] = {
		[DJP_SOURCE_NONE] = "-",
		[DJP_SOURCE_BRANCH] = "branch",
		[DJP_SOURCE_CALL] = "call",
		[DJP_SOURCE_ADDRESS] = "address",
		[DJP_SOURCE_JUMP_LABEL] = "jump-label",
		[DJP_SOURCE_FIXUP] = "fixup",
		[DJP_SOURCE_SYMBOL] = "symbol",
		[DJP_SOURCE_DATA] = "data",
		[DJP_SOURCE_INDIRECT_JUMP] = "indirect-jump",
	};

	return names[kind];
}

/**
 * djp_state_name() - what is in the text of a site, in a word
 * @site: the site
 *
 * Return: a static string.
 */
const char *djp_state_name(const struct djp_site *site)
{
	if (site->state == DJP_NEW)
		return "disabled";
	if (site->state == DJP_JUMP)
		return "jump";
	return djp_by_jump(site) ? "bypass" :
		djp_method_name(site->verdict.method);
}

static void djp_explain_detour(struct djp_explanation *x,
			       const struct djp_site *site,
			       const struct djp_detour *detour)
{
	if (!detour || !detour->slot.addr)
		return;
	x->detour = detour->text;
	x->len = min_t(size_t, detour->len, sizeof(x->text));
	memcpy(x->insns, detour->insns, sizeof(x->insns));
	memcpy(x->text, djp_detour_bytes(detour), x->len);
	memcpy(x->live, x->dcr.text, x->dcr.len);
	if (djp_by_jump(site))
		djp_jump_text(site, detour, x->live);
	else
		djp_bypass_text(site, x->live);
}

/* The detour of a probe that counts, built in earnest and thrown away. */
static void djp_explain_would_be(struct djp_explanation *x)
{
	struct djp_refusal refusal;
	struct djp_detour *detour;
	struct djprobe probe = { };
	struct djp_site *site;

	site = kzalloc(sizeof(*site), GFP_KERNEL);
	probe.counter = djp_counter_alloc();
	if (site && probe.counter) {
		INIT_LIST_HEAD(&site->probes);
		list_add(&probe.site_node, &site->probes);
		site->dcr = x->dcr;
		site->verdict = x->verdict;
		detour = djp_detour_build(site, &refusal);
		if (!detour && x->dcr.traps) {
			djp_verdict_demote(&x->dcr, &x->verdict);
			site->dcr = x->dcr;
			site->verdict = x->verdict;
			detour = djp_detour_build(site, &refusal);
		}
		djp_explain_detour(x, site, detour);
		djp_detour_free(detour);
	}
	djp_counter_put(probe.counter);
	kfree(site);
}

/**
 * djp_explain() - what there is to say of an address
 * @addr: the address
 * @x: filled in
 *
 * Context: djp_mutex held, may sleep. As long as djp_find_source() takes.
 */
void djp_explain(unsigned long addr, struct djp_explanation *x)
{
	const struct djp_site *site;
	struct djp_refusal refusal;
	struct module *mod;

	memset(x, 0, sizeof(*x));
	x->addr = djp_behind_ftrace(addr, &x->ftrace);
	x->state = "-";
	site = djp_site_find(x->addr);
	if (site) {
		x->dcr = site->dcr;
		x->verdict = site->verdict;
		x->state = djp_state_name(site);
		djp_explain_detour(x, site, site->detour);
	} else if (djp_pin_module(x->addr, &mod, &refusal)) {
		x->verdict.why = refusal.reason;
		x->verdict.offending = refusal.offending;
		return;
	} else {
		djp_check_site(x->addr, mod, DJPROBE_ANY, &x->dcr, &x->verdict);
		if (x->verdict.method != DJPROBE_ANY &&
		    x->verdict.method != DJPROBE_KPROBE)
			djp_explain_would_be(x);
		djp_unpin_module(mod);
	}
	if (x->verdict.why == DJP_BRANCH_TARGET)
		djp_find_source(x->verdict.offending, &x->source);
}
