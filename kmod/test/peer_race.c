// SPDX-License-Identifier: GPL-2.0
/*
 * Kprobes that come and go at given addresses as fast as they can.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_peer.h"

#define RACE_THREADS 8
#define RACE_PAUSES 7	/* 0 to 6 jiffies */

struct peer_race {
	struct task_struct	*task;
	struct kprobe		kp;
	unsigned long		addr;
	bool			stepped;
	unsigned long		accepted;
	unsigned long		refused;
	atomic_long_t		hits;
};

static DEFINE_MUTEX(race_mutex);
static struct peer_race races[RACE_THREADS];
static unsigned int nr_races;

static int race_count(struct kprobe *kp, struct pt_regs *regs)
{
	atomic_long_inc(&container_of(kp, struct peer_race, kp)->hits);
	return 0;
}

static void race_stepped(struct kprobe *kp, struct pt_regs *regs,
			 unsigned long flags)
{
}

static int race_run(void *data)
{
	struct peer_race *race = data;
	unsigned int turn = 0;

	while (!kthread_should_stop()) {
		memset(&race->kp, 0, sizeof(race->kp));
		race->kp.addr = (kprobe_opcode_t *)race->addr;
		race->kp.pre_handler = race_count;
		/* With one a kprobe is not optimised. */
		race->kp.post_handler = race->stepped ? race_stepped : NULL;
		if (register_kprobe(&race->kp)) {
			race->refused++;
		} else {
			race->accepted++;
			unregister_kprobe(&race->kp);
		}
		/* Others need a moment without it to begin in. */
		schedule_timeout_interruptible(turn++ % RACE_PAUSES);
	}
	return 0;
}

static void race_stop(void)
{
	unsigned int i;

	for (i = 0; i < nr_races; i++) {
		if (races[i].task)
			kthread_stop(races[i].task);
		races[i].task = NULL;
	}
}

static int race_add(char *word)
{
	struct peer_race *race = &races[nr_races];
	struct task_struct *task;
	size_t end;
	int ret;

	if (nr_races == RACE_THREADS)
		return -ENOSPC;
	memset(race, 0, sizeof(*race));
	end = strlen(word) - 1;
	if (word[end] == 's') {
		race->stepped = true;
		word[end] = '\0';
	}
	ret = kstrtoul(word, 0, &race->addr);
	if (ret)
		return ret;
	task = kthread_run(race_run, race, "djp_race/%u", nr_races);
	if (IS_ERR(task))
		return PTR_ERR(task);
	race->task = task;
	nr_races++;
	return 0;
}

/*
 * "race": write addresses, with a space between, and at each a thread registers
 * and unregisters a kprobe without end, one that the kernel does not optimise if an
 * "s" follows the address; write "stop" to end it.
 */
static ssize_t race_write(struct file *file, const char __user *user,
			  size_t len, loff_t *pos)
{
	char buf[256];
	char *words = buf, *word;
	int ret = peer_read_command(buf, sizeof(buf), user, len);

	if (ret)
		return ret;
	words = strim(buf);
	mutex_lock(&race_mutex);
	race_stop();
	if (strcmp(words, "stop")) {
		nr_races = 0;
		while (!ret && (word = strsep(&words, " ")))
			ret = *word ? race_add(word) : -EINVAL;
	}
	mutex_unlock(&race_mutex);
	return ret ?: len;
}

/* A line for each address: it, how often accepted, refused, hits. */
static int race_show(struct seq_file *m, void *v)
{
	unsigned int i;

	mutex_lock(&race_mutex);
	for (i = 0; i < nr_races; i++)
		seq_printf(m, "%#lx %lu %lu %ld\n", races[i].addr,
			   READ_ONCE(races[i].accepted),
			   READ_ONCE(races[i].refused),
			   atomic_long_read(&races[i].hits));
	mutex_unlock(&race_mutex);
	return 0;
}

static int race_open(struct inode *inode, struct file *file)
{
	return single_open(file, race_show, NULL);
}

static const struct file_operations race_fops = {
	.owner = THIS_MODULE,
	.open = race_open,
	.read = seq_read,
	.write = race_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * peer_race_init() - make the file "race"
 * @dir: where
 */
void peer_race_init(struct dentry *dir)
{
	debugfs_create_file("race", 0600, dir, NULL, &race_fops);
}

/**
 * peer_race_exit() - end the threads
 */
void peer_race_exit(void)
{
	mutex_lock(&race_mutex);
	race_stop();
	mutex_unlock(&race_mutex);
}
