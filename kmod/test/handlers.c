// SPDX-License-Identifier: GPL-2.0
/*
 * The in-kernel interface, used as other modules use it.
 *
 * Probes with handlers on djp_test_plain(), djp_test_rip() and in djp_test_state(),
 * where DF and AC are set, which C code must not see. The first
 * handler calls both functions: reaching djp_test_plain() again is recursion and
 * refused; djp_test_rip() is another probe's and is handled.
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <asm/irqflags.h>
#include <asm/processor-flags.h>

#include "djp_test.h"
#include "djprobes.h"

static unsigned long djp_test_plain_handled;
static unsigned long djp_test_rip_handled;
static unsigned long djp_test_bad_regs;
static unsigned long djp_test_in_handler;
static unsigned long djp_test_state_handled;
static unsigned long djp_test_bad_flags;

static void djp_test_on_plain(struct djprobe *p, struct pt_regs *regs)
{
	djp_test_plain_handled++;
	if (regs->ip != (unsigned long)djp_test_plain || user_mode(regs) ||
	    *(unsigned long *)regs->sp == 0)
		djp_test_bad_regs++;
	djp_test_in_handler += djp_test_plain(regs->di) == regs->di + 3;
	djp_test_in_handler += djp_test_rip() == 7;
}

/* What a handler does to a register takes effect: 7 becomes 7 all the same. */
static void djp_test_on_rip(struct djprobe *p, struct pt_regs *regs)
{
	djp_test_rip_handled++;
	regs->ax = -1;
}

static void djp_test_on_state(struct djprobe *p, struct pt_regs *regs)
{
	const unsigned long set = X86_EFLAGS_DF | X86_EFLAGS_AC;

	djp_test_state_handled++;
	djp_test_bad_flags += (native_save_fl() & set) || (regs->flags & set) != set;
}

static struct djprobe djp_test_probe_plain = {
	.symbol_name = "djp_test:djp_test_plain",
	.handler = djp_test_on_plain,
};

static struct djprobe djp_test_probe_rip = {
	.symbol_name = "djp_test:djp_test_rip",
	.handler = djp_test_on_rip,
};

static struct djprobe djp_test_probe_state = {
	.symbol_name = "djp_test:djp_test_state_probe",
	.handler = djp_test_on_state,
};

static struct djprobe *djp_test_probes[] = {
	&djp_test_probe_plain, &djp_test_probe_rip, &djp_test_probe_state,
};

static bool djp_test_registered;

static int djp_test_handlers_do(const char *what)
{
	int ret;

	if (!strcmp(what, "register")) {
		ret = register_djprobes(djp_test_probes,
					ARRAY_SIZE(djp_test_probes));
		djp_test_registered |= !ret;
		return ret;
	}
	if (!strcmp(what, "unregister")) {
		ret = unregister_djprobes(djp_test_probes,
					  ARRAY_SIZE(djp_test_probes));
		djp_test_registered &= !!ret;
		return ret;
	}
	if (!strcmp(what, "disable"))
		return disable_djprobe(&djp_test_probe_plain);
	if (!strcmp(what, "enable"))
		return enable_djprobe(&djp_test_probe_plain);
	if (!strcmp(what, "commit"))
		return commit_djprobes();
	return -EINVAL;
}

/* "handlers": write register, unregister, enable, disable or commit. */
static ssize_t djp_test_handlers_write(struct file *file,
				       const char __user *user, size_t len,
				       loff_t *pos)
{
	char buf[16] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	ret = djp_test_handlers_do(strim(buf));
	return ret < 0 ? ret : len;
}

static int djp_test_handlers_show(struct seq_file *m, void *v)
{
	bool on = djp_test_registered;

	seq_printf(m, "plain_handled %lu\nrip_handled %lu\n",
		   djp_test_plain_handled, djp_test_rip_handled);
	seq_printf(m, "in_handler %lu\nbad_regs %lu\n", djp_test_in_handler,
		   djp_test_bad_regs);
	seq_printf(m, "state_handled %lu\nbad_flags %lu\n",
		   djp_test_state_handled, djp_test_bad_flags);
	seq_printf(m, "plain_hits %llu\nrip_hits %llu\n",
		   on ? djprobe_hits(&djp_test_probe_plain) : 0,
		   on ? djprobe_hits(&djp_test_probe_rip) : 0);
	seq_printf(m, "plain_missed %ld\n",
		   atomic_long_read(&djp_test_probe_plain.missed));
	return 0;
}

static int djp_test_handlers_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_test_handlers_show, NULL);
}

static const struct file_operations djp_test_handlers_fops = {
	.owner = THIS_MODULE,
	.open = djp_test_handlers_open,
	.read = seq_read,
	.write = djp_test_handlers_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_handlers_init() - make the file "handlers"
 * @dir: where
 */
int djp_test_handlers_init(struct dentry *dir)
{
	debugfs_create_file("handlers", 0600, dir, NULL,
			    &djp_test_handlers_fops);
	return 0;
}

/**
 * djp_test_handlers_exit() - take out the probes, if they are in
 */
void djp_test_handlers_exit(void)
{
	if (djp_test_registered)
		djp_test_handlers_do("unregister");
}
