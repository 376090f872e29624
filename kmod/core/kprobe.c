// SPDX-License-Identifier: GPL-2.0
/*
 * Where nothing of ours can stand: the kernel's own kprobe, with the same actions.
 *
 * A kprobe that is hit while another one's handler runs is not run but counted as
 * missed; so is ours, then.
 */
#include <linux/kprobes.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "core/internal.h"
#include "x86/x86.h"

/**
 * struct djp_kprobe - the kprobe of a site
 * @kp: the kprobe
 * @site: the site
 */
struct djp_kprobe {
	struct kprobe	kp;
	struct djp_site	*site;
};

/* Context: as every kprobe handler, preemption off. */
static int djp_kprobe_hit(struct kprobe *kp, struct pt_regs *regs)
{
	struct djp_kprobe *kprobe = container_of(kp, struct djp_kprobe, kp);
	const struct djp_detour *detour = READ_ONCE(kprobe->site->detour);
	unsigned long ip = regs->ip;

	/* Not yet set, or not any more: the update is on its way. */
	if (!detour)
		return 0;
	/* Kprobes give the address behind their int3; ours promise the IA. */
	regs->ip = (unsigned long)kp->addr;
	djp_run_actions(detour, regs, true);
	regs->ip = ip;
	return 0;
}
NOKPROBE_SYMBOL(djp_kprobe_hit);

/*
 * With a post_handler a kprobe is not jump-optimised (kernel/kprobes.c,
 * kprobe_optready()): mainline does not see every branch into the bytes that its
 * jump would cover.
 */
static void djp_kprobe_after(struct kprobe *kp, struct pt_regs *regs,
			     unsigned long flags)
{
}
NOKPROBE_SYMBOL(djp_kprobe_after);

/**
 * djp_kprobe_arm() - register a site's kprobe
 * @site: the site
 * @refusal: why not
 *
 * The probes count from when @site->detour is set.
 *
 * Context: djp_mutex held, may sleep, takes kprobe_mutex and text_mutex.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_kprobe_arm(struct djp_site *site, struct djp_refusal *refusal)
{
	const struct djp_verdict *v = &site->verdict;
	struct djp_kprobe *kprobe;
	int ret;

	kprobe = kzalloc(sizeof(*kprobe), GFP_KERNEL);
	if (!kprobe)
		return djp_refuse(refusal, DJP_NO_MEMORY, site->dcr.addr);
	kprobe->site = site;
	kprobe->kp.addr = (kprobe_opcode_t *)site->dcr.addr;
	kprobe->kp.pre_handler = djp_kprobe_hit;
	kprobe->kp.post_handler = djp_kprobe_after;
	ret = register_kprobe(&kprobe->kp);
	if (ret) {
		kfree(kprobe);
		return djp_refuse(refusal, v->why == DJP_OK ||
				  v->why == DJP_OTHER_METHOD ?
				  DJP_KPROBE_REFUSED : v->why, v->offending);
	}
	site->kprobe = kprobe;
	return 0;
}

/**
 * djp_kprobe_disarm() - unregister a site's kprobe, and free it
 * @kprobe: the kprobe
 *
 * When it returns, its handler is not running.
 *
 * Context: djp_mutex held, may sleep, takes kprobe_mutex and text_mutex.
 */
void djp_kprobe_disarm(struct djp_kprobe *kprobe)
{
	unregister_kprobe(&kprobe->kp);
	kfree(kprobe);
}

/**
 * djp_kprobe_missed() - hits of a site that the kernel's kprobes did not report
 * @site: the site
 *
 * Context: djp_mutex held.
 */
unsigned long djp_kprobe_missed(const struct djp_site *site)
{
	return site->kprobe ? site->kprobe->kp.nmissed : 0;
}
