// SPDX-License-Identifier: GPL-2.0
/*
 * djp_peer: others who put their own things into kernel text, beside djprobes.
 *
 * Plain users of the kernel's interfaces, which know nothing of djprobes.
 * Driven through /sys/kernel/debug/djp_peer/ by tests/vm.
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_peer.h"

#define PEER_KPROBES 8

struct peer_kprobe {
	struct kprobe	kp;
	atomic_long_t	hits;
	bool		used;
};

static struct dentry *peer_dir;
static DEFINE_MUTEX(peer_mutex);
static struct peer_kprobe peer_kprobes[PEER_KPROBES];

/**
 * peer_read_command() - a line that was written to one of the files
 * @buf: where to, stripped
 * @size: of @buf
 * @user: what was written
 * @len: how much
 *
 * Return: 0 or a negative errno.
 */
int peer_read_command(char *buf, size_t size, const char __user *user,
		      size_t len)
{
	if (len >= size)
		return -EINVAL;
	memset(buf, 0, size);
	return copy_from_user(buf, user, len) ? -EFAULT : 0;
}

static int peer_count(struct kprobe *kp, struct pt_regs *regs)
{
	atomic_long_inc(&container_of(kp, struct peer_kprobe, kp)->hits);
	return 0;
}

static void peer_after(struct kprobe *kp, struct pt_regs *regs,
		       unsigned long flags)
{
}

static struct peer_kprobe *peer_find(unsigned long addr)
{
	unsigned int i;

	for (i = 0; i < PEER_KPROBES; i++) {
		struct peer_kprobe *peer = &peer_kprobes[i];

		if (addr ? peer->used && (unsigned long)peer->kp.addr == addr :
			   !peer->used)
			return peer;
	}
	return NULL;
}

static int peer_kprobe_add(unsigned long addr, bool stepped)
{
	struct peer_kprobe *peer = peer_find(0);
	int ret;

	if (!peer)
		return -ENOSPC;
	memset(peer, 0, sizeof(*peer));
	peer->kp.addr = (kprobe_opcode_t *)addr;
	peer->kp.pre_handler = peer_count;
	/* With it the kprobe is never optimised or boosted. */
	peer->kp.post_handler = stepped ? peer_after : NULL;
	ret = register_kprobe(&peer->kp);
	peer->used = !ret;
	return ret;
}

static int peer_kprobe_del(unsigned long addr)
{
	struct peer_kprobe *peer = peer_find(addr);

	if (!peer)
		return -ENOENT;
	unregister_kprobe(&peer->kp);
	peer->used = false;
	return 0;
}

/*
 * "kprobe": write "+ADDR" or "+ADDR stepped" to register, "-ADDR" to unregister.
 * The errno is that of register_kprobe().
 */
static ssize_t peer_kprobe_write(struct file *file, const char __user *user,
				 size_t len, loff_t *pos)
{
	unsigned long addr;
	char buf[64];
	char *word, *rest = buf + 1;
	int ret = peer_read_command(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	word = strsep(&rest, " \n");
	ret = kstrtoul(word, 0, &addr);
	if (ret || !addr)
		return -EINVAL;
	mutex_lock(&peer_mutex);
	ret = -EINVAL;
	if (buf[0] == '+')
		ret = peer_kprobe_add(addr, rest && sysfs_streq(rest, "stepped"));
	else if (buf[0] == '-')
		ret = peer_kprobe_del(addr);
	mutex_unlock(&peer_mutex);
	return ret ?: len;
}

/* A line for each: address, hits, misses. */
static int peer_kprobe_show(struct seq_file *m, void *v)
{
	unsigned int i;

	mutex_lock(&peer_mutex);
	for (i = 0; i < PEER_KPROBES; i++) {
		const struct peer_kprobe *peer = &peer_kprobes[i];

		if (peer->used)
			seq_printf(m, "%#lx %ld %lu\n",
				   (unsigned long)peer->kp.addr,
				   atomic_long_read(&peer->hits),
				   peer->kp.nmissed);
	}
	mutex_unlock(&peer_mutex);
	return 0;
}

static int peer_kprobe_open(struct inode *inode, struct file *file)
{
	return single_open(file, peer_kprobe_show, NULL);
}

static const struct file_operations peer_kprobe_fops = {
	.owner = THIS_MODULE,
	.open = peer_kprobe_open,
	.read = seq_read,
	.write = peer_kprobe_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int __init peer_init(void)
{
	peer_dir = debugfs_create_dir("djp_peer", NULL);
	if (IS_ERR(peer_dir))
		return PTR_ERR(peer_dir);
	debugfs_create_file("kprobe", 0600, peer_dir, NULL, &peer_kprobe_fops);
	peer_direct_init(peer_dir);
	peer_race_init(peer_dir);
	peer_slow_init(peer_dir);
	peer_bulk_init(peer_dir);
	return 0;
}

static void __exit peer_exit(void)
{
	unsigned int i;

	debugfs_remove_recursive(peer_dir);
	peer_bulk_exit();
	peer_slow_exit();
	peer_race_exit();
	peer_direct_exit();
	for (i = 0; i < PEER_KPROBES; i++) {
		if (peer_kprobes[i].used)
			unregister_kprobe(&peer_kprobes[i].kp);
	}
}

module_init(peer_init);
module_exit(peer_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Other users of kernel text, for djprobes' tests");
