// SPDX-License-Identifier: GPL-2.0
/*
 * Many kprobes at once, and how many of them the kernel has made jumps.
 *
 * With /proc/sys/debug/kprobes-optimization at 0 they stay int3s; what follows when
 * that becomes 1 is mainline's counterpart of a commit.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/text-patching.h>

#include "djp_peer.h"

#define BULK_WRITE_MAX (1u << 20)

static DEFINE_MUTEX(bulk_mutex);
static struct kprobe *bulk_kprobes;
static struct kprobe **bulk_placed;
static unsigned int bulk_nr;
static unsigned int bulk_refused;

static int bulk_hit(struct kprobe *kp, struct pt_regs *regs)
{
	return 0;
}

static void bulk_remove(void)
{
	if (bulk_nr)
		unregister_kprobes(bulk_placed, bulk_nr);
	kvfree(bulk_placed);
	kvfree(bulk_kprobes);
	bulk_placed = NULL;
	bulk_kprobes = NULL;
	bulk_nr = 0;
	bulk_refused = 0;
}

/* One that the kernel refuses is counted; @text is cut up. */
static int bulk_place(char *text)
{
	struct kprobe *kp;
	unsigned long addr;
	unsigned int nr = 1;
	char *line, *at;
	int ret;

	for (at = text; *at; at++)
		nr += *at == '\n';
	bulk_kprobes = kvcalloc(nr, sizeof(*bulk_kprobes), GFP_KERNEL);
	bulk_placed = kvcalloc(nr, sizeof(*bulk_placed), GFP_KERNEL);
	if (!bulk_kprobes || !bulk_placed)
		return -ENOMEM;
	while ((line = strsep(&text, "\n"))) {
		if (!*line)
			continue;
		ret = kstrtoul(line, 0, &addr);
		if (ret)
			return ret;
		kp = &bulk_kprobes[bulk_nr + bulk_refused];
		kp->addr = (kprobe_opcode_t *)addr;
		kp->pre_handler = bulk_hit;
		if (register_kprobe(kp))
			bulk_refused++;
		else
			bulk_placed[bulk_nr++] = kp;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * "bulk": write addresses, one a line: those before go, and these are registered.
 * An empty line takes all away.
 */
static ssize_t bulk_write(struct file *file, const char __user *user, size_t len,
			  loff_t *pos)
{
	char *text;
	int ret;

	if (len > BULK_WRITE_MAX)
		return -E2BIG;
	text = memdup_user_nul(user, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&bulk_mutex);
	bulk_remove();
	ret = bulk_place(text);
	if (ret)
		bulk_remove();
	mutex_unlock(&bulk_mutex);
	kfree(text);
	return ret ?: len;
}

static int bulk_show(struct seq_file *m, void *v)
{
	unsigned int i, jumps = 0;

	mutex_lock(&bulk_mutex);
	for (i = 0; i < bulk_nr; i++)
		jumps += READ_ONCE(*(u8 *)bulk_placed[i]->addr) ==
			JMP32_INSN_OPCODE;
	seq_printf(m, "kprobes %u\nrefused %u\njumps %u\n", bulk_nr,
		   bulk_refused, jumps);
	mutex_unlock(&bulk_mutex);
	return 0;
}

static int bulk_open(struct inode *inode, struct file *file)
{
	return single_open(file, bulk_show, NULL);
}

static const struct file_operations bulk_fops = {
	.owner = THIS_MODULE,
	.open = bulk_open,
	.read = seq_read,
	.write = bulk_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * peer_bulk_init() - make the file "bulk"
 * @dir: where
 */
void peer_bulk_init(struct dentry *dir)
{
	debugfs_create_file("bulk", 0600, dir, NULL, &bulk_fops);
}

/**
 * peer_bulk_exit() - take all away
 */
void peer_bulk_exit(void)
{
	mutex_lock(&bulk_mutex);
	bulk_remove();
	mutex_unlock(&bulk_mutex);
}
