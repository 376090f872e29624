// SPDX-License-Identifier: GPL-2.0
/*
 * A direct call from a function's ftrace site, as BPF trampolines make them.
 */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <asm/asm-offsets.h>

#include "djp_peer.h"

extern void peer_trampoline(void *unused);
extern atomic_long_t peer_direct_hits;

static DEFINE_MUTEX(peer_direct_mutex);
static unsigned long peer_direct_at;

atomic_long_t peer_direct_hits;

/* At a function's entry nothing lives in the flags. */
asm(
"	.pushsection	.text, \"ax\", @progbits\n"
"	.type		peer_trampoline, @function\n"
"	.globl		peer_trampoline\n"
"peer_trampoline:\n"
"	lock incq	peer_direct_hits(%rip)\n"
	ASM_RET
"	.size		peer_trampoline, .-peer_trampoline\n"
"	.popsection\n"
);

static int peer_direct_set(unsigned long addr)
{
	int ret = 0;

	if (peer_direct_at)
		ret = unregister_ftrace_direct(peer_direct_at,
					       (unsigned long)peer_trampoline);
	if (ret)
		return ret;
	peer_direct_at = 0;
	if (addr)
		ret = register_ftrace_direct(addr,
					     (unsigned long)peer_trampoline);
	if (!ret)
		peer_direct_at = addr;
	return ret;
}

/* "direct": write a function's address to attach to it, 0 to detach. */
static ssize_t peer_direct_write(struct file *file, const char __user *user,
				 size_t len, loff_t *pos)
{
	unsigned long addr;
	int ret = kstrtoul_from_user(user, len, 0, &addr);

	if (ret)
		return ret;
	mutex_lock(&peer_direct_mutex);
	ret = peer_direct_set(addr);
	mutex_unlock(&peer_direct_mutex);
	return ret ?: len;
}

static int peer_direct_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%ld\n", atomic_long_read(&peer_direct_hits));
	return 0;
}

static int peer_direct_open(struct inode *inode, struct file *file)
{
	return single_open(file, peer_direct_show, NULL);
}

static const struct file_operations peer_direct_fops = {
	.owner = THIS_MODULE,
	.open = peer_direct_open,
	.read = seq_read,
	.write = peer_direct_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * peer_direct_init() - make the file "direct"
 * @dir: where
 */
void peer_direct_init(struct dentry *dir)
{
	debugfs_create_file("direct", 0600, dir, NULL, &peer_direct_fops);
}

/**
 * peer_direct_exit() - detach
 */
void peer_direct_exit(void)
{
	mutex_lock(&peer_direct_mutex);
	peer_direct_set(0);
	mutex_unlock(&peer_direct_mutex);
}
