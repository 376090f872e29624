// SPDX-License-Identifier: GPL-2.0
/*
 * One probe at a time at one of djp_bench's functions: a djprobe of the kernel API, or
 * one of the kernel's own. All handlers do the same, they increment djp_bench_hits.
 *
 * "peer": write "METHOD FUNCTION", and what was there before goes; "-": it goes. The
 * write fails with the errno of the registration, or with EOPNOTSUPP. Read "METHOD HITS".
 */
#include <linux/debugfs.h>
#include <linux/fprobe.h>
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/string.h>

#include "djp_bench.h"
#include "djprobes.h"

asmlinkage void djp_bench_on_direct(void);

/**
 * struct djp_bench_peer - a way to have a handler called
 * @name: as it is written
 * @attach: at an address; 0 or a negative errno
 * @detach: it was attached
 */
struct djp_bench_peer {
	const char	*name;
	int		(*attach)(unsigned long addr);
	void		(*detach)(unsigned long addr);
};

static DEFINE_MUTEX(djp_bench_peer_mutex);
static const struct djp_bench_peer *djp_bench_attached;
static unsigned long djp_bench_attached_at;
static unsigned long djp_bench_before;

static struct djprobe djp_bench_djprobe;
static struct kprobe djp_bench_kprobe;
static struct ftrace_ops djp_bench_ops;

static unsigned long djp_bench_sum(void)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(djp_bench_hits, cpu);
	return sum;
}

static void djp_bench_on_djprobe(struct djprobe *p, struct pt_regs *regs)
{
	this_cpu_inc(djp_bench_hits);
}

static int djp_bench_attach_djprobe_as(unsigned long addr, unsigned int flags)
{
	int ret;

	memset(&djp_bench_djprobe, 0, sizeof(djp_bench_djprobe));
	djp_bench_djprobe.addr = (void *)addr;
	djp_bench_djprobe.handler = djp_bench_on_djprobe;
	djp_bench_djprobe.flags = flags;
	ret = register_djprobe(&djp_bench_djprobe);
	if (ret)
		return ret;
	ret = commit_djprobes();
	if (!ret)
		return 0;
	unregister_djprobe(&djp_bench_djprobe);
	return ret < 0 ? ret : -EAGAIN;
}

static int djp_bench_attach_djprobe(unsigned long addr)
{
	return djp_bench_attach_djprobe_as(addr, 0);
}

static int djp_bench_attach_reader(unsigned long addr)
{
	return djp_bench_attach_djprobe_as(addr, DJPROBE_FLAG_READ_ONLY);
}

static void djp_bench_detach_djprobe(unsigned long addr)
{
	WARN_ON(unregister_djprobe(&djp_bench_djprobe));
}

static int djp_bench_on_kprobe(struct kprobe *kp, struct pt_regs *regs)
{
	this_cpu_inc(djp_bench_hits);
	return 0;
}

static void djp_bench_after(struct kprobe *kp, struct pt_regs *regs,
			    unsigned long flags)
{
}

/* Without one behind the instruction, the kernel may boost or optimise it. */
static int djp_bench_attach_kprobe(unsigned long addr)
{
	memset(&djp_bench_kprobe, 0, sizeof(djp_bench_kprobe));
	djp_bench_kprobe.addr = (kprobe_opcode_t *)addr;
	djp_bench_kprobe.pre_handler = djp_bench_on_kprobe;
	return register_kprobe(&djp_bench_kprobe);
}

static int djp_bench_attach_stepped(unsigned long addr)
{
	memset(&djp_bench_kprobe, 0, sizeof(djp_bench_kprobe));
	djp_bench_kprobe.addr = (kprobe_opcode_t *)addr;
	djp_bench_kprobe.pre_handler = djp_bench_on_kprobe;
	djp_bench_kprobe.post_handler = djp_bench_after;
	return register_kprobe(&djp_bench_kprobe);
}

static void djp_bench_detach_kprobe(unsigned long addr)
{
	unregister_kprobe(&djp_bench_kprobe);
}

static void notrace djp_bench_on_ftrace(unsigned long ip, unsigned long parent_ip,
					struct ftrace_ops *ops,
					struct ftrace_regs *fregs)
{
	this_cpu_inc(djp_bench_hits);
}

/* It can't recurse, so it asks for no guard (FTRACE_OPS_FL_RECURSION). */
static int djp_bench_attach_ops(unsigned long addr, unsigned long flags)
{
	int ret;

	memset(&djp_bench_ops, 0, sizeof(djp_bench_ops));
	djp_bench_ops.func = djp_bench_on_ftrace;
	djp_bench_ops.flags = flags;
	ret = ftrace_set_filter_ip(&djp_bench_ops, addr, 0, 1);
	return ret ?: register_ftrace_function(&djp_bench_ops);
}

static int djp_bench_attach_ftrace(unsigned long addr)
{
	return djp_bench_attach_ops(addr, 0);
}

static int djp_bench_attach_ftrace_regs(unsigned long addr)
{
	return djp_bench_attach_ops(addr, FTRACE_OPS_FL_SAVE_REGS);
}

static void djp_bench_detach_ops(unsigned long addr)
{
	unregister_ftrace_function(&djp_bench_ops);
	ftrace_free_filter(&djp_bench_ops);
}

asmlinkage void notrace djp_bench_on_direct(void)
{
	this_cpu_inc(djp_bench_hits);
}

#ifdef CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS
static int djp_bench_attach_direct(unsigned long addr)
{
	return register_ftrace_direct(addr, (unsigned long)djp_bench_direct_count);
}

static void djp_bench_detach_direct(unsigned long addr)
{
	unregister_ftrace_direct(addr, (unsigned long)djp_bench_direct_count);
}

static int djp_bench_attach_direct_handler(unsigned long addr)
{
	return register_ftrace_direct(addr,
				      (unsigned long)djp_bench_direct_handler);
}

static void djp_bench_detach_direct_handler(unsigned long addr)
{
	unregister_ftrace_direct(addr, (unsigned long)djp_bench_direct_handler);
}
#else
#define djp_bench_attach_direct		NULL
#define djp_bench_detach_direct		NULL
#define djp_bench_attach_direct_handler	NULL
#define djp_bench_detach_direct_handler	NULL
#endif

#ifdef CONFIG_FPROBE
static struct fprobe djp_bench_fprobe;

/* Its arguments, and what it returns, are not the same in all versions. */
static int notrace djp_bench_on_fprobe(void)
{
	this_cpu_inc(djp_bench_hits);
	return 0;
}

static int djp_bench_attach_fprobe(unsigned long addr)
{
	memset(&djp_bench_fprobe, 0, sizeof(djp_bench_fprobe));
	djp_bench_fprobe.entry_handler = (void *)djp_bench_on_fprobe;
	return register_fprobe_ips(&djp_bench_fprobe, &addr, 1);
}

static void djp_bench_detach_fprobe(unsigned long addr)
{
	unregister_fprobe(&djp_bench_fprobe);
}
#else
#define djp_bench_attach_fprobe		NULL
#define djp_bench_detach_fprobe		NULL
#endif

static const struct djp_bench_peer djp_bench_peers[] = {
	{ "djprobe", djp_bench_attach_djprobe, djp_bench_detach_djprobe },
	{ "reader", djp_bench_attach_reader, djp_bench_detach_djprobe },
	{ "kprobe", djp_bench_attach_kprobe, djp_bench_detach_kprobe },
	{ "stepped", djp_bench_attach_stepped, djp_bench_detach_kprobe },
	{ "ftrace", djp_bench_attach_ftrace, djp_bench_detach_ops },
	{ "ftrace_regs", djp_bench_attach_ftrace_regs, djp_bench_detach_ops },
	{ "direct", djp_bench_attach_direct, djp_bench_detach_direct },
	{ "direct_handler", djp_bench_attach_direct_handler,
	  djp_bench_detach_direct_handler },
	{ "fprobe", djp_bench_attach_fprobe, djp_bench_detach_fprobe },
};

static void djp_bench_detach(void)
{
	if (djp_bench_attached)
		djp_bench_attached->detach(djp_bench_attached_at);
	djp_bench_attached = NULL;
}

static int djp_bench_attach(const char *method, const char *function)
{
	const struct djp_bench_peer *peer = djp_bench_peers;
	unsigned long addr;
	int ret = djp_bench_point(function, &addr);

	if (ret)
		return ret;
	while (strcmp(peer->name, method)) {
		if (++peer == djp_bench_peers + ARRAY_SIZE(djp_bench_peers))
			return -EINVAL;
	}
	if (!peer->attach)
		return -EOPNOTSUPP;
	djp_bench_before = djp_bench_sum();
	ret = peer->attach(addr);
	if (ret)
		return ret;
	djp_bench_attached = peer;
	djp_bench_attached_at = addr;
	return 0;
}

static ssize_t djp_bench_peer_write(struct file *file, const char __user *user,
				    size_t len, loff_t *pos)
{
	char buf[64], *function = buf, *method;
	int ret = djp_bench_read(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	method = strsep(&function, " ");
	mutex_lock(&djp_bench_peer_mutex);
	djp_bench_detach();
	if (strcmp(method, "-"))
		ret = function ? djp_bench_attach(method, function) : -EINVAL;
	mutex_unlock(&djp_bench_peer_mutex);
	return ret ?: len;
}

static int djp_bench_peer_show(struct seq_file *m, void *v)
{
	mutex_lock(&djp_bench_peer_mutex);
	if (djp_bench_attached)
		seq_printf(m, "%s %lu\n", djp_bench_attached->name,
			   djp_bench_sum() - djp_bench_before);
	mutex_unlock(&djp_bench_peer_mutex);
	return 0;
}

static int djp_bench_peer_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_bench_peer_show, NULL);
}

static const struct file_operations djp_bench_peer_fops = {
	.owner = THIS_MODULE,
	.open = djp_bench_peer_open,
	.read = seq_read,
	.write = djp_bench_peer_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_bench_peer_init() - make the file "peer"
 * @dir: where
 */
void djp_bench_peer_init(struct dentry *dir)
{
	debugfs_create_file("peer", 0600, dir, NULL, &djp_bench_peer_fops);
}

/**
 * djp_bench_peer_exit() - take away what is attached
 */
void djp_bench_peer_exit(void)
{
	mutex_lock(&djp_bench_peer_mutex);
	djp_bench_detach();
	mutex_unlock(&djp_bench_peer_mutex);
}
