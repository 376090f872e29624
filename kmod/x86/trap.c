// SPDX-License-Identifier: GPL-2.0
/*
 * The int3 of a bypass: send the CPU to the detour.
 *
 * Nothing runs here but the redirection. The detour then runs in the context of
 * the probed code, as it does when it is reached by the jump. Kbuild sees to it
 * that nothing here can be traced.
 */
#include <linux/hash.h>
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/math.h>
#include <linux/notifier.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "x86/x86.h"

#define DJP_HASH_BITS 14

/* Sites by the bytes that they begin in: one or two heads have all that are near. */
#define DJP_BLOCK_SHIFT 6

static struct hlist_head djp_site_hash[1 << DJP_HASH_BITS];

/* The int3s among the bytes of jumps. */
static struct hlist_head djp_stray_hash[1 << DJP_HASH_BITS];

static nokprobe_inline struct hlist_head *djp_bucket(unsigned long addr)
{
	return &djp_site_hash[hash_long(addr >> DJP_BLOCK_SHIFT,
				       DJP_HASH_BITS)];
}

/**
 * djp_trap_find() - the site at an address
 * @addr: an insertion address
 *
 * Context: any, with djp_mutex held or inside an RCU read-side section
 * (preemption off is enough).
 * Return: the site, or NULL.
 */
struct djp_site *djp_trap_find(unsigned long addr)
{
	struct djp_site *site;

	hlist_for_each_entry_rcu_notrace(site, djp_bucket(addr), hash) {
		if (site->dcr.addr == addr)
			return site;
	}
	return NULL;
}
NOKPROBE_SYMBOL(djp_trap_find);

/**
 * djp_trap_next() - the first site in a range
 * @start: the first insertion address
 * @end: one behind the last
 *
 * Context: djp_mutex held.
 * Return: the site with the lowest address, or NULL.
 */
struct djp_site *djp_trap_next(unsigned long start, unsigned long end)
{
	struct djp_site *site, *found = NULL;
	unsigned long block = round_down(start, 1 << DJP_BLOCK_SHIFT);

	for (; block < end && !found; block += 1 << DJP_BLOCK_SHIFT) {
		hlist_for_each_entry(site, djp_bucket(block), hash) {
			unsigned long addr = site->dcr.addr;

			/* Others have the same hash. */
			if (addr - block < 1 << DJP_BLOCK_SHIFT &&
			    addr >= start && addr < end &&
			    (!found || addr < found->dcr.addr))
				found = site;
		}
	}
	return found;
}

static nokprobe_inline struct hlist_head *djp_stray_bucket(unsigned long addr)
{
	return &djp_stray_hash[hash_long(addr, DJP_HASH_BITS)];
}

/* Context: as djp_trap_find(). */
static nokprobe_inline struct djp_stray *djp_stray_find(unsigned long addr)
{
	struct djp_stray *stray;

	hlist_for_each_entry_rcu_notrace(stray, djp_stray_bucket(addr), hash) {
		if (stray->addr == addr)
			return stray;
	}
	return NULL;
}

/**
 * djp_strays_alloc() - prepare for the int3s among the bytes of a site's jump
 * @site: the site; freed with it
 *
 * Context: djp_mutex held, may sleep.
 * Return: 0 or -ENOMEM.
 */
int djp_strays_alloc(struct djp_site *site)
{
	u8 traps = site->dcr.traps;
	unsigned int k, i = 0;

	if (!traps)
		return 0;
	site->strays = kcalloc(hweight8(traps), sizeof(*site->strays),
			       GFP_KERNEL);
	if (!site->strays)
		return -ENOMEM;
	djp_for_each_trap(k, traps)
		site->strays[i++].addr = site->dcr.addr + k;
	return 0;
}

/**
 * djp_strays_enter() - where the int3 handler sends whoever branches in
 * @site: the site
 * @detour: to the same instruction of this; NULL for nowhere
 *
 * Context: djp_mutex held.
 */
void djp_strays_enter(struct djp_site *site, const struct djp_detour *detour)
{
	const struct djp_dcr *dcr = &site->dcr;
	unsigned int n, i;

	for (n = 0; n < hweight8(dcr->traps); n++) {
		struct djp_stray *stray = &site->strays[n];
		unsigned long entry = 0;

		for (i = 0; detour && i < dcr->nr_insns; i++) {
			if (dcr->addr + dcr->insns[i].off == stray->addr)
				entry = detour->text + detour->insns[i];
		}
		WRITE_ONCE(stray->entry, entry);
	}
}

/**
 * djp_trap_add() - let the int3 handler know a site
 * @site: the site; its @entry is set
 *
 * Context: djp_mutex held. Before the int3 is written.
 */
void djp_trap_add(struct djp_site *site)
{
	unsigned int i;

	hlist_add_head_rcu(&site->hash, djp_bucket(site->dcr.addr));
	for (i = 0; i < hweight8(site->dcr.traps); i++)
		hlist_add_head_rcu(&site->strays[i].hash,
				   djp_stray_bucket(site->strays[i].addr));
}

/**
 * djp_trap_del() - let the int3 handler forget a site
 * @site: the site
 *
 * Context: djp_mutex held. After the int3 was taken out and djp_text_sync()
 * returned; the site's memory must outlive an RCU grace period.
 */
void djp_trap_del(struct djp_site *site)
{
	unsigned int i;

	hlist_del_rcu(&site->hash);
	for (i = 0; i < hweight8(site->dcr.traps); i++)
		hlist_del_rcu(&site->strays[i].hash);
}

/**
 * djp_int3_notify() - the die-chain notifier
 * @nb: not used
 * @val: DIE_INT3 is ours
 * @data: struct die_args
 *
 * Context: NMI-like, interrupts off. Calls nothing that may be probed.
 * Return: NOTIFY_STOP if the int3 was ours.
 */
int djp_int3_notify(struct notifier_block *nb, unsigned long val,
			    void *data)
{
	struct die_args *args = data;
	unsigned long addr = args->regs->ip - 1;
	unsigned long entry = 0;
	struct djp_stray *stray;
	struct djp_site *site;

	if (val != DIE_INT3 || user_mode(args->regs))
		return NOTIFY_DONE;

	site = djp_trap_find(addr);
	if (site)
		entry = READ_ONCE(site->entry);
	/* Where a site begins whose probes are disabled, another's jump may be. */
	if (!entry) {
		stray = djp_stray_find(addr);
		if (stray)
			entry = READ_ONCE(stray->entry);
	}
	/* Somebody else's int3. */
	if (!entry)
		return NOTIFY_DONE;

	args->regs->ip = entry;
	return NOTIFY_STOP;
}
NOKPROBE_SYMBOL(djp_int3_notify);

/*
 * The highest priority: what runs before us on the chain can't be probed, and
 * kprobes' and hw_breakpoint's notifiers have INT_MAX as well.
 */
static struct notifier_block djp_int3_nb = {
	.notifier_call = djp_int3_notify,
	.priority = INT_MAX,
};

/**
 * djp_trap_init() - start to handle int3s
 *
 * Context: may sleep.
 * Return: 0 or a negative errno.
 */
int djp_trap_init(void)
{
	return register_die_notifier(&djp_int3_nb);
}

/**
 * djp_trap_exit() - stop handling int3s
 *
 * Context: may sleep. No int3 of ours is in the text any more; when this
 * returns, no CPU runs the handler.
 */
void djp_trap_exit(void)
{
	unregister_die_notifier(&djp_int3_nb);
}
