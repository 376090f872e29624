// SPDX-License-Identifier: GPL-2.0
/*
 * Strategy "freezer": freeze, then look.
 *
 * The freezer alone proves nothing on a preemptible kernel. It does not stop
 * kernel threads, and a user task may be frozen wherever in the kernel it waits.
 * So the proof is the scan; freezing makes user tasks leave what they can leave,
 * and keeps them from being found in a detour again and again.
 */
#include <linux/freezer.h>
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/suspend.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

static bool djp_freezer_offered(void)
{
	return djp_k.freeze_processes && djp_k.thaw_processes &&
		djp_k.freeze_timeout_msecs && djp_k.system_transition_mutex;
}

/*
 * As lock_system_sleep(), kernel/power/main.c; but that waits for as long as a suspend
 * takes. It keeps others from freezing, and us from being frozen.
 */
static bool djp_trylock_system_sleep(unsigned int *flags)
{
	*flags = current->flags;
	current->flags |= PF_NOFREEZE;
	if (mutex_trylock(djp_k.system_transition_mutex))
		return true;
	if (!(*flags & PF_NOFREEZE))
		current->flags &= ~PF_NOFREEZE;
	return false;
}

static int djp_freeze_until(unsigned long deadline)
{
	unsigned int timeout = *djp_k.freeze_timeout_msecs;
	long left = deadline - jiffies;
	int ret;

	/* Shared with suspend, which system_transition_mutex keeps out. */
	*djp_k.freeze_timeout_msecs = clamp_t(long, jiffies_to_msecs(max(left, 1l)),
					      1, timeout);
	ret = djp_k.freeze_processes();
	*djp_k.freeze_timeout_msecs = timeout;
	return ret;
}

static int djp_freeze_and(struct djp_proof *proof,
			  int (*prove)(struct djp_proof *proof))
{
	unsigned int flags;
	int ret;

	if (!djp_trylock_system_sleep(&flags))
		return -EAGAIN;
	/* If it fails it has thawed them itself (kernel/power/process.c). */
	ret = djp_freeze_until(proof->deadline);
	if (!ret) {
		/* Nobody can enter a danger: it stays as it was proven. */
		ret = prove(proof);
		djp_k.thaw_processes();
	}
	unlock_system_sleep(flags);
	return ret;
}

static int djp_freezer_prove(struct djp_proof *proof)
{
	/*
	 * The scan alone is a proof. In the background that has to do, and when
	 * somebody could not be frozen: a task that is preempted can't.
	 */
	if (proof->gentle || djp_freeze_and(proof, djp_stop_and_scan))
		return djp_stop_and_scan(proof);
	return 0;
}

const struct djp_strategy djp_freezer = {
	.name = "freezer",
	.offered = djp_freezer_offered,
	.prove = djp_freezer_prove,
};

static bool djp_freeze_only_offered(void)
{
	return djp_unsafe && djp_freezer_offered();
}

static int djp_freeze_only_prove(struct djp_proof *proof)
{
	return proof->gentle ? 0 : djp_freeze_and(proof, djp_none.prove);
}

const struct djp_strategy djp_freeze_only = {
	.name = "freeze_only",
	.offered = djp_freeze_only_offered,
	.prove = djp_freeze_only_prove,
};
