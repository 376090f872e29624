// SPDX-License-Identifier: GPL-2.0
/*
 * The files strategy, stats and blockers: how commits are done, and how they went.
 */
#include <linux/fs.h>
#include <linux/kallsyms.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "debugfs/debugfs.h"
#include "quiesce/quiesce.h"

/**
 * djp_strategy_show() - the strategies that this kernel offers, the current one marked
 * @m: where to
 * @v: unused
 *
 * Return: 0 or a negative errno.
 */
int djp_strategy_show(struct seq_file *m, void *v)
{
	/* It may be another at any time: one is marked, whichever. */
	const struct djp_strategy *current_one = djp_strategy_current();
	bool is_auto = djp_strategy_is_auto();
	const struct djp_strategy *strategy;
	unsigned int i;

	seq_puts(m, is_auto ? "[auto]" : "auto");
	for (i = 0; (strategy = djp_strategy_nth(i)); i++) {
		bool marked = !is_auto && strategy == current_one;

		if (strategy->offered())
			seq_printf(m, marked ? " [%s]" : " %s", strategy->name);
	}
	seq_putc(m, '\n');
	return 0;
}

/**
 * djp_strategy_write() - choose a strategy
 * @file: the file
 * @user: its name
 * @len: of it
 * @pos: unused
 *
 * Return: @len or a negative errno.
 */
ssize_t djp_strategy_write(struct file *file, const char __user *user,
			   size_t len, loff_t *pos)
{
	char *buf = djp_get_text(user, min_t(size_t, len, 64));
	int ret;

	if (IS_ERR(buf))
		return PTR_ERR(buf);
	ret = djp_strategy_choose(strim(buf));
	kvfree(buf);
	return ret ?: len;
}

/**
 * djp_stats_show() - numbers
 * @m: where to
 * @v: unused
 */
int djp_stats_show(struct seq_file *m, void *v)
{
	const struct djp_stats *s = &djp_stats;
	struct djp_site *site;
	unsigned long bypass = 0, int3 = 0, kprobe = 0;

	mutex_lock(&djp_mutex);
	list_for_each_entry(site, &djp_waiting, node)
		bypass++;
	list_for_each_entry(site, &djp_sites, node) {
		if (site->state != DJP_BYPASS)
			continue;
		int3 += site->verdict.method == DJPROBE_INT3;
		kprobe += site->verdict.method == DJPROBE_KPROBE;
	}
	seq_printf(m, "probes %lu\nsites %lu\n", s->probes, s->sites);
	seq_printf(m, "sites_jump %lu\nsites_bypass %lu\n", s->sites_jump,
		   bypass);
	seq_printf(m, "commits %lu\ncommits_partial %lu\n", s->commits,
		   s->commits_partial);
	seq_printf(m, "patched %lu\ndeferred %lu\nretries %lu\n", s->patched,
		   s->deferred, s->retries);
	seq_printf(m, "last_stop_ns %llu\nmax_stop_ns %llu\n", s->last_stop_ns,
		   s->max_stop_ns);
	seq_printf(m, "last_quiescence_ns %llu\n", s->last_quiescence_ns);
	seq_printf(m, "last_tasks %lu\nlast_words %lu\n", s->last_tasks,
		   s->last_words);
	seq_printf(m, "detour_bytes_live %lu\ndetour_bytes_retired %lu\n",
		   s->detour_bytes_live, s->detour_bytes_retired);
	seq_printf(m, "detours_reclaimed %lu\nrecursion_missed %lu\n",
		   s->detours_reclaimed,
		   atomic_long_read(&djp_recursion_missed));
	seq_printf(m, "sites_int3 %lu\nsites_kprobe %lu\n", int3, kprobe);
	seq_printf(m, "detour_bytes_mapped %lu\n", s->detour_bytes_mapped);
	seq_printf(m, "detours_retired %lu\ntasks_moved %lu\n",
		   s->detours_retired, s->tasks_moved);
	seq_printf(m, "last_commit_ns %llu\n", s->last_commit_ns);
	mutex_unlock(&djp_mutex);
	return 0;
}

static void djp_blocker_show(struct seq_file *m, const struct djp_blocker *b,
			     char *symbol)
{
	djp_symbolize(b->site, symbol, KSYM_SYMBOL_LEN);
	seq_printf(m, "%s 0x%016lx %s %d 0x%016lx ", b->reclaim ? "reclaim" :
		   "jump", b->site, symbol, b->pid, b->addr);
	if (b->detour)
		seq_printf(m, "detour+0x%lx", b->addr - b->detour);
	else if (b->addr)
		djp_symbolize(b->addr, symbol, KSYM_SYMBOL_LEN);
	if (!b->detour)
		seq_puts(m, b->addr ? symbol : "-");
	/* The last, for it may hold spaces. */
	seq_printf(m, " %s\n", b->comm);
}

/**
 * djp_blockers_show() - who holds up what
 * @m: where to
 * @v: unused
 *
 * Return: 0 or -ENOMEM.
 */
int djp_blockers_show(struct seq_file *m, void *v)
{
	char *symbol = kmalloc(KSYM_SYMBOL_LEN, GFP_KERNEL);
	const struct djp_blocker *blockers;
	unsigned int i, nr;

	if (!symbol)
		return -ENOMEM;
	mutex_lock(&djp_mutex);
	nr = djp_blockers(&blockers);
	for (i = 0; i < nr; i++)
		djp_blocker_show(m, &blockers[i], symbol);
	mutex_unlock(&djp_mutex);
	kfree(symbol);
	return 0;
}
