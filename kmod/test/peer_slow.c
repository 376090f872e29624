// SPDX-License-Identifier: GPL-2.0
/*
 * A kprobe whose registration stands still at the worst moment.
 *
 * register_kprobe() keeps a copy of the instruction, then lets go of text_mutex
 * and of the CPU hotplug lock, and only then makes the kprobe known
 * (get_kprobe()) and writes its int3. What others write in between is lost on
 * it. A direct call at the entry of cpus_read_unlock() makes that moment last.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <asm/asm-offsets.h>

#include "djp_peer.h"

/* Who waits for kprobe_mutex meanwhile must not wait for ever. */
#define SLOW_LIMIT HZ

extern void slow_trampoline(void *unused);
asmlinkage __visible void slow_stand_still(void);

static DEFINE_MUTEX(slow_mutex);
static DECLARE_COMPLETION(slow_begun);
static DECLARE_COMPLETION(slow_go);
static struct task_struct *slow_task;
static struct kprobe slow_kp;
static atomic_long_t slow_hits;
static int slow_ret;

asm(
"	.pushsection	.text, \"ax\", @progbits\n"
"	.type		slow_trampoline, @function\n"
"	.globl		slow_trampoline\n"
"slow_trampoline:\n"
"	pushq		%rbp\n"
"	movq		%rsp, %rbp\n"
"	call		slow_stand_still\n"
"	popq		%rbp\n"
	ASM_RET
"	.size		slow_trampoline, .-slow_trampoline\n"
"	.popsection\n"
);

asmlinkage __visible void slow_stand_still(void)
{
	if (current != READ_ONCE(slow_task) || completion_done(&slow_begun))
		return;
	complete(&slow_begun);
	wait_for_completion_timeout(&slow_go, SLOW_LIMIT);
}

static int slow_count(struct kprobe *kp, struct pt_regs *regs)
{
	atomic_long_inc(&slow_hits);
	return 0;
}

static int slow_run(void *data)
{
	slow_ret = register_kprobe(&slow_kp);
	complete(&slow_begun);		/* if it was refused before */
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static int slow_begin(unsigned long addr)
{
	struct task_struct *task;
	int ret;

	if (slow_task)
		return -EBUSY;
	reinit_completion(&slow_begun);
	reinit_completion(&slow_go);
	memset(&slow_kp, 0, sizeof(slow_kp));
	slow_kp.addr = (kprobe_opcode_t *)addr;
	slow_kp.pre_handler = slow_count;
	atomic_long_set(&slow_hits, 0);
	ret = register_ftrace_direct((unsigned long)cpus_read_unlock,
				     (unsigned long)slow_trampoline);
	if (ret)
		return ret;
	task = kthread_create(slow_run, NULL, "djp_slow");
	if (IS_ERR(task)) {
		unregister_ftrace_direct((unsigned long)cpus_read_unlock,
					 (unsigned long)slow_trampoline);
		return PTR_ERR(task);
	}
	WRITE_ONCE(slow_task, task);
	wake_up_process(task);
	wait_for_completion(&slow_begun);
	return 0;
}

/* Returns what register_kprobe() returned. */
static int slow_finish(void)
{
	if (!slow_task)
		return -ENOENT;
	complete(&slow_go);
	kthread_stop(slow_task);
	WRITE_ONCE(slow_task, NULL);
	unregister_ftrace_direct((unsigned long)cpus_read_unlock,
				 (unsigned long)slow_trampoline);
	return slow_ret;
}

/*
 * "slow": write "+ADDR", and it returns when the registration stands still;
 * "go", and it returns what register_kprobe() did; "-" to unregister.
 */
static ssize_t slow_write(struct file *file, const char __user *user,
			  size_t len, loff_t *pos)
{
	unsigned long addr;
	char buf[32];
	int ret = peer_read_command(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	mutex_lock(&slow_mutex);
	if (buf[0] == '+') {
		ret = kstrtoul(buf + 1, 0, &addr) ?: slow_begin(addr);
	} else if (sysfs_streq(buf, "go")) {
		ret = slow_finish();
	} else if (buf[0] == '-' && slow_kp.addr && !slow_task && !slow_ret) {
		unregister_kprobe(&slow_kp);
		slow_kp.addr = NULL;
	} else {
		ret = -EINVAL;
	}
	mutex_unlock(&slow_mutex);
	return ret ?: len;
}

static int slow_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%ld\n", atomic_long_read(&slow_hits));
	return 0;
}

static int slow_open(struct inode *inode, struct file *file)
{
	return single_open(file, slow_show, NULL);
}

static const struct file_operations slow_fops = {
	.owner = THIS_MODULE,
	.open = slow_open,
	.read = seq_read,
	.write = slow_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * peer_slow_init() - make the file "slow"
 * @dir: where
 */
void peer_slow_init(struct dentry *dir)
{
	debugfs_create_file("slow", 0600, dir, NULL, &slow_fops);
}

/**
 * peer_slow_exit() - unregister what is left
 */
void peer_slow_exit(void)
{
	mutex_lock(&slow_mutex);
	if (slow_task)
		slow_finish();
	if (slow_kp.addr && !slow_ret)
		unregister_kprobe(&slow_kp);
	mutex_unlock(&slow_mutex);
}
