// SPDX-License-Identifier: GPL-2.0
/*
 * A device that does not let the machine suspend.
 *
 * It is asked when all tasks are frozen already, kernel threads too: an attempt to
 * suspend then freezes everything, fails, and thaws it. So while this module is
 * loaded an attempt is never more than that.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/pm.h>

#include "djp_test.h"

static struct platform_device *djp_refuse_device;
static u32 djp_refusals;

static int djp_refuse_prepare(struct device *dev)
{
	djp_refusals++;
	return -EBUSY;
}

static const struct dev_pm_ops djp_refuse_pm = {
	.prepare = djp_refuse_prepare,
};

static struct platform_driver djp_refuse_driver = {
	.driver = {
		.name = "djp_refuse",
		.pm = &djp_refuse_pm,
	},
};

/**
 * djp_test_refuse_init() - refuse to suspend; make the file "refusals"
 * @dir: where
 *
 * The file has the number of attempts that were refused.
 *
 * Return: 0 or a negative errno.
 */
int djp_test_refuse_init(struct dentry *dir)
{
	int ret = platform_driver_register(&djp_refuse_driver);

	if (ret)
		return ret;
	djp_refuse_device = platform_device_register_simple("djp_refuse",
							    PLATFORM_DEVID_NONE,
							    NULL, 0);
	if (IS_ERR(djp_refuse_device)) {
		platform_driver_unregister(&djp_refuse_driver);
		return PTR_ERR(djp_refuse_device);
	}
	debugfs_create_u32("refusals", 0400, dir, &djp_refusals);
	return 0;
}

/**
 * djp_test_refuse_exit() - the machine may suspend again
 */
void djp_test_refuse_exit(void)
{
	platform_device_unregister(djp_refuse_device);
	platform_driver_unregister(&djp_refuse_driver);
}
