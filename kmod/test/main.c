// SPDX-License-Identifier: GPL-2.0
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "djp_test.h"

unsigned long djp_test_rip_calls;

static struct dentry *djp_test_dir;

static long djp_test_check_plain(void)
{
	return djp_test_plain(39) - 42;
}

static long djp_test_check_rip(void)
{
	return djp_test_rip() - 7;
}

static long djp_test_check_branch(void)
{
	return djp_test_branch() - 5;
}

static long djp_test_check_patched(void)
{
	return djp_test_patched(39) - 42;
}

static long djp_test_check_victim(void)
{
	return djp_test_victim() - 2;
}

static long djp_test_check_cold(void)
{
	return djp_test_cold(37, 0) - 42;
}

/* Does not arrive at the probe point. */
static long djp_test_check_cold_cold(void)
{
	return djp_test_cold(37, 1) - (37 + 0x104);
}

static long djp_test_check_strays(void)
{
	long wrong = 0;
	long k;

	for (k = 0; k < 5; k++)
		wrong |= djp_test_strays(k) - (5 - k);
	return wrong;
}

static long djp_test_check_strays_123(void)
{
	long wrong = 0;
	long k;

	for (k = 0; k < 4; k++)
		wrong |= djp_test_strays_123(k) - (5 - k);
	return wrong;
}

static long djp_test_check_stray_1(void)
{
	return (djp_test_stray_1(0) - 5) | (djp_test_stray_1(1) - 4);
}

static long djp_test_check_stray_2(void)
{
	return (djp_test_stray_2(0) - 5) | (djp_test_stray_2(2) - 3);
}

static long djp_test_check_stray_3(void)
{
	return (djp_test_stray_3(0) - 5) | (djp_test_stray_3(3) - 2);
}

static long djp_test_check_stray_4(void)
{
	return (djp_test_stray_4(0) - 5) | (djp_test_stray_4(4) - 1);
}

/* Two arrivals, one of which faults: nothing is mapped in the last page. */
static long djp_test_check_extable(void)
{
	static const u32 seven = 7;

	return (djp_test_extable(&seven) - 8) |
	       (djp_test_extable((const u32 *)PAGE_MASK) + 1);
}

static long djp_test_check_endbr(void)
{
	return djp_test_endbr(39) - 42;
}

static long djp_test_check_entered(void)
{
	return djp_test_entered(39) - 42;
}

static long djp_test_check_neighbours(void)
{
	return djp_test_neighbours(11) - 42;
}

static long djp_test_check_out_of_step(void)
{
	return djp_test_out_of_step(11) - 42;
}

/* Right is each of the four, whatever the file "flip" is at. */
static long djp_test_check_flipped(void)
{
	long more = djp_test_flipped(0) & ~0x10;

	return more != 1 && more != 2;
}

/* Each returns 0 if its function did what it should. */
static const struct {
	const char *name;
	long (*check)(void);
} djp_test_targets[] = {
	{ "djp_test_plain", djp_test_check_plain },
	{ "djp_test_rip", djp_test_check_rip },
	{ "djp_test_state", djp_test_state },
	{ "djp_test_branch", djp_test_check_branch },
	{ "djp_test_patched", djp_test_check_patched },
	{ "djp_test_victim", djp_test_check_victim },
	{ "djp_test_jcc", djp_test_jcc },
	{ "djp_test_jmp", djp_test_jmp },
	{ "djp_test_loop", djp_test_loop },
	{ "djp_test_call", djp_test_call },
	{ "djp_test_icall", djp_test_icall },
	{ "djp_test_ijmp", djp_test_ijmp },
	{ "djp_test_ret", djp_test_ret },
	{ "djp_test_cold", djp_test_check_cold },
	{ "djp_test_cold.cold", djp_test_check_cold_cold },
	{ "djp_test_midcall", djp_test_midcall },
	{ "djp_test_shortjmp", djp_test_shortjmp },
	{ "djp_test_strays", djp_test_check_strays },
	{ "djp_test_strays_123", djp_test_check_strays_123 },
	{ "djp_test_stray_1", djp_test_check_stray_1 },
	{ "djp_test_stray_2", djp_test_check_stray_2 },
	{ "djp_test_stray_3", djp_test_check_stray_3 },
	{ "djp_test_stray_4", djp_test_check_stray_4 },
	{ "djp_test_extable", djp_test_check_extable },
	{ "djp_test_endbr", djp_test_check_endbr },
	{ "djp_test_entered", djp_test_check_entered },
	{ "djp_test_neighbours", djp_test_check_neighbours },
	{ "djp_test_out_of_step", djp_test_check_out_of_step },
	{ "djp_test_flipped", djp_test_check_flipped },
};

static unsigned long djp_test_calls[ARRAY_SIZE(djp_test_targets)];
static unsigned long djp_test_wrong[ARRAY_SIZE(djp_test_targets)];

/**
 * djp_test_find() - a function of this module's by its name
 * @name: as it stands in the file "call"
 *
 * Return: its number, or -ENOENT.
 */
int djp_test_find(const char *name)
{
	unsigned int which;

	for (which = 0; which < ARRAY_SIZE(djp_test_targets); which++) {
		if (!strcmp(name, djp_test_targets[which].name))
			return which;
	}
	return -ENOENT;
}

/**
 * djp_test_name() - its name
 * @which: its number
 */
const char *djp_test_name(int which)
{
	return djp_test_targets[which].name;
}

/**
 * djp_test_check() - call it once
 * @which: its number
 *
 * Return: 0 if it did what it should.
 */
long djp_test_check(int which)
{
	return djp_test_targets[which].check();
}

static void djp_test_drive(unsigned int which, unsigned long n)
{
	while (n--) {
		djp_test_calls[which]++;
		djp_test_wrong[which] += djp_test_check(which) != 0;
		cond_resched();
	}
}

/*
 * "call": write N and each function is called N times and checks itself; or
 * "NAME N", and that one is.
 */
static ssize_t djp_test_call_write(struct file *file, const char __user *user,
				   size_t len, loff_t *pos)
{
	char buf[64] = "";
	char *number = buf;
	const char *name;
	unsigned long n;
	unsigned int which;
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	name = strsep(&number, " ");
	ret = kstrtoul(strim(number ?: buf), 0, &n);
	if (ret)
		return ret;
	if (number) {
		ret = djp_test_find(name);
		if (ret < 0)
			return ret;
		djp_test_drive(ret, n);
		return len;
	}
	for (which = 0; which < ARRAY_SIZE(djp_test_targets); which++)
		djp_test_drive(which, n);
	return len;
}

/* A line for each function: name, calls, wrong results. */
static int djp_test_call_show(struct seq_file *m, void *v)
{
	unsigned int which;

	for (which = 0; which < ARRAY_SIZE(djp_test_targets); which++)
		seq_printf(m, "%s %lu %lu\n", djp_test_targets[which].name,
			   djp_test_calls[which], djp_test_wrong[which]);
	return 0;
}

static int djp_test_call_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_test_call_show, NULL);
}

static const struct file_operations djp_test_call_fops = {
	.owner = THIS_MODULE,
	.open = djp_test_call_open,
	.read = seq_read,
	.write = djp_test_call_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int __init djp_test_init(void)
{
	int ret;

	djp_test_dir = debugfs_create_dir("djp_test", NULL);
	if (IS_ERR(djp_test_dir))
		return PTR_ERR(djp_test_dir);
	debugfs_create_file("call", 0600, djp_test_dir, NULL,
			    &djp_test_call_fops);
	djp_test_patched_init(djp_test_dir);
	djp_test_load_init(djp_test_dir);
	djp_test_churn_init(djp_test_dir);
	djp_test_spin_init(djp_test_dir);
	djp_test_victim_init(djp_test_dir);
	djp_test_plans_init(djp_test_dir);
	djp_test_cost_init(djp_test_dir);
	djp_test_options_init(djp_test_dir);
	djp_test_many_handlers_init(djp_test_dir);
	ret = djp_test_handlers_init(djp_test_dir);
	if (ret)
		goto err_dir;
	ret = djp_test_hold_init(djp_test_dir);
	if (ret)
		goto err_handlers;
	ret = djp_test_peers_init(djp_test_dir);
	if (ret)
		goto err_hold;
	ret = djp_test_refuse_init(djp_test_dir);
	if (ret)
		goto err_peers;
	ret = djp_test_nest_init(djp_test_dir);
	if (ret)
		goto err_refuse;
	return 0;

err_refuse:
	djp_test_refuse_exit();
err_peers:
	djp_test_peers_exit();
err_hold:
	djp_test_hold_exit();
err_handlers:
	djp_test_handlers_exit();
err_dir:
	debugfs_remove_recursive(djp_test_dir);
	return ret;
}

static void __exit djp_test_exit(void)
{
	debugfs_remove_recursive(djp_test_dir);
	djp_test_refuse_exit();
	djp_test_spin_exit();
	djp_test_churn_exit();
	djp_test_load_exit();
	djp_test_nest_exit();
	djp_test_peers_exit();
	djp_test_hold_exit();
	djp_test_victim_exit();
	djp_test_handlers_exit();
	djp_test_many_handlers_exit();
}

module_init(djp_test_init);
module_exit(djp_test_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Functions made to be probed, and adversaries, for djprobes' tests");
