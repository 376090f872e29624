// SPDX-License-Identifier: GPL-2.0
/*
 * Probes with a handler at any addresses, as many as are wanted.
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"
#include "djprobes.h"

static DEFINE_MUTEX(djp_many_mutex);
static struct djprobe *djp_many_probes;
static struct djprobe **djp_many_pointers;
static unsigned int djp_nr_many;

static DEFINE_PER_CPU(unsigned long, djp_many_calls);

/* What it changes in a pt_regs would take effect. */
static notrace void djp_test_many_handler(struct djprobe *p, struct pt_regs *regs)
{
	this_cpu_inc(djp_many_calls);
}

/* "0xADDR", or "0xADDR reads". */
static int djp_many_parse(char *line, struct djprobe *p)
{
	const char *word = strsep(&line, " ");
	unsigned long addr;
	int ret;

	ret = kstrtoul(word, 0, &addr);
	if (ret)
		return ret;
	if (line && strcmp(line, "reads"))
		return -EINVAL;
	p->addr = (void *)addr;
	p->handler = djp_test_many_handler;
	p->flags = line ? DJPROBE_FLAG_READ_ONLY : 0;
	return 0;
}

static void djp_many_free(void)
{
	kvfree(djp_many_pointers);
	kvfree(djp_many_probes);
	djp_many_pointers = NULL;
	djp_many_probes = NULL;
	djp_nr_many = 0;
}

static int djp_many_remove(void)
{
	int ret;

	if (!djp_nr_many)
		return 0;
	ret = unregister_djprobes(djp_many_pointers, djp_nr_many);
	if (!ret)
		djp_many_free();
	return ret;
}

static int djp_many_register(char *lines)
{
	unsigned int nr = 1, i;
	char *line;
	int ret;

	if (djp_nr_many)
		return -EBUSY;
	for (line = lines; (line = strchr(line, '\n')); line++)
		nr++;
	djp_many_probes = kvcalloc(nr, sizeof(*djp_many_probes), GFP_KERNEL);
	djp_many_pointers = kvcalloc(nr, sizeof(*djp_many_pointers), GFP_KERNEL);
	ret = djp_many_probes && djp_many_pointers ? 0 : -ENOMEM;
	for (i = 0; !ret && i < nr; i++) {
		djp_many_pointers[i] = &djp_many_probes[i];
		ret = djp_many_parse(strsep(&lines, "\n"), &djp_many_probes[i]);
	}
	if (!ret)
		ret = register_djprobes(djp_many_pointers, nr);
	if (ret)
		djp_many_free();
	else
		djp_nr_many = nr;
	return ret;
}

/*
 * "many_handlers": lines "0xADDR" or "0xADDR reads" put in a probe with a handler at each,
 * all or none, the latter with one that only reads its pt_regs; "-" takes them out again.
 * One write has them all.
 */
static ssize_t djp_many_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	char *buf, *lines;
	int ret;

	if (len > SZ_1M)
		return -EINVAL;
	buf = memdup_user_nul(user, len);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	lines = strim(buf);
	mutex_lock(&djp_many_mutex);
	if (!*lines || !strcmp(lines, "-"))
		ret = djp_many_remove();
	else
		ret = djp_many_register(lines);
	mutex_unlock(&djp_many_mutex);
	kfree(buf);
	return ret ?: len;
}

/* How many there are, and calls of handlers, ever; a line for each: address, its djprobe. */
static int djp_many_show(struct seq_file *m, void *v)
{
	unsigned long calls = 0;
	unsigned int i;
	int cpu;

	for_each_possible_cpu(cpu)
		calls += per_cpu(djp_many_calls, cpu);
	mutex_lock(&djp_many_mutex);
	seq_printf(m, "probes %u\ncalls %lu\n", djp_nr_many, calls);
	for (i = 0; i < djp_nr_many; i++)
		seq_printf(m, "0x%px 0x%px\n", djp_many_probes[i].addr,
			   &djp_many_probes[i]);
	mutex_unlock(&djp_many_mutex);
	return 0;
}

static int djp_many_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_many_show, NULL);
}

static const struct file_operations djp_many_fops = {
	.owner = THIS_MODULE,
	.open = djp_many_open,
	.read = seq_read,
	.write = djp_many_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_many_handlers_init() - make the file "many_handlers"
 * @dir: where
 */
void djp_test_many_handlers_init(struct dentry *dir)
{
	debugfs_create_file("many_handlers", 0600, dir, NULL, &djp_many_fops);
}

/**
 * djp_test_many_handlers_exit() - take out the probes, if they are in
 */
void djp_test_many_handlers_exit(void)
{
	mutex_lock(&djp_many_mutex);
	WARN_ON(djp_many_remove());
	mutex_unlock(&djp_many_mutex);
}
