// SPDX-License-Identifier: GPL-2.0
/*
 * Loading, unloading, and what other modules do meanwhile.
 */
#include <linux/module.h>
#include <linux/notifier.h>

#include "core/internal.h"
#include "debugfs/debugfs.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

static int djp_module_notify(struct notifier_block *nb, unsigned long event,
			     void *data)
{
	mutex_lock(&djp_mutex);
	djp_known_stale();
	/* Relocated, with its alternatives and return thunks in place. */
	if (event == MODULE_STATE_COMING)
		djp_textmap_get(data);
	else if (event == MODULE_STATE_GOING)
		djp_module_gone(data);
	mutex_unlock(&djp_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block djp_module_nb = {
	.notifier_call = djp_module_notify,
};

static int __init djp_init(void)
{
	int ret;

	ret = djp_compat_init();
	if (ret)
		return ret;
	ret = djp_patch_init();
	if (ret)
		return ret;
	djp_known_init();
	ret = djp_textmap_init();
	if (ret)
		goto err_patch;
	ret = djp_int3_path_init();
	if (ret)
		goto err_textmap;
	ret = djp_exiting_init();
	if (ret)
		goto err_int3_path;
	ret = djp_trap_init();
	if (ret)
		goto err_exiting;
	ret = register_module_notifier(&djp_module_nb);
	if (ret)
		goto err_trap;
	djp_textmap_add_all();
	ret = djp_debugfs_init();
	if (ret)
		goto err_notifier;
	return 0;

err_notifier:
	unregister_module_notifier(&djp_module_nb);
err_trap:
	djp_trap_exit();
err_exiting:
	djp_exiting_exit();
err_int3_path:
	djp_int3_path_exit();
err_textmap:
	djp_textmap_exit();
err_patch:
	djp_patch_exit();
	djp_known_exit();
	return ret;
}

/*
 * No probe is left, no detour that was not reclaimed, and no grace period is pending:
 * each holds a reference to this module.
 */
static void __exit djp_exit(void)
{
	djp_debugfs_exit();
	unregister_module_notifier(&djp_module_nb);
	djp_commit_exit();
	djp_rcu_tasks_exit();
	djp_trap_exit();
	djp_exiting_exit();
	djp_int3_path_exit();
	djp_textmap_exit();
	djp_patch_exit();
	djp_known_exit();
	djp_slots_exit();
	djp_counters_exit();
	/* Sites and bans that are being freed. */
	rcu_barrier();
	djp_sites_exit();
	djp_bans_exit();
	djp_detours_exit();
}

module_init(djp_init);
module_exit(djp_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Direct-jump probes for live kernel code");
