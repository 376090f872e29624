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
#include <linux/suspend.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"

/* Of the one commit that runs; djp_commit_mutex guards it. */
static unsigned int djp_sleep_flags;

static bool djp_freezer_offered(void)
{
	return djp_k.freeze_processes && djp_k.thaw_processes;
}

/*
 * A suspend freezes too, and thaws behind our back. lock_system_sleep() keeps it
 * out, and keeps us from being frozen by it while we wait.
 */
static int djp_freezer_begin(void)
{
	int ret;

	djp_sleep_flags = lock_system_sleep();
	ret = djp_k.freeze_processes();
	if (ret) {
		/* It has thawed them itself (kernel/power/process.c). */
		unlock_system_sleep(djp_sleep_flags);
	}
	return ret;
}

static void djp_freezer_end(void)
{
	djp_k.thaw_processes();
	unlock_system_sleep(djp_sleep_flags);
}

const struct djp_strategy djp_freezer = {
	.name = "freezer",
	.offered = djp_freezer_offered,
	.begin = djp_freezer_begin,
	.prove = djp_stop_and_scan,
	.end = djp_freezer_end,
};
