// SPDX-License-Identifier: GPL-2.0
/*
 * The addresses that nobody may stand in, and who was found there.
 *
 * Every word of every stack is looked up here, so what a look-up costs must not
 * depend on how many probes there are: a Bloom filter of the 16 bytes that an address
 * is in sends away all but few words; those are searched for among the sorted ranges.
 */
#include <linux/bitmap.h>
#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

#define DJP_GRANULE_SHIFT	4
/*
 * So many bits of the filter for each danger. It is in one granule or two mostly, with
 * two bits each: one word in some hundred is a false alarm.
 */
#define DJP_FILTER_SPARSE	32

static int djp_danger_cmp(const void *a, const void *b)
{
	const struct djp_danger *da = a, *db = b;

	return da->start < db->start ? -1 : da->start > db->start;
}

/* Which bits of the filter are an address's: two cuts from one product. */
struct djp_bits {
	unsigned long	first;
	unsigned long	second;
};

static struct djp_bits djp_bits(const struct djp_proof *proof,
				unsigned long addr)
{
	u64 hash = (addr >> DJP_GRANULE_SHIFT) * GOLDEN_RATIO_64;

	return (struct djp_bits) {
		.first = hash >> (64 - proof->filter_bits),
		.second = (hash >> (64 - 2 * proof->filter_bits)) &
			  (BIT(proof->filter_bits) - 1),
	};
}

/**
 * djp_dangers_index() - prepare a proof's dangers for look-ups
 * @proof: has @dangers and @nr
 *
 * Context: may sleep. djp_proof_free() frees what was allocated.
 * Return: 0 or -ENOMEM.
 */
int djp_dangers_index(struct djp_proof *proof)
{
	unsigned long addr;
	unsigned int i;

	/* They are mostly in order already, and then it takes the longest. */
	for (i = 1; i < proof->nr; i++) {
		if (proof->dangers[i].start < proof->dangers[i - 1].start)
			break;
	}
	if (i < proof->nr)
		sort(proof->dangers, proof->nr, sizeof(*proof->dangers),
		     djp_danger_cmp, NULL);
	proof->filter_bits = order_base_2(max(proof->nr, 2u) *
					  DJP_FILTER_SPARSE);
	proof->filter = kvcalloc(BITS_TO_LONGS(BIT(proof->filter_bits)),
				 sizeof(long), GFP_KERNEL);
	if (!proof->filter)
		return -ENOMEM;
	for (i = 0; i < proof->nr; i++) {
		const struct djp_danger *d = &proof->dangers[i];

		for (addr = round_down(d->start, 1 << DJP_GRANULE_SHIFT);
		     addr < d->end; addr += 1 << DJP_GRANULE_SHIFT) {
			struct djp_bits bits = djp_bits(proof, addr);

			__set_bit(bits.first, proof->filter);
			__set_bit(bits.second, proof->filter);
		}
	}
	return 0;
}

/**
 * djp_danger_at() - the danger that an address is in
 * @proof: indexed
 * @addr: the address
 *
 * Context: any.
 * Return: the danger, or NULL.
 */
struct djp_danger *djp_danger_at(const struct djp_proof *proof,
				 unsigned long addr)
{
	unsigned int lo = 0, hi = proof->nr;
	struct djp_bits bits;

	/* Most words are no kernel addresses at all. */
	if ((long)addr >= 0)
		return NULL;
	bits = djp_bits(proof, addr);
	if (!test_bit(bits.first, proof->filter) ||
	    !test_bit(bits.second, proof->filter))
		return NULL;
	while (lo < hi) {
		unsigned int mid = lo + (hi - lo) / 2;
		struct djp_danger *danger = &proof->dangers[mid];

		if (addr < danger->start)
			hi = mid;
		else if (addr >= danger->end)
			lo = mid + 1;
		else
			return danger;
	}
	return NULL;
}

/**
 * djp_danger_mark() - somebody is in a danger
 * @proof: the proof
 * @danger: of it
 * @task: who, or NULL
 * @addr: the word that was found, or 0
 *
 * The first that was found in a danger becomes its blocker.
 *
 * Context: any; on several CPUs at once.
 */
void djp_danger_mark(struct djp_proof *proof, struct djp_danger *danger,
		     const struct task_struct *task, unsigned long addr)
{
	struct djp_blocker *blocker;
	unsigned int i;

	if (xchg(&danger->busy, true))
		return;
	i = atomic_inc_return(&proof->nr_blockers) - 1;
	if (i >= DJP_BLOCKERS_MAX)
		return;
	blocker = &proof->blockers[i];
	blocker->site = danger->site;
	blocker->reclaim = danger->reclaim;
	blocker->addr = addr;
	if (danger->reclaim && addr >= danger->start && addr < danger->end)
		blocker->detour = danger->start;
	blocker->pid = task ? task->pid : 0;
	strscpy(blocker->comm, task ? task->comm : "-", sizeof(blocker->comm));
}

/**
 * djp_danger_mark_landing() - a site waits for whoever is in a retired detour
 * @proof: has found somebody there, or was made before it was retired
 * @detour: goes back into the bytes that the site would cover
 * @site: its insertion address
 *
 * Context: nobody else changes @proof.
 */
void djp_danger_mark_landing(struct djp_proof *proof,
			     const struct djp_detour *detour, unsigned long site)
{
	unsigned int i, nr = min(atomic_read(&proof->nr_blockers),
				 DJP_BLOCKERS_MAX);
	struct djp_blocker *blocker;

	if (atomic_inc_return(&proof->nr_blockers) > DJP_BLOCKERS_MAX)
		return;
	blocker = &proof->blockers[nr];
	strscpy(blocker->comm, "-", sizeof(blocker->comm));
	for (i = 0; i < nr; i++) {
		const struct djp_blocker *one = &proof->blockers[i];

		if (one->reclaim && one->detour == detour->text)
			*blocker = *one;
	}
	blocker->site = site;
	blocker->reclaim = false;
}

/**
 * djp_proof_close() - nothing more will be found
 * @proof: its @nr_busy is set
 */
void djp_proof_close(struct djp_proof *proof)
{
	unsigned int i;

	proof->nr_busy = 0;
	for (i = 0; i < proof->nr; i++)
		proof->nr_busy += proof->dangers[i].busy;
}

/**
 * djp_proof_free() - free what a proof has allocated, and its dangers
 * @proof: the proof
 */
void djp_proof_free(struct djp_proof *proof)
{
	kvfree(proof->filter);
	kvfree(proof->dangers);
}
