// SPDX-License-Identifier: GPL-2.0
/*
 * Where nothing of ours can stand: the kernel's own kprobe, with the same actions.
 *
 * A kprobe that is hit while another one's handler runs is not run but counted as
 * missed; so is ours, then.
 *
 * To register or unregister one waits for kprobe_mutex, which kprobes' optimiser may
 * hold for very long, see djp_text_do(). A worker waits; it may be left behind.
 */
#include <linux/completion.h>
#include <linux/kprobes.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "core/internal.h"
#include "x86/x86.h"

enum { DJP_WORK_RUNS, DJP_WORK_DONE, DJP_WORK_LEFT };

/**
 * struct djp_kprobe - the kprobe of a site
 * @kp: the kprobe
 * @site: the site; NULL if it is to do nothing any more
 * @work: registers or unregisters it
 * @state: of @work. If it is left behind, @work unregisters and frees all this
 * @done: complete once @work is
 * @leaving: @work is to unregister it
 * @ret: what register_kprobe() said
 */
struct djp_kprobe {
	struct kprobe		kp;
	struct djp_site		*site;
	struct work_struct	work;
	atomic_t		state;
	struct completion	done;
	bool			leaving;
	int			ret;
};

/* Context: as every kprobe handler, preemption off. */
static int djp_kprobe_hit(struct kprobe *kp, struct pt_regs *regs)
{
	struct djp_kprobe *kprobe = container_of(kp, struct djp_kprobe, kp);
	const struct djp_site *site = READ_ONCE(kprobe->site);
	const struct djp_detour *detour = site ? READ_ONCE(site->detour) : NULL;
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

static void djp_kprobe_work(struct work_struct *work)
{
	struct djp_kprobe *kprobe = container_of(work, struct djp_kprobe, work);

	if (kprobe->leaving)
		unregister_kprobe(&kprobe->kp);
	else
		kprobe->ret = register_kprobe(&kprobe->kp);
	if (atomic_cmpxchg(&kprobe->state, DJP_WORK_RUNS, DJP_WORK_DONE) ==
	    DJP_WORK_RUNS) {
		complete(&kprobe->done);
		return;
	}
	if (!kprobe->leaving && !kprobe->ret)
		unregister_kprobe(&kprobe->kp);
	kfree(kprobe);
}

/* Return: false if the worker was left behind; @kprobe is its own, then. */
static bool djp_kprobe_do(struct djp_kprobe *kprobe)
{
	INIT_WORK(&kprobe->work, djp_kprobe_work);
	init_completion(&kprobe->done);
	atomic_set(&kprobe->state, DJP_WORK_RUNS);
	djp_text_queue(&kprobe->work);
	if (wait_for_completion_timeout(&kprobe->done, DJP_TEXT_PATIENCE))
		return true;
	/* It outlives the site, which is freed after an RCU grace period. */
	WRITE_ONCE(kprobe->site, NULL);
	if (atomic_cmpxchg(&kprobe->state, DJP_WORK_RUNS, DJP_WORK_LEFT) ==
	    DJP_WORK_RUNS)
		return false;
	/* Just in time. */
	wait_for_completion(&kprobe->done);
	return true;
}

/**
 * djp_kprobe_arm() - register a site's kprobe
 * @site: the site
 * @refusal: why not
 *
 * The probes count from when @site->detour is set.
 *
 * Context: djp_mutex held, may sleep, up to DJP_TEXT_PATIENCE.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_kprobe_arm(struct djp_site *site, struct djp_refusal *refusal)
{
	const struct djp_verdict *v = &site->verdict;
	struct djp_kprobe *kprobe;

	kprobe = kzalloc(sizeof(*kprobe), GFP_KERNEL);
	if (!kprobe)
		return djp_refuse(refusal, DJP_NO_MEMORY, site->dcr.addr);
	kprobe->site = site;
	kprobe->kp.addr = (kprobe_opcode_t *)site->dcr.addr;
	kprobe->kp.pre_handler = djp_kprobe_hit;
	kprobe->kp.post_handler = djp_kprobe_after;
	if (!djp_kprobe_do(kprobe))
		return djp_refuse(refusal, DJP_KPROBES_BUSY, site->dcr.addr);
	if (kprobe->ret) {
		kfree(kprobe);
		return djp_refuse(refusal, v->why == DJP_OK ||
				  v->why == DJP_OTHER_METHOD ?
				  DJP_KPROBE_REFUSED : v->why, v->offending);
	}
	WRITE_ONCE(kprobe->site, site);
	site->kprobe = kprobe;
	return 0;
}

/**
 * djp_kprobe_disarm() - unregister a site's kprobe, and free it
 * @kprobe: the kprobe
 *
 * When it returns its handler does nothing any more, and after an RCU grace period
 * none is running. If kprobes are busy it is unregistered later.
 *
 * Context: djp_mutex held, may sleep, up to DJP_TEXT_PATIENCE.
 */
void djp_kprobe_disarm(struct djp_kprobe *kprobe)
{
	WRITE_ONCE(kprobe->site, NULL);
	kprobe->leaving = true;
	if (djp_kprobe_do(kprobe))
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
