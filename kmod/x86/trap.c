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
#include <linux/notifier.h>
#include <linux/rculist.h>

#include "x86/x86.h"

#define DJP_HASH_BITS 14

static struct hlist_head djp_site_hash[1 << DJP_HASH_BITS];

static nokprobe_inline struct hlist_head *djp_bucket(unsigned long addr)
{
	return &djp_site_hash[hash_long(addr, DJP_HASH_BITS)];
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
 * djp_trap_add() - let the int3 handler know a site
 * @site: the site; its @entry is set
 *
 * Context: djp_mutex held. Before the int3 is written.
 */
void djp_trap_add(struct djp_site *site)
{
	hlist_add_head_rcu(&site->hash, djp_bucket(site->dcr.addr));
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
	hlist_del_rcu(&site->hash);
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
	struct djp_site *site;
	unsigned long entry;

	if (val != DIE_INT3 || user_mode(args->regs))
		return NOTIFY_DONE;

	site = djp_trap_find(args->regs->ip - 1);
	if (!site)
		return NOTIFY_DONE;
	/* Somebody else's int3, at a site whose probes are disabled. */
	entry = READ_ONCE(site->entry);
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
