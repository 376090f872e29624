// SPDX-License-Identifier: GPL-2.0
/*
 * The files; docs/debugfs.md describes each.
 */
#include <linux/capability.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "core/internal.h"
#include "debugfs/debugfs.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

static struct dentry *djp_dir;

/**
 * djp_may_open() - may the task open a file of ours?
 * @inode: the file
 *
 * The same rules as for kprobes through tracefs (kernel/trace/trace_kprobe.c).
 *
 * Return: 0 or -EPERM.
 */
int djp_may_open(struct inode *inode)
{
	int ret;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	ret = security_locked_down(LOCKDOWN_KPROBES);
	if (ret)
		pr_info("%s\n", djp_reason_sentence(DJP_LOCKED_DOWN));
	return ret;
}

/**
 * djp_get_text() - what was written
 * @user: where
 * @len: how much
 *
 * Context: may sleep.
 * Return: a copy, zero-terminated, to be freed with kvfree(); or an ERR_PTR.
 */
char *djp_get_text(const char __user *user, size_t len)
{
	char *buf;

	if (len > DJP_WRITE_MAX)
		return ERR_PTR(-E2BIG);
	buf = kvmalloc(len + 1, GFP_KERNEL);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	if (copy_from_user(buf, user, len)) {
		kvfree(buf);
		return ERR_PTR(-EFAULT);
	}
	buf[len] = '\0';
	return buf;
}

static ssize_t djp_control_write(struct file *file, const char __user *user,
				 size_t len, loff_t *pos)
{
	struct djp_refusal refusal = { .reason = DJP_TOO_LONG };
	char *buf = djp_get_text(user, len);
	ssize_t ret;

	if (IS_ERR(buf)) {
		ret = PTR_ERR(buf);
		if (ret == -E2BIG) {
			mutex_lock(&djp_control_mutex);
			djp_complain("", "", &refusal);
			mutex_unlock(&djp_control_mutex);
		}
		return ret;
	}
	ret = djp_control(buf);
	kvfree(buf);
	return ret ?: len;
}

static int djp_control_open(struct inode *inode, struct file *file)
{
	return djp_may_open(inode) ?: nonseekable_open(inode, file);
}

static const struct file_operations djp_control_fops = {
	.owner = THIS_MODULE,
	.open = djp_control_open,
	.write = djp_control_write,
};

static int djp_last_error_show(struct seq_file *m, void *v)
{
	mutex_lock(&djp_control_mutex);
	djp_control_show_error(m);
	mutex_unlock(&djp_control_mutex);
	return 0;
}

static const char *djp_probe_state(const struct djprobe *p)
{
	if (p->flags & DJPROBE_FLAG_GONE)
		return "gone";
	if (p->flags & DJPROBE_FLAG_DISABLED)
		return "disabled";
	return djp_state_name(p->site);
}

static void *djp_probes_start(struct seq_file *m, loff_t *pos)
{
	mutex_lock(&djp_mutex);
	return seq_list_start(&djp_probes, *pos);
}

static void *djp_probes_next(struct seq_file *m, void *v, loff_t *pos)
{
	return seq_list_next(v, &djp_probes, pos);
}

static void djp_probes_stop(struct seq_file *m, void *v)
{
	mutex_unlock(&djp_mutex);
}

/* Another module's probe has no name: "@[MOD:]HANDLER", or "@" alone. */
static void djp_probes_show_owner(struct seq_file *m, const struct djprobe *p)
{
	char handler[KSYM_NAME_LEN + 80];

	*handler = '\0';
	if (p->handler)
		djp_symbolize((unsigned long)p->handler, handler,
			      sizeof(handler));
	handler[strcspn(handler, "+")] = '\0';
	seq_printf(m, "@%s", handler);
}

static int djp_probes_show(struct seq_file *m, void *v)
{
	const struct djprobe *p = list_entry(v, struct djprobe, node);
	unsigned long addr = (unsigned long)p->addr;
	const struct djp_site *site = p->site;
	char *symbol = m->private;

	if (p->flags & DJPROBE_FLAG_GONE)
		strscpy(symbol, "-", KSYM_SYMBOL_LEN);
	else
		djp_symbolize(addr, symbol, KSYM_SYMBOL_LEN);
	if (p->name)
		seq_puts(m, p->name);
	else
		djp_probes_show_owner(m, p);
	seq_printf(m, " %s 0x%016lx %s %s %s %llu %lu", symbol, addr,
		   djp_probe_state(p),
		   djp_method_name(site ? site->verdict.method : DJPROBE_ANY),
		   p->handler ? "handler" : "count",
		   djp_counter_sum(p->counter), atomic_long_read(&p->missed) +
		   (site ? djp_kprobe_missed(site) : 0));
	seq_printf(m, " %s", djp_reason_code(site ? site->verdict.why :
					     DJP_GONE));
	if (site && site->detour && site->detour->slot.addr)
		seq_printf(m, " 0x%016lx+%u\n", site->detour->text,
			   site->detour->len);
	else
		seq_puts(m, " -\n");
	return 0;
}

static const struct seq_operations djp_probes_sops = {
	.start = djp_probes_start,
	.next = djp_probes_next,
	.stop = djp_probes_stop,
	.show = djp_probes_show,
};

static int djp_probes_open(struct inode *inode, struct file *file)
{
	int ret = djp_may_open(inode);

	if (ret)
		return ret;
	return __seq_open_private(file, &djp_probes_sops, KSYM_SYMBOL_LEN) ?
		0 : -ENOMEM;
}

static const struct file_operations djp_probes_fops = {
	.owner = THIS_MODULE,
	.open = djp_probes_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = seq_release_private,
};

static int djp_features_show(struct seq_file *m, void *v)
{
	const struct djp_strategy *strategy;
	unsigned int i;

	mutex_lock(&djp_mutex);
	for (i = 0; (strategy = djp_strategy_nth(i)); i++)
		seq_printf(m, "strategy_%s %s\n", strategy->name,
			   strategy->offered() ? "yes" : "no");
	seq_printf(m, "auto_strategy %s\n", djp_strategy_auto()->name);
	djp_textmap_show(m);
	djp_int3_path_show(m);
	djp_compat_show(m);
	mutex_unlock(&djp_mutex);
	return 0;
}

#define DJP_FILE(name, show, write_op) \
static int name##_open(struct inode *inode, struct file *file) \
{ \
	return djp_may_open(inode) ?: single_open(file, show, NULL); \
} \
static const struct file_operations name##_fops = { \
	.owner = THIS_MODULE, \
	.open = name##_open, \
	.read = seq_read, \
	.write = write_op, \
	.llseek = seq_lseek, \
	.release = single_release, \
}

DJP_FILE(djp_last_error, djp_last_error_show, NULL);
DJP_FILE(djp_explain_file, djp_explain_show, djp_explain_write);
DJP_FILE(djp_strategy, djp_strategy_show, djp_strategy_write);
DJP_FILE(djp_stats, djp_stats_show, NULL);
DJP_FILE(djp_blockers, djp_blockers_show, NULL);
DJP_FILE(djp_features, djp_features_show, NULL);

static const struct {
	const char *name;
	umode_t mode;
	const struct file_operations *fops;
} djp_files[] = {
	{ "control", 0200, &djp_control_fops },
	{ "last_error", 0400, &djp_last_error_fops },
	{ "probes", 0400, &djp_probes_fops },
	{ "explain", 0600, &djp_explain_file_fops },
	{ "strategy", 0600, &djp_strategy_fops },
	{ "stats", 0400, &djp_stats_fops },
	{ "blockers", 0400, &djp_blockers_fops },
	{ "features", 0400, &djp_features_fops },
	{ "census", 0400, &djp_census_fops },
	{ "judgements", 0400, &djp_judgements_fops },
};

/**
 * djp_debugfs_init() - make the files
 *
 * Context: module load, as its last step.
 * Return: 0 or a negative errno.
 */
int djp_debugfs_init(void)
{
	unsigned int i;

	djp_dir = debugfs_create_dir("djprobes", NULL);
	if (IS_ERR(djp_dir)) {
		pr_err("can't make the debugfs folder djprobes (%ld)\n",
		       PTR_ERR(djp_dir));
		return PTR_ERR(djp_dir);
	}
	for (i = 0; i < ARRAY_SIZE(djp_files); i++)
		debugfs_create_file(djp_files[i].name, djp_files[i].mode,
				    djp_dir, NULL, djp_files[i].fops);
	return 0;
}

/**
 * djp_debugfs_exit() - remove the files; waits for readers and writers
 */
void djp_debugfs_exit(void)
{
	debugfs_remove_recursive(djp_dir);
}
