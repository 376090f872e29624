// SPDX-License-Identifier: GPL-2.0
/*
 * The interface for other kernel modules.
 */
#include <linux/export.h>
#include <linux/freezer.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "core/internal.h"

/**
 * djp_lock_freezable() - take a mutex that is held while the freezer runs
 * @lock: the mutex
 *
 * A task that waited uninterruptibly could not be frozen, and the holder would
 * wait for it to freeze.
 *
 * Context: task.
 * Return: 0, or -ERESTARTSYS if a signal came.
 */
int djp_lock_freezable(struct mutex *lock)
{
	while (mutex_lock_interruptible(lock)) {
		try_to_freeze();
		/* The freezer's is not a real signal. */
		recalc_sigpending();
		if (signal_pending(current))
			return -ERESTARTSYS;
	}
	return 0;
}

static int djp_update_all(struct djprobe **ps, int num, enum djp_change change,
			  struct djp_refusal *refusal)
{
	struct djp_update *updates;
	int i, ret;

	updates = kvcalloc(num, sizeof(*updates), GFP_KERNEL);
	if (!updates)
		return -ENOMEM;
	for (i = 0; i < num; i++) {
		updates[i].probe = ps[i];
		updates[i].change = change;
	}
	ret = djp_update_locked(updates, num, refusal);
	kvfree(updates);
	return ret;
}

/* Return: 0, or the negative errno of why one is not to be had. */
static int djp_register_claim(struct djprobe **ps, int num, int *claimed,
			      struct djp_refusal *refusal)
{
	for (*claimed = 0; *claimed < num; (*claimed)++) {
		struct djprobe *p = ps[*claimed];

		refusal->index = *claimed;
		if ((p->flags & ~(DJPROBE_FLAG_DISABLED |
				  DJPROBE_FLAG_READ_ONLY)) ||
		    p->method >= DJPROBE_NR_METHODS || p->options ||
		    !p->symbol_name == !p->addr)
			return djp_refuse(refusal, DJP_SYNTAX, 0);
		/* A second pointer to the same probe is refused above. */
		p->flags |= DJP_PROBE_REGISTERED;
	}
	return 0;
}

static int djp_register_resolve(struct djprobe **ps, int num,
				struct djp_refusal *refusal)
{
	struct djp_lookup *lookups;
	int i, n = 0, ret = 0;

	lookups = kvcalloc(num, sizeof(*lookups), GFP_KERNEL);
	if (!lookups)
		return -ENOMEM;
	for (i = 0; i < num; i++) {
		if (!ps[i]->symbol_name)
			continue;
		lookups[n].symbol = ps[i]->symbol_name;
		lookups[n++].offset = ps[i]->offset;
	}
	djp_resolve_all(lookups, n);
	for (i = n = 0; i < num && !ret; i++) {
		const struct djp_lookup *lookup = &lookups[n];

		if (!ps[i]->symbol_name)
			continue;
		n++;
		ps[i]->addr = (void *)lookup->addr;
		if (lookup->refusal.reason == DJP_OK)
			continue;
		*refusal = lookup->refusal;
		refusal->index = i;
		ret = djp_reason_errno(refusal->reason);
	}
	kvfree(lookups);
	return ret;
}

static int djp_register_locked(struct djprobe **ps, int num, int *claimed,
			       struct djp_refusal *refusal)
{
	int ret = djp_register_claim(ps, num, claimed, refusal);

	if (!ret)
		ret = djp_register_resolve(ps, num, refusal);
	return ret ?: djp_update_all(ps, num, DJP_ADD, refusal);
}

static void djp_register_undo(struct djprobe **ps, int claimed)
{
	while (claimed--) {
		ps[claimed]->flags &= ~DJP_PROBE_REGISTERED;
		if (ps[claimed]->symbol_name)
			ps[claimed]->addr = NULL;
	}
}

/**
 * register_djprobes() - put in many probes
 * @ps: the probes; @symbol_name (and @offset) or @addr set, the rest zero or as
 *	described with struct djprobe
 * @num: how many
 *
 * All or none. They fire when this returns; commit_djprobes() makes them cheap.
 * Several probes may share an address.
 *
 * Context: task, may sleep. Not from a handler, a die notifier or with
 * text_mutex or cpu_hotplug_lock held.
 * Return: 0, or the negative errno of the reason why one was refused, which the
 * log names (docs/reasons.md lists them).
 */
int register_djprobes(struct djprobe **ps, int num)
{
	struct djp_refusal refusal = { };
	int claimed;
	int ret;

	if (num <= 0)
		return -EINVAL;
	mutex_lock(&djp_mutex);
	ret = djp_register_locked(ps, num, &claimed, &refusal);
	if (ret)
		djp_register_undo(ps, claimed);
	mutex_unlock(&djp_mutex);
	if (ret && refusal.reason != DJP_OK)
		pr_info("probe %d (%s+0x%lx): %s: %s\n", refusal.index,
			ps[refusal.index]->symbol_name ?: "address",
			ps[refusal.index]->offset,
			djp_reason_code(refusal.reason),
			djp_reason_sentence(refusal.reason));
	return ret;
}
EXPORT_SYMBOL_GPL(register_djprobes);

/**
 * register_djprobe() - put in one probe
 * @p: the probe, see register_djprobes()
 *
 * Context: as register_djprobes().
 * Return: as register_djprobes().
 */
int register_djprobe(struct djprobe *p)
{
	return register_djprobes(&p, 1);
}
EXPORT_SYMBOL_GPL(register_djprobe);

/**
 * unregister_djprobes() - take out many probes
 * @ps: registered probes
 * @num: how many
 *
 * All or none. When it returns 0 the handlers are not running and will not be
 * called again, and the memory is the caller's. Detours are freed later, by
 * djprobes.
 *
 * Context: as register_djprobes().
 * Return: 0; -EINVAL if one was not registered; -EBUSY if somebody else has
 * patched the text of one, and then all stay.
 */
int unregister_djprobes(struct djprobe **ps, int num)
{
	struct djp_refusal refusal = { };
	int ret = 0;
	int i;

	if (num <= 0)
		return -EINVAL;
	mutex_lock(&djp_mutex);
	for (i = 0; i < num && !ret; i++) {
		if (!(ps[i]->flags & DJP_PROBE_REGISTERED))
			ret = -EINVAL;
	}
	if (!ret)
		ret = djp_update_all(ps, num, DJP_REMOVE, &refusal);
	if (!ret)
		djp_register_undo(ps, num);
	mutex_unlock(&djp_mutex);
	return ret;
}
EXPORT_SYMBOL_GPL(unregister_djprobes);

/**
 * unregister_djprobe() - take out one probe
 * @p: a registered probe
 *
 * Context: as register_djprobes().
 * Return: as unregister_djprobes().
 */
int unregister_djprobe(struct djprobe *p)
{
	return unregister_djprobes(&p, 1);
}
EXPORT_SYMBOL_GPL(unregister_djprobe);

static int djp_set_disabled(struct djprobe *p, bool disabled)
{
	struct djp_refusal refusal = { };
	int ret = 0;

	mutex_lock(&djp_mutex);
	if (!(p->flags & DJP_PROBE_REGISTERED))
		ret = -EINVAL;
	else if (p->flags & DJPROBE_FLAG_GONE)
		ret = -ENODEV;
	else if (disabled != !!(p->flags & DJPROBE_FLAG_DISABLED))
		ret = djp_update_all(&p, 1, disabled ? DJP_DISABLE : DJP_ENABLE,
				     &refusal);
	mutex_unlock(&djp_mutex);
	return ret;
}

/**
 * enable_djprobe() - let a disabled probe fire again
 * @p: a registered probe
 *
 * Context: as register_djprobes().
 * Return: 0, also if it was enabled; -EINVAL if it is not registered; -ENODEV if
 * its module is gone; or the errno of a reason.
 */
int enable_djprobe(struct djprobe *p)
{
	return djp_set_disabled(p, false);
}
EXPORT_SYMBOL_GPL(enable_djprobe);

/**
 * disable_djprobe() - take a probe out of the text and keep it
 * @p: a registered probe
 *
 * When it returns 0 the handler is not running. The count stays.
 *
 * Context: as register_djprobes().
 * Return: as enable_djprobe().
 */
int disable_djprobe(struct djprobe *p)
{
	return djp_set_disabled(p, true);
}
EXPORT_SYMBOL_GPL(disable_djprobe);

/**
 * commit_djprobes() - turn int3s into jumps
 *
 * One quiescence for all probes that wait, whoever registered them. Bounded in
 * time; what could not be proven safe stays in bypass, fires, and is tried again
 * in the background.
 *
 * Context: task, may sleep.
 * Return: how many sites are still in bypass, 0 if none; -ENOMEM; -ERESTARTSYS.
 */
int commit_djprobes(void)
{
	int ret;

	ret = djp_lock_freezable(&djp_commit_mutex);
	if (ret)
		return ret;
	ret = djp_commit_locked(DJP_COMMIT);
	mutex_unlock(&djp_commit_mutex);
	return ret;
}
EXPORT_SYMBOL_GPL(commit_djprobes);

/**
 * djprobe_hits() - how often a probe has been reached
 * @p: a registered probe
 *
 * Context: any in which @p can't be unregistered meanwhile.
 * Return: hits so far, the sum over all CPUs, without those in @p->missed.
 */
u64 djprobe_hits(const struct djprobe *p)
{
	return djp_counter_sum(p->counter, 0);
}
EXPORT_SYMBOL_GPL(djprobe_hits);
