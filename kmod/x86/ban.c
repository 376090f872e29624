// SPDX-License-Identifier: GPL-2.0
/*
 * Keeping kprobes out of a JTPR, through their own blacklist.
 *
 * While a site is in bypass its text behind the first instruction is the original,
 * and kprobes would accept one there. It would never be hit, for the detour goes on
 * behind the DCR; and once optimised, that would be in the middle of its jump.
 */
#include <linux/kprobes.h>
#include <linux/jiffies.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

/**
 * struct djp_ban - a JTPR on kprobes' blacklist
 * @entry: the blacklist's
 * @leaving: on the list of those that a worker takes off
 * @rcu: to free it
 */
struct djp_ban {
	struct kprobe_blacklist_entry	entry;
	union {
		struct llist_node	leaving;
		struct rcu_head		rcu;
	};
};

static LLIST_HEAD(djp_bans_leaving);

/* Of their size: there is one for each jump. */
static struct kmem_cache *djp_ban_cache;

static void djp_ban_free(struct rcu_head *head)
{
	kmem_cache_free(djp_ban_cache,
			container_of(head, struct djp_ban, rcu));
}

/**
 * djp_ban_alloc() - prepare to keep kprobes out of a site
 * @site: the site, by jump
 *
 * Context: djp_mutex held, may sleep. djp_ban_lift() frees it.
 * Return: 0 or -ENOMEM.
 */
int djp_ban_alloc(struct djp_site *site)
{
	if (site->ban || !djp_by_jump(site) || !djp_k.kprobe_blacklist)
		return 0;
	if (!djp_ban_cache)
		djp_ban_cache = KMEM_CACHE(djp_ban, 0);
	if (djp_ban_cache)
		site->ban = kmem_cache_zalloc(djp_ban_cache, GFP_KERNEL);
	return site->ban ? 0 : -ENOMEM;
}

/**
 * djp_ban_set() - keep kprobes out of a site from now on
 * @site: the site
 *
 * Who had looked at the blacklist before may still come.
 *
 * Context: kprobe_mutex held.
 */
void djp_ban_set(struct djp_site *site)
{
	struct djp_ban *ban = site->ban;

	if (!ban || ban->entry.end_addr)
		return;
	ban->entry.start_addr = site->dcr.addr + 1;
	ban->entry.end_addr = site->dcr.addr + site->dcr.len;
	/* At the beginning, so that the end tells of others (x86/known.c). */
	list_add_rcu(&ban->entry.list, djp_k.kprobe_blacklist);
}

static void djp_bans_leave(struct work_struct *work)
{
	struct llist_node *leaving;
	struct djp_ban *ban, *tmp;

	mutex_lock(djp_k.kprobe_mutex);
	leaving = llist_del_all(&djp_bans_leaving);
	llist_for_each_entry(ban, leaving, leaving)
		list_del_rcu(&ban->entry.list);
	mutex_unlock(djp_k.kprobe_mutex);
	llist_for_each_entry_safe(ban, tmp, leaving, leaving)
		call_rcu(&ban->rcu, djp_ban_free);
}

static DECLARE_WORK(djp_bans_work, djp_bans_leave);

/**
 * djp_ban_settle() - wait for those who had looked at the blacklist before
 *
 * From the look until its kprobe can be seen a task is in register_kprobe(). To take
 * kprobe_mutex behind it is not enough: it may have been preempted before it began to
 * wait for that.
 *
 * Context: djp_mutex held, may sleep, up to DJP_TEXT_PATIENCE.
 * Return: 0; -EAGAIN if somebody stays in it; -ENOMEM; -EOPNOTSUPP if this kernel has
 * no way to find out.
 */
int djp_ban_settle(void)
{
	unsigned long start = (unsigned long)register_kprobe, size, off;

	if (!djp_k.kallsyms_lookup_size_offset(start, &size, &off))
		return -EOPNOTSUPP;
	return djp_rendezvous_passed(start - off, start - off + size,
				     jiffies + DJP_TEXT_PATIENCE);
}

/**
 * djp_ban_lift() - kprobes may come again
 * @site: the site
 * @locked: kprobe_mutex is held
 *
 * At once if kprobe_mutex is held, otherwise as soon as a worker gets it: that may
 * take long, see djp_text_do().
 *
 * Context: djp_mutex held.
 */
void djp_ban_lift(struct djp_site *site, bool locked)
{
	struct djp_ban *ban = site->ban;

	if (!ban)
		return;
	site->ban = NULL;
	if (!ban->entry.end_addr) {
		kmem_cache_free(djp_ban_cache, ban);
	} else if (locked) {
		list_del_rcu(&ban->entry.list);
		call_rcu(&ban->rcu, djp_ban_free);
	} else {
		llist_add(&ban->leaving, &djp_bans_leaving);
		djp_text_queue(&djp_bans_work);
	}
}

/**
 * djp_ban_is() - is an entry of kprobes' blacklist ours?
 * @entry: the entry; only compared
 *
 * One that is being lifted is nobody's.
 *
 * Context: djp_mutex held.
 */
bool djp_ban_is(const struct kprobe_blacklist_entry *entry)
{
	const struct djp_site *site = djp_site_find(entry->start_addr - 1);

	return site && site->ban && entry == &site->ban->entry;
}

/**
 * djp_bans_exit() - free what bans were made of
 *
 * Context: module unload; none is left, and none is being freed.
 */
void djp_bans_exit(void)
{
	kmem_cache_destroy(djp_ban_cache);
}
