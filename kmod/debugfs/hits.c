// SPDX-License-Identifier: GPL-2.0
/*
 * The files "hits", all counts in one short reading, and "maps", what they split into.
 */
#include <linux/percpu.h>
#include <linux/seq_file.h>

#include "core/internal.h"
#include "debugfs/debugfs.h"

/* A count is rarely longer; if all are, the reading is begun again with more room. */
#define DJP_HITS_LINE	12

/**
 * djp_hits_room() - about how much memory the file "hits" needs
 *
 * Return: bytes.
 */
size_t djp_hits_room(void)
{
	return PAGE_ALIGN(32 + READ_ONCE(djp_stats.probes) * DJP_HITS_LINE);
}

/**
 * djp_hits_show() - the file "hits"
 * @m: where to
 * @v: not used
 *
 * All of it at once, so that it fits one state of the list of probes.
 *
 * Return: 0 or a negative errno.
 */
int djp_hits_show(struct seq_file *m, void *v)
{
	const struct djprobe *p;

	mutex_lock(&djp_mutex);
	seq_printf(m, "%llu %lu\n", djp_generation, djp_stats.probes);
	list_for_each_entry(p, &djp_probes, node) {
		seq_put_decimal_ull(m, "", djp_counter_sum(p->counter, 0));
		seq_putc(m, '\n');
	}
	mutex_unlock(&djp_mutex);
	return 0;
}

static void djp_hist_show(struct seq_file *m, const struct djprobe *p)
{
	const struct djp_counter *counter = p->counter;
	unsigned int k;
	u64 hits;

	for (k = 0; k < DJP_HIST_BUCKETS; k++) {
		hits = djp_counter_sum(counter, counter->extra->hist + k);
		if (hits)
			seq_printf(m, "%s hist %llu %llu-%llu\n", p->name, hits,
				   k ? 1ull << (k - 1) : 0,
				   k ? ~0ull >> (64 - k) : 0);
	}
}

static void djp_cpus_show(struct seq_file *m, const struct djprobe *p)
{
	u64 hits;
	int cpu;

	for_each_possible_cpu(cpu) {
		hits = READ_ONCE(*per_cpu_ptr(p->counter->slot, cpu));
		if (hits)
			seq_printf(m, "%s cpu %llu %d\n", p->name, hits, cpu);
	}
}

/**
 * djp_maps_show() - the lines of one probe in the file "maps"
 * @m: where to
 * @p: the probe
 *
 * Context: djp_mutex held, may sleep.
 * Return: 0 or -ENOMEM.
 */
int djp_maps_show(struct seq_file *m, const struct djprobe *p)
{
	const struct djp_extra *extra = p->counter->extra;

	if (!extra)
		return 0;
	if (extra->hist)
		djp_hist_show(m, p);
	if (extra->options.by == DJP_BY_CPU)
		djp_cpus_show(m, p);
	return extra->map ? djp_map_show(m, p->name, extra->map) : 0;
}
