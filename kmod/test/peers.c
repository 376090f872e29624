// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel itself makes of an address: does register_kprobe() take it, and
 * does its optimiser write a jump there?
 *
 * "peers": write addresses, one a line; all are tried before the write returns.
 * Read back a line for each, in the order of the addresses: the address, the errno
 * of register_kprobe() or 0, the address that the kprobe went to (it can be moved
 * behind an endbr64), and the byte that was there when the optimiser had come to
 * rest: cc for an int3, e9 for a jump, what ftrace wrote at its sites. The last two
 * are "-" if there is an errno.
 */
#include <linux/debugfs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "djp_test.h"

#define DJP_PEERS_WRITE_MAX	(1u << 20)
/*
 * Kprobes that are in place at the same time. The optimiser waits for an RCU-tasks
 * grace period however many there are, so one at a time would take a day.
 */
#define DJP_PEERS_ROUND		128
/* A kprobe in another's jump keeps it from being written. */
#define DJP_PEERS_GAP		32

/**
 * struct djp_peer - an address and what became of it
 * @kp: the kprobe
 * @addr: the address
 * @error: what register_kprobe() said
 * @landed: the address that the kprobe went to
 * @byte: what was there afterwards
 * @tried: it was tried
 */
struct djp_peer {
	struct kprobe	kp;
	unsigned long	addr;
	int		error;
	unsigned long	landed;
	u8		byte;
	bool		tried;
};

static DEFINE_MUTEX(djp_peers_mutex);
static void (*djp_wait_for_optimizer)(void);
static char *djp_peers_answer;
static size_t djp_peers_answer_len;

static int djp_peer_cmp(const void *a, const void *b)
{
	const struct djp_peer *x = a;
	const struct djp_peer *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* Return: how many were tried. */
static int djp_peers_round(struct djp_peer *peers, int nr)
{
	struct kprobe *placed[DJP_PEERS_ROUND];
	int tried = 0, nr_placed = 0;
	unsigned long last = 0;
	struct djp_peer *peer;
	int i;

	for (peer = peers; peer < peers + nr; peer++) {
		if (peer->tried || peer->addr - last < DJP_PEERS_GAP)
			continue;
		if (tried == DJP_PEERS_ROUND)
			break;
		peer->kp.addr = (kprobe_opcode_t *)peer->addr;
		peer->error = register_kprobe(&peer->kp);
		peer->tried = true;
		tried++;
		last = peer->addr;
		if (!peer->error)
			placed[nr_placed++] = &peer->kp;
		cond_resched();
	}
	djp_wait_for_optimizer();
	for (i = 0; i < nr_placed; i++) {
		peer = container_of(placed[i], struct djp_peer, kp);
		peer->landed = (unsigned long)peer->kp.addr;
		peer->byte = READ_ONCE(*(u8 *)peer->landed);
	}
	unregister_kprobes(placed, nr_placed);
	djp_wait_for_optimizer();
	return tried;
}

static int djp_peers_write_answer(const struct djp_peer *peers, int nr)
{
	const size_t line = 2 * 18 + 16;
	size_t len = 0;
	char *answer;
	int i;

	answer = kvmalloc(nr * line + 1, GFP_KERNEL);
	if (!answer)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		len += scnprintf(answer + len, line, "0x%lx %d ",
				 peers[i].addr, -peers[i].error);
		if (peers[i].error)
			len += scnprintf(answer + len, line, "- -\n");
		else
			len += scnprintf(answer + len, line, "0x%lx %02x\n",
					 peers[i].landed, peers[i].byte);
	}
	kvfree(djp_peers_answer);
	djp_peers_answer = answer;
	djp_peers_answer_len = len;
	return 0;
}

static int djp_peers_try(char *text)
{
	struct djp_peer *peers;
	int nr = 0, done = 0;
	char *line, *at;
	int ret = 0;

	for (at = text; *at; at++)
		nr += *at == '\n';
	peers = kvcalloc(nr + 1, sizeof(*peers), GFP_KERNEL);
	if (!peers)
		return -ENOMEM;
	nr = 0;
	while (!ret && (line = strsep(&text, "\n"))) {
		if (*line)
			ret = kstrtoul(line, 0, &peers[nr++].addr);
	}
	sort(peers, nr, sizeof(*peers), djp_peer_cmp, NULL);
	while (!ret && done < nr) {
		done += djp_peers_round(peers, nr);
		if (fatal_signal_pending(current))
			ret = -EINTR;
	}
	if (!ret)
		ret = djp_peers_write_answer(peers, nr);
	kvfree(peers);
	return ret;
}

static ssize_t djp_peers_write(struct file *file, const char __user *user,
			       size_t len, loff_t *pos)
{
	char *text;
	int ret;

	if (len > DJP_PEERS_WRITE_MAX)
		return -E2BIG;
	text = memdup_user_nul(user, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&djp_peers_mutex);
	ret = djp_peers_try(text);
	mutex_unlock(&djp_peers_mutex);
	kfree(text);
	*pos = 0;
	return ret ?: len;
}

static ssize_t djp_peers_read(struct file *file, char __user *user, size_t len,
			      loff_t *pos)
{
	ssize_t ret;

	mutex_lock(&djp_peers_mutex);
	ret = simple_read_from_buffer(user, len, pos, djp_peers_answer,
				      djp_peers_answer_len);
	mutex_unlock(&djp_peers_mutex);
	return ret;
}

static const struct file_operations djp_peers_fops = {
	.owner = THIS_MODULE,
	.read = djp_peers_read,
	.write = djp_peers_write,
	.llseek = default_llseek,
};

/**
 * djp_test_lookup() - the address of a function that is not exported
 * @name: its name
 * @addr: filled in; 0 if there is none of that name
 *
 * Return: 0 or a negative errno.
 */
int djp_test_lookup(const char *name, unsigned long *addr)
{
	/* A kprobe is told its address. */
	struct kprobe kp = { .symbol_name = name };
	int ret = register_kprobe(&kp);

	*addr = 0;
	if (ret)
		return ret == -ENOENT ? 0 : ret;
	*addr = (unsigned long)kp.addr;
	unregister_kprobe(&kp);
	return 0;
}

/**
 * djp_test_wait_for_optimizer() - until kprobes' optimiser has come to rest
 *
 * Context: may sleep.
 */
void djp_test_wait_for_optimizer(void)
{
	if (djp_wait_for_optimizer)
		djp_wait_for_optimizer();
}

/**
 * djp_test_peers_init() - make the file "peers"
 * @dir: where
 *
 * There is none on a kernel without jump optimisation.
 *
 * Return: 0 or a negative errno.
 */
int djp_test_peers_init(struct dentry *dir)
{
	int ret = djp_test_lookup("wait_for_kprobe_optimizer",
				  (unsigned long *)&djp_wait_for_optimizer);

	if (!ret && djp_wait_for_optimizer)
		debugfs_create_file("peers", 0600, dir, NULL, &djp_peers_fops);
	return ret;
}

/**
 * djp_test_peers_exit() - free the last answer
 */
void djp_test_peers_exit(void)
{
	kvfree(djp_peers_answer);
}
