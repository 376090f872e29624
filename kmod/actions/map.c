// SPDX-License-Identifier: GPL-2.0
/*
 * Hits by task: a table on each CPU, open addressing, no lock.
 *
 * Only its CPU writes to a table, with preemption off; an interrupt or NMI may do so in
 * between. So a free entry is claimed by one instruction; who meets an entry that is
 * being filled in takes another, and the reader adds up what has the same key. Entries are
 * never given up.
 */
#include <linux/hash.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <asm/local.h>

#include "actions/actions.h"
#include "compat.h"

/* Twice as many as keys, so that searches are short. */
#define DJP_MAP_BITS	11
#define DJP_MAP_SIZE	(1u << DJP_MAP_BITS)

enum { DJP_KEY_FREE, DJP_KEY_BUSY, DJP_KEY_READY };

/**
 * struct djp_key - what hits are split by
 * @pid: the task's, or 0
 * @comm: the task's name, filled up with 0; or all 0
 * @name: the same in words
 */
struct djp_key {
	u32			pid;
	union {
		char		comm[TASK_COMM_LEN];
		u64		name[2];
	};
};

static_assert(TASK_COMM_LEN == 2 * sizeof(u64));

/**
 * struct djp_map_entry - one key and its hits
 * @hits: how many
 * @state: DJP_KEY_*
 * @key: valid if @state is DJP_KEY_READY
 */
struct djp_map_entry {
	local_t		hits;
	int		state;
	struct djp_key	key;
};

/**
 * struct djp_table - one CPU's part of a map
 * @keys: how many entries are in use
 * @other: hits that no entry was left for
 * @entries: the entries
 */
struct djp_table {
	local_t			keys;
	local_t			other;
	struct djp_map_entry	entries[DJP_MAP_SIZE];
};

/**
 * struct djp_map - hits by task
 * @by: by what of it
 * @tables: one for each possible CPU
 */
struct djp_map {
	enum djp_by		by;
	struct djp_table	*tables[];
};

/**
 * djp_map_alloc() - an empty map
 * @by: DJP_BY_PID or DJP_BY_COMM
 *
 * Context: may sleep.
 * Return: the map, to be freed with djp_map_free(), or NULL.
 */
struct djp_map *djp_map_alloc(enum djp_by by)
{
	struct djp_map *map;
	int cpu;

	map = kzalloc(struct_size(map, tables, nr_cpu_ids), GFP_KERNEL);
	if (!map)
		return NULL;
	map->by = by;
	for_each_possible_cpu(cpu) {
		map->tables[cpu] = kvzalloc_node(sizeof(struct djp_table),
						 GFP_KERNEL, cpu_to_node(cpu));
		if (!map->tables[cpu]) {
			djp_map_free(map);
			return NULL;
		}
	}
	return map;
}

/**
 * djp_map_free() - free a map
 * @map: the map, which nobody writes to any more; or NULL
 *
 * Context: may sleep.
 */
void djp_map_free(struct djp_map *map)
{
	int cpu;

	if (!map)
		return;
	for_each_possible_cpu(cpu)
		kvfree(map->tables[cpu]);
	kfree(map);
}

/* Of @key only what @by is about; the rest of an entry's key stays 0. */
static nokprobe_inline u32 djp_key_fill(struct djp_key *key, enum djp_by by)
{
	const u64 *words = (const u64 *)current->comm;

	if (by == DJP_BY_PID) {
		key->pid = current->pid;
		return hash_32(key->pid, DJP_MAP_BITS);
	}
	/* By words: strscpy() may be probed. The name ends with a 0. */
	key->name[0] = READ_ONCE(words[0]);
	key->name[1] = READ_ONCE(words[1]);
	return hash_64(key->name[0] ^ hash_64(key->name[1], 64), DJP_MAP_BITS);
}

static nokprobe_inline bool djp_key_same(const struct djp_key *a,
					 const struct djp_key *b, enum djp_by by)
{
	return by == DJP_BY_PID ? a->pid == b->pid :
		a->name[0] == b->name[0] && a->name[1] == b->name[1];
}

/* The entry of a key, a new one if need be; NULL if there is no room. */
static nokprobe_inline struct djp_map_entry *
djp_entry_of(struct djp_table *table, const struct djp_key *key, enum djp_by by,
	     u32 at)
{
	struct djp_map_entry *entry;
	unsigned int n;

	for (n = 0; n < DJP_MAP_SIZE; n++) {
		entry = &table->entries[(at + n) & (DJP_MAP_SIZE - 1)];
		if (READ_ONCE(entry->state) == DJP_KEY_READY &&
		    djp_key_same(&entry->key, key, by))
			return entry;
		if (READ_ONCE(entry->state) != DJP_KEY_FREE)
			continue;
		if (local_read(&table->keys) >= DJP_MAP_KEYS)
			return NULL;
		if (cmpxchg_local(&entry->state, DJP_KEY_FREE, DJP_KEY_BUSY) !=
		    DJP_KEY_FREE)
			continue;
		local_inc(&table->keys);
		if (by == DJP_BY_PID)
			entry->key.pid = key->pid;
		else
			memcpy(entry->key.name, key->name, sizeof(key->name));
		smp_store_release(&entry->state, DJP_KEY_READY);
		return entry;
	}
	return NULL;
}

/**
 * djp_map_hit() - count a hit for the current task
 * @map: where
 *
 * Context: any, preemption off.
 */
notrace void djp_map_hit(struct djp_map *map)
{
	struct djp_table *table = map->tables[raw_smp_processor_id()];
	struct djp_map_entry *entry;
	struct djp_key key __uninitialized;
	u32 at = djp_key_fill(&key, map->by);

	entry = djp_entry_of(table, &key, map->by, at);
	local_inc(entry ? &entry->hits : &table->other);
}
NOKPROBE_SYMBOL(djp_map_hit);

/**
 * struct djp_map_sum - a key and its hits on all CPUs
 * @key: the key
 * @hits: how many
 */
struct djp_map_sum {
	struct djp_key	key;
	u64		hits;
};

static int djp_map_sum_cmp(const void *a, const void *b)
{
	const struct djp_map_sum *x = a;
	const struct djp_map_sum *y = b;

	if (x->key.pid != y->key.pid)
		return x->key.pid < y->key.pid ? -1 : 1;
	return memcmp(x->key.comm, y->key.comm, sizeof(x->key.comm));
}

/* All entries of all CPUs; @sums has room for as many as there can be. */
static unsigned int djp_map_collect(const struct djp_map *map,
				    struct djp_map_sum *sums, u64 *other)
{
	unsigned int nr = 0, i, last = 0;
	int cpu;

	*other = 0;
	for_each_possible_cpu(cpu) {
		const struct djp_table *table = map->tables[cpu];

		*other += local_read(&table->other);
		for (i = 0; i < DJP_MAP_SIZE; i++) {
			const struct djp_map_entry *e = &table->entries[i];

			if (smp_load_acquire(&e->state) != DJP_KEY_READY)
				continue;
			sums[nr].key = e->key;
			sums[nr++].hits = local_read(&e->hits);
		}
		cond_resched();
	}
	if (!nr)
		return 0;
	sort(sums, nr, sizeof(*sums), djp_map_sum_cmp, NULL);
	for (i = 1; i < nr; i++) {
		if (!djp_map_sum_cmp(&sums[last], &sums[i]))
			sums[last].hits += sums[i].hits;
		else
			sums[++last] = sums[i];
	}
	return last + 1;
}

static void djp_map_show_key(struct seq_file *m, const struct djp_map *map,
			     const struct djp_key *key)
{
	char comm[TASK_COMM_LEN + 1];

	if (map->by == DJP_BY_PID) {
		seq_printf(m, "%u\n", key->pid);
		return;
	}
	memcpy(comm, key->comm, TASK_COMM_LEN);
	comm[TASK_COMM_LEN] = '\0';
	seq_escape(m, comm, "\n\\");
	seq_putc(m, '\n');
}

/**
 * djp_map_show() - the lines of a map for the file "maps"
 * @m: where to
 * @name: the probe's
 * @map: the map
 *
 * Context: may sleep; the map does not go meanwhile.
 * Return: 0 or -ENOMEM.
 */
int djp_map_show(struct seq_file *m, const char *name, const struct djp_map *map)
{
	struct djp_map_sum *sums;
	unsigned int nr, i;
	u64 other;

	sums = kvcalloc(num_possible_cpus(), DJP_MAP_SIZE * sizeof(*sums),
			GFP_KERNEL);
	if (!sums)
		return -ENOMEM;
	nr = djp_map_collect(map, sums, &other);
	for (i = 0; i < nr; i++) {
		if (!sums[i].hits)
			continue;
		seq_printf(m, "%s %s %llu ", name,
			   map->by == DJP_BY_PID ? "pid" : "comm", sums[i].hits);
		djp_map_show_key(m, map, &sums[i].key);
	}
	if (other)
		seq_printf(m, "%s other %llu -\n", name, other);
	kvfree(sums);
	return 0;
}
