// SPDX-License-Identifier: GPL-2.0
/*
 * A function whose arguments are known, for probes that look at them.
 *
 * It has an ftrace site, so that the kernel's own kprobe events, and bcc, can be put on it
 * too. Who writes to the file "take" calls it, so the task and its CPU are known as well.
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"

/**
 * struct djp_taken - what the first argument points into
 * @neighbour: ~@a
 * @a: the function's second argument; here it points
 * @b: its third
 */
struct djp_taken {
	u64	neighbour;
	u64	a;
	u64	b;
};

long djp_test_take(const u64 *p, u64 a, u64 b);

/**
 * djp_test_take() - does nothing with what it is given
 * @p: points to a struct djp_taken's @a; or nowhere
 * @a: a number
 * @b: a number
 *
 * Return: the sum of the two.
 */
noinline long djp_test_take(const u64 *p, u64 a, u64 b)
{
	OPTIMIZER_HIDE_VAR(p);
	return a + b;
}

static int djp_take_line(char *line)
{
	struct djp_taken taken;
	char *words[4];
	const u64 *p;
	u64 number;
	unsigned int i;
	u64 n;

	for (i = 0; i < ARRAY_SIZE(words); i++) {
		words[i] = strsep(&line, " ");
		if (!words[i])
			return -EINVAL;
	}
	if (kstrtou64(words[1], 0, &taken.a) || kstrtou64(words[2], 0, &taken.b) ||
	    kstrtou64(words[3], 0, &n))
		return -EINVAL;
	taken.neighbour = ~taken.a;
	p = &taken.a;
	if (strcmp(words[0], "here")) {
		if (kstrtou64(words[0], 0, &number))
			return -EINVAL;
		p = (const u64 *)number;
	}
	OPTIMIZER_HIDE_VAR(p);
	/* The struct is looked at by a probe, of which the compiler knows nothing. */
	barrier_data(&taken);
	while (n--) {
		if (djp_test_take(p, taken.a, taken.b) != taken.a + taken.b)
			return -EILSEQ;
		cond_resched();
	}
	barrier_data(&taken);
	return 0;
}

/*
 * "take": lines "WHERE A B N": djp_test_take(WHERE, A, B) is called N times. WHERE is an
 * address, or "here": that of a struct djp_taken. EILSEQ if a result was wrong.
 */
static ssize_t djp_take_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	char *buf, *rest, *line;
	int ret = 0;

	if (len > SZ_1M)
		return -EINVAL;
	buf = memdup_user_nul(user, len);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	rest = strim(buf);
	while (!ret && (line = strsep(&rest, "\n")))
		ret = djp_take_line(line);
	kfree(buf);
	return ret ?: len;
}

static const struct file_operations djp_take_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.write = djp_take_write,
};

/**
 * djp_test_options_init() - make the file "take"
 * @dir: where
 */
void djp_test_options_init(struct dentry *dir)
{
	debugfs_create_file("take", 0200, dir, NULL, &djp_take_fops);
}
