// SPDX-License-Identifier: GPL-2.0
/*
 * Whose text is patched? "watch": write addresses, one a line, and the byte at each is
 * remembered; an empty line forgets them. Read how many are another one now.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_bench.h"

#define DJP_WATCH_WRITE_MAX	(4u << 20)

/**
 * struct djp_watched - an address
 * @at: the address
 * @byte: what was there
 */
struct djp_watched {
	const u8	*at;
	u8		byte;
};

static DEFINE_MUTEX(djp_watch_mutex);
static struct djp_watched *djp_watched;
static unsigned int djp_watched_nr;

static void djp_watch_forget(void)
{
	kvfree(djp_watched);
	djp_watched = NULL;
	djp_watched_nr = 0;
}

/* @text is cut up. */
static int djp_watch_remember(char *text)
{
	unsigned int lines = 1;
	unsigned long addr;
	char *line, *at;
	int ret;

	for (at = text; *at; at++)
		lines += *at == '\n';
	djp_watched = kvcalloc(lines, sizeof(*djp_watched), GFP_KERNEL);
	if (!djp_watched)
		return -ENOMEM;
	while ((line = strsep(&text, "\n"))) {
		struct djp_watched *watched = &djp_watched[djp_watched_nr];

		if (!*line)
			continue;
		ret = kstrtoul(line, 0, &addr);
		if (ret)
			return ret;
		watched->at = (const u8 *)addr;
		if (copy_from_kernel_nofault(&watched->byte, watched->at, 1))
			return -EFAULT;
		djp_watched_nr++;
	}
	return 0;
}

static ssize_t djp_watch_write(struct file *file, const char __user *user,
			       size_t len, loff_t *pos)
{
	char *text = djp_bench_read_lines(user, len, DJP_WATCH_WRITE_MAX);
	int ret;

	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&djp_watch_mutex);
	djp_watch_forget();
	ret = djp_watch_remember(text);
	if (ret)
		djp_watch_forget();
	mutex_unlock(&djp_watch_mutex);
	kvfree(text);
	return ret ?: len;
}

static int djp_watch_show(struct seq_file *m, void *v)
{
	unsigned int i, changed = 0;

	mutex_lock(&djp_watch_mutex);
	for (i = 0; i < djp_watched_nr; i++)
		changed += READ_ONCE(*djp_watched[i].at) != djp_watched[i].byte;
	mutex_unlock(&djp_watch_mutex);
	seq_printf(m, "%u\n", changed);
	return 0;
}

static int djp_watch_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_watch_show, NULL);
}

static const struct file_operations djp_watch_fops = {
	.owner = THIS_MODULE,
	.open = djp_watch_open,
	.read = seq_read,
	.write = djp_watch_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_bench_watch_init() - make the file "watch"
 * @dir: where
 */
void djp_bench_watch_init(struct dentry *dir)
{
	debugfs_create_file("watch", 0600, dir, NULL, &djp_watch_fops);
}

/**
 * djp_bench_watch_exit() - forget all
 */
void djp_bench_watch_exit(void)
{
	djp_watch_forget();
}
