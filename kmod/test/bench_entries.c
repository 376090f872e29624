// SPDX-License-Identifier: GPL-2.0
/*
 * Many function entries at once, each with a handler, as ftrace does it.
 *
 * "entries": write "METHOD\n" and addresses of ftrace sites, one a line: what was there
 * before goes, and these are attached. An empty line takes all away. METHOD is "ftrace"
 * (an ftrace_ops with a filter) or "fprobe" (what kprobe.multi is made of); the write
 * fails with EOPNOTSUPP if the kernel has not got it. Read the number of addresses.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fprobe.h>
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "djp_bench.h"

#define DJP_ENTRIES_WRITE_MAX	(4u << 20)

static DEFINE_MUTEX(djp_entries_mutex);
static struct ftrace_ops djp_entries_ops;
static unsigned int djp_entries_nr;
static void (*djp_entries_detach)(void);

static void notrace djp_entries_hit(unsigned long ip, unsigned long parent_ip,
				    struct ftrace_ops *ops,
				    struct ftrace_regs *fregs)
{
	this_cpu_inc(djp_bench_hits);
}

static void djp_entries_detach_ftrace(void)
{
	unregister_ftrace_function(&djp_entries_ops);
	ftrace_free_filter(&djp_entries_ops);
}

static int djp_entries_attach_ftrace(unsigned long *addrs, unsigned int nr)
{
	int ret;

	memset(&djp_entries_ops, 0, sizeof(djp_entries_ops));
	djp_entries_ops.func = djp_entries_hit;
	ret = ftrace_set_filter_ips(&djp_entries_ops, addrs, nr, 0, 1);
	if (!ret)
		ret = register_ftrace_function(&djp_entries_ops);
	if (ret)
		ftrace_free_filter(&djp_entries_ops);
	else
		djp_entries_detach = djp_entries_detach_ftrace;
	return ret;
}

#ifdef CONFIG_FPROBE
static struct fprobe djp_entries_fprobe;

/* Its arguments, and what it returns, are not the same in all versions. */
static int notrace djp_entries_on_fprobe(void)
{
	this_cpu_inc(djp_bench_hits);
	return 0;
}

static void djp_entries_detach_fprobe(void)
{
	unregister_fprobe(&djp_entries_fprobe);
}

static int djp_entries_attach_fprobe(unsigned long *addrs, unsigned int nr)
{
	int ret;

	memset(&djp_entries_fprobe, 0, sizeof(djp_entries_fprobe));
	djp_entries_fprobe.entry_handler = (void *)djp_entries_on_fprobe;
	ret = register_fprobe_ips(&djp_entries_fprobe, addrs, nr);
	if (!ret)
		djp_entries_detach = djp_entries_detach_fprobe;
	return ret;
}
#else
static int djp_entries_attach_fprobe(unsigned long *addrs, unsigned int nr)
{
	return -EOPNOTSUPP;
}
#endif

static void djp_entries_remove(void)
{
	if (djp_entries_detach)
		djp_entries_detach();
	djp_entries_detach = NULL;
	djp_entries_nr = 0;
}

/* @text is cut up. */
static int djp_entries_place(char *text)
{
	const char *method = strsep(&text, "\n");
	unsigned int nr = 0, lines = 1;
	unsigned long *addrs;
	char *line, *at;
	int ret = 0;

	if (!*method)
		return 0;
	if (!text)
		return -EINVAL;
	for (at = text; *at; at++)
		lines += *at == '\n';
	addrs = kvcalloc(lines, sizeof(*addrs), GFP_KERNEL);
	if (!addrs)
		return -ENOMEM;
	while (!ret && (line = strsep(&text, "\n"))) {
		if (*line)
			ret = kstrtoul(line, 0, &addrs[nr++]);
	}
	if (!ret && !strcmp(method, "ftrace"))
		ret = djp_entries_attach_ftrace(addrs, nr);
	else if (!ret && !strcmp(method, "fprobe"))
		ret = djp_entries_attach_fprobe(addrs, nr);
	else if (!ret)
		ret = -EINVAL;
	kvfree(addrs);
	if (!ret)
		djp_entries_nr = nr;
	return ret;
}

static ssize_t djp_entries_write(struct file *file, const char __user *user,
				 size_t len, loff_t *pos)
{
	char *text = djp_bench_read_lines(user, len, DJP_ENTRIES_WRITE_MAX);
	int ret;

	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&djp_entries_mutex);
	djp_entries_remove();
	ret = djp_entries_place(text);
	mutex_unlock(&djp_entries_mutex);
	kvfree(text);
	return ret ?: len;
}

static int djp_entries_show(struct seq_file *m, void *v)
{
	mutex_lock(&djp_entries_mutex);
	seq_printf(m, "%u\n", djp_entries_nr);
	mutex_unlock(&djp_entries_mutex);
	return 0;
}

static int djp_entries_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_entries_show, NULL);
}

static const struct file_operations djp_entries_fops = {
	.owner = THIS_MODULE,
	.open = djp_entries_open,
	.read = seq_read,
	.write = djp_entries_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_bench_entries_init() - make the file "entries"
 * @dir: where
 */
void djp_bench_entries_init(struct dentry *dir)
{
	debugfs_create_file("entries", 0600, dir, NULL, &djp_entries_fops);
}

/**
 * djp_bench_entries_exit() - take all away
 */
void djp_bench_entries_exit(void)
{
	mutex_lock(&djp_entries_mutex);
	djp_entries_remove();
	mutex_unlock(&djp_entries_mutex);
}
