// SPDX-License-Identifier: GPL-2.0
/*
 * "nest": hits inside hits, counted by the functions' callers and by probes.
 *
 * The outer probe stands in djp_test_dwell(), on a string instruction, which takes
 * as long as it is asked to and can be interrupted in between; the inner one at
 * djp_test_plain(). Write
 *
 *	FORM ACTION EVENT PLACE N [OFFSET]
 *
 *   FORM    bypass, jump or int3: a djprobe; kprobe: the kernel's, which may have
 *           made it a jump; given: those that whoever writes here has put there,
 *           and counts himself
 *   ACTION  count or handler: of the djprobes, but that the outer one has a handler
 *           where PLACE is handler
 *   EVENT   call, timer, softirq, nmi, debug or fault
 *   PLACE   handler, copied, trap or anywhere; or detour, for jump or given and
 *           debug: at OFFSET bytes into the outer probe's
 *
 * and N events happen at that place, or as many as can be had. Read "key value"
 * lines: landed, elsewhere (events), inner_calls, inner_hits, inner_missed,
 * outer_calls, outer_hits, outer_missed, wrong (results), first (the byte at the outer
 * probe's address), copied (the address of the copied string instruction, or 0).
 */
#include <linux/debugfs.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "djp_test.h"
#include "djprobes.h"
#include "nest.h"

#define DJP_NEST_DWELL	SZ_256K		/* bytes to store: some 100 us and more */
/* How long it is tried, and how long without having had one event. */
#define DJP_NEST_LIMIT	(30 * (u64)NSEC_PER_SEC)
#define DJP_NEST_VAIN	(NSEC_PER_SEC / 2)
/* How long one attempt is, where it hits the outer probe all the time. */
#define DJP_NEST_BURST		(10 * NSEC_PER_MSEC)

enum djp_nest_form {
	DJP_FORM_BYPASS,
	DJP_FORM_JUMP,
	DJP_FORM_INT3,
	DJP_FORM_KPROBE,
	DJP_FORM_GIVEN,
};

static const char * const djp_nest_forms[] = {
	[DJP_FORM_BYPASS] = "bypass",
	[DJP_FORM_JUMP] = "jump",
	[DJP_FORM_INT3] = "int3",
	[DJP_FORM_KPROBE] = "kprobe",
	[DJP_FORM_GIVEN] = "given",
};

static const char * const djp_nest_actions[] = { "count", "handler" };

static const char * const djp_nest_events[] = {
	[DJP_NEST_CALL] = "call",
	[DJP_NEST_TIMER] = "timer",
	[DJP_NEST_SOFTIRQ] = "softirq",
	[DJP_NEST_NMI] = "nmi",
	[DJP_NEST_DEBUG] = "debug",
	[DJP_NEST_FAULT] = "fault",
};

static const char * const djp_nest_places[] = {
	[DJP_NEST_HANDLER] = "handler",
	[DJP_NEST_COPIED] = "copied",
	[DJP_NEST_TRAP] = "trap",
	[DJP_NEST_ANYWHERE] = "anywhere",
	[DJP_NEST_DETOUR] = "detour",
};

/**
 * struct djp_nest_probe - one probe, ours or the kernel's
 * @djp: ours
 * @kp: the kernel's
 * @handled: calls of its handler
 * @hits: what it has counted, once it is out
 * @missed: and what it says it has not
 */
struct djp_nest_probe {
	struct djprobe	djp;
	struct kprobe	kp;
	atomic_long_t	handled;
	u64		hits;
	unsigned long	missed;
};

struct djp_nest djp_nest;

static DEFINE_MUTEX(djp_nest_mutex);
static struct djp_nest_probe djp_nest_outer_probe;
static struct djp_nest_probe djp_nest_inner_probe;
static u8 djp_nest_first;
static u8 *djp_nest_buffer;

static void djp_nest_outer_handled(void)
{
	atomic_long_inc(&djp_nest_outer_probe.handled);
	if (djp_nest.place != DJP_NEST_HANDLER || !READ_ONCE(djp_nest.armed) ||
	    djp_nest.in_handler)
		return;
	WRITE_ONCE(djp_nest.in_handler, true);
	djp_nest_await();
	WRITE_ONCE(djp_nest.in_handler, false);
}

static void djp_nest_on_outer(struct djprobe *p, struct pt_regs *regs)
{
	djp_nest_outer_handled();
}

static void djp_nest_on_inner(struct djprobe *p, struct pt_regs *regs)
{
	atomic_long_inc(&djp_nest_inner_probe.handled);
}

static int djp_nest_on_outer_kp(struct kprobe *kp, struct pt_regs *regs)
{
	djp_nest_outer_handled();
	return 0;
}

static int djp_nest_on_inner_kp(struct kprobe *kp, struct pt_regs *regs)
{
	atomic_long_inc(&djp_nest_inner_probe.handled);
	return 0;
}

/**
 * djp_nest_outer() - reach the outer probe
 * @to: where the string instruction stores
 * @len: how many bytes
 *
 * Context: any.
 */
void djp_nest_outer(unsigned long to, unsigned long len)
{
	atomic_long_inc(&djp_nest.outer_calls);
	if (djp_test_dwell(to, len) != len + 3)
		atomic_long_inc(&djp_nest.wrong);
}

static int djp_nest_place_kprobes(void)
{
	struct kprobe *kps[] = {
		&djp_nest_outer_probe.kp, &djp_nest_inner_probe.kp,
	};
	int ret;

	kps[0]->addr = (kprobe_opcode_t *)djp_test_dwell_probe;
	kps[0]->pre_handler = djp_nest_on_outer_kp;
	kps[1]->addr = (kprobe_opcode_t *)djp_test_plain;
	kps[1]->pre_handler = djp_nest_on_inner_kp;
	ret = register_kprobes(kps, ARRAY_SIZE(kps));
	if (!ret)
		djp_test_wait_for_optimizer();
	return ret;
}

static int djp_nest_place_djprobes(enum djp_nest_form form, bool handler)
{
	struct djprobe *ps[] = {
		&djp_nest_outer_probe.djp, &djp_nest_inner_probe.djp,
	};
	int ret;

	ps[0]->addr = djp_test_dwell_probe;
	if (handler || djp_nest.place == DJP_NEST_HANDLER)
		ps[0]->handler = djp_nest_on_outer;
	ps[1]->addr = djp_test_plain;
	if (handler)
		ps[1]->handler = djp_nest_on_inner;
	if (form == DJP_FORM_INT3)
		ps[0]->method = ps[1]->method = DJPROBE_INT3;
	ret = register_djprobes(ps, ARRAY_SIZE(ps));
	if (ret || form != DJP_FORM_JUMP)
		return ret;
	ret = commit_djprobes();
	if (!ret)
		return 0;
	unregister_djprobes(ps, ARRAY_SIZE(ps));
	return ret < 0 ? ret : -EAGAIN;
}

static int djp_nest_place_probes(enum djp_nest_form form, bool handler)
{
	switch (form) {
	case DJP_FORM_GIVEN:
		return 0;
	case DJP_FORM_KPROBE:
		return djp_nest_place_kprobes();
	default:
		return djp_nest_place_djprobes(form, handler);
	}
}

static void djp_nest_settle(struct djp_nest_probe *probe, bool kprobe)
{
	if (kprobe) {
		probe->hits = atomic_long_read(&probe->handled);
		probe->missed = probe->kp.nmissed;
		return;
	}
	probe->hits = djprobe_hits(&probe->djp);
	probe->missed = atomic_long_read(&probe->djp.missed);
	/* A handler has to agree with the count. */
	if (probe->djp.handler &&
	    probe->hits != atomic_long_read(&probe->handled))
		atomic_long_inc(&djp_nest.wrong);
}

static int djp_nest_remove(enum djp_nest_form form)
{
	struct djp_nest_probe *outer = &djp_nest_outer_probe;
	struct djp_nest_probe *inner = &djp_nest_inner_probe;
	const bool kprobe = form == DJP_FORM_KPROBE;
	struct djprobe *ps[] = { &outer->djp, &inner->djp };
	struct kprobe *kps[] = { &outer->kp, &inner->kp };

	if (form == DJP_FORM_GIVEN)
		return 0;
	djp_nest_settle(outer, kprobe);
	djp_nest_settle(inner, kprobe);
	if (!kprobe)
		return unregister_djprobes(ps, ARRAY_SIZE(ps));
	unregister_kprobes(kps, ARRAY_SIZE(kps));
	djp_test_wait_for_optimizer();
	return 0;
}

static bool djp_nest_in_bursts(void)
{
	return djp_nest.place == DJP_NEST_TRAP ||
	       djp_nest.place == DJP_NEST_ANYWHERE;
}

/* One attempt: the outer probe is hit, and the event may happen. */
static int djp_nest_try(void)
{
	const u64 end = ktime_get_mono_fast_ns() + DJP_NEST_BURST;
	unsigned long to = (unsigned long)djp_nest_buffer;
	unsigned long len = DJP_NEST_DWELL;

	if (djp_nest.event == DJP_NEST_FAULT) {
		to = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
		if (IS_ERR_VALUE(to))
			return to;
		djp_nest.page = to;
	}
	if (djp_nest.place != DJP_NEST_COPIED)
		len = 0;
	else if (djp_nest.event == DJP_NEST_FAULT)
		len = 1;
	WRITE_ONCE(djp_nest.armed, true);
	do {
		djp_nest_outer(to, len);
	} while (djp_nest_in_bursts() && READ_ONCE(djp_nest.armed) &&
		 ktime_get_mono_fast_ns() < end);
	WRITE_ONCE(djp_nest.armed, false);
	if (djp_nest.event == DJP_NEST_FAULT)
		vm_munmap(to, PAGE_SIZE);
	return 0;
}

static int djp_nest_drive(unsigned long n)
{
	const u64 begin = ktime_get_mono_fast_ns();
	const unsigned long first = djp_nest.landed;
	u64 spent = 0;
	int ret;

	ret = djp_nest_event_begin();
	if (ret)
		return ret;
	while (!ret && djp_nest.landed - first < n && spent < DJP_NEST_LIMIT &&
	       (djp_nest.landed != first || spent < DJP_NEST_VAIN)) {
		ret = djp_nest_try();
		if (fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
		spent = ktime_get_mono_fast_ns() - begin;
	}
	djp_nest_event_end();
	return ret;
}

/* A breakpoint needs the address of the copied instruction: an NMI finds it. */
static int djp_nest_find_copied(void)
{
	int ret;

	djp_nest.event = DJP_NEST_NMI;
	ret = djp_nest_drive(1);
	djp_nest.event = DJP_NEST_DEBUG;
	djp_nest.landed = 0;
	if (!ret && !djp_nest.copied)
		ret = -ENOENT;
	return ret;
}

static unsigned long djp_nest_detour(void)
{
	unsigned long site = (unsigned long)djp_test_dwell_probe;
	s32 rel32;

	/* An address in the code would make it a branch target for djprobes. */
	OPTIMIZER_HIDE_VAR(site);
	memcpy(&rel32, (void *)(site + 1), sizeof(rel32));
	return site + 5 + rel32;
}

static int djp_nest_run(enum djp_nest_form form, bool handler, unsigned long n,
			unsigned long offset)
{
	int left, ret;

	memset(&djp_nest_outer_probe, 0, sizeof(djp_nest_outer_probe));
	memset(&djp_nest_inner_probe, 0, sizeof(djp_nest_inner_probe));
	ret = djp_nest_place_probes(form, handler);
	if (ret)
		return ret;
	djp_nest_first = READ_ONCE(*(u8 *)djp_test_dwell_probe);
	migrate_disable();
	djp_nest.task = current;
	if (djp_nest.place == DJP_NEST_DETOUR && djp_nest_first != 0xe9)
		ret = -ENOENT;
	else if (djp_nest.place == DJP_NEST_DETOUR)
		djp_nest.copied = djp_nest_detour() + offset;
	else if (djp_nest.event == DJP_NEST_DEBUG &&
		 djp_nest.place == DJP_NEST_COPIED)
		ret = djp_nest_find_copied();
	if (!ret)
		ret = djp_nest_drive(n);
	djp_nest.task = NULL;
	migrate_enable();
	left = djp_nest_remove(form);
	return ret ?: left;
}

static bool djp_nest_is_possible(enum djp_nest_form form)
{
	if (djp_nest.place == DJP_NEST_DETOUR)
		return (form == DJP_FORM_JUMP || form == DJP_FORM_GIVEN) &&
		       djp_nest.event == DJP_NEST_DEBUG;
	/* Nobody's handler would know. */
	if (form == DJP_FORM_GIVEN && djp_nest.place == DJP_NEST_HANDLER)
		return false;
	switch (djp_nest.event) {
	case DJP_NEST_NMI:
		return true;
	case DJP_NEST_TIMER:
	case DJP_NEST_SOFTIRQ:
		return djp_nest.place != DJP_NEST_TRAP;
	case DJP_NEST_CALL:
		return djp_nest.place == DJP_NEST_HANDLER;
	default:
		return !djp_nest_in_bursts();
	}
}

static int djp_nest_parse(char *text)
{
	char *form = strsep(&text, " "), *action = strsep(&text, " ");
	char *event = strsep(&text, " "), *place = strsep(&text, " ");
	int which_form, which_action, which_event, which_place;
	char *number = strsep(&text, " ");
	unsigned long n, offset = 0;
	int ret;

	if (!number)
		return -EINVAL;
	ret = kstrtoul(number, 0, &n);
	if (!ret && text)
		ret = kstrtoul(text, 0, &offset);
	which_form = match_string(djp_nest_forms, ARRAY_SIZE(djp_nest_forms), form);
	which_action = match_string(djp_nest_actions,
				    ARRAY_SIZE(djp_nest_actions), action);
	which_event = match_string(djp_nest_events,
				   ARRAY_SIZE(djp_nest_events), event);
	which_place = match_string(djp_nest_places,
				   ARRAY_SIZE(djp_nest_places), place);
	if (ret || which_form < 0 || which_action < 0 || which_event < 0 ||
	    which_place < 0)
		return -EINVAL;
	memset(&djp_nest, 0, sizeof(djp_nest));
	djp_nest.event = which_event;
	djp_nest.place = which_place;
	if (!djp_nest_is_possible(which_form))
		return -EINVAL;
	return djp_nest_run(which_form, which_action, n, offset);
}

static ssize_t djp_nest_write(struct file *file, const char __user *user,
			      size_t len, loff_t *pos)
{
	char buf[64] = "";
	int ret;

	if (len >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, user, len))
		return -EFAULT;
	mutex_lock(&djp_nest_mutex);
	ret = djp_nest_parse(strim(buf));
	mutex_unlock(&djp_nest_mutex);
	return ret ?: len;
}

static int djp_nest_show(struct seq_file *m, void *v)
{
	const struct djp_nest_probe *outer = &djp_nest_outer_probe;
	const struct djp_nest_probe *inner = &djp_nest_inner_probe;

	mutex_lock(&djp_nest_mutex);
	seq_printf(m, "landed %lu\nelsewhere %lu\n", djp_nest.landed,
		   djp_nest.elsewhere);
	seq_printf(m, "inner_calls %ld\ninner_hits %llu\ninner_missed %lu\n",
		   atomic_long_read(&djp_nest.inner_calls), inner->hits,
		   inner->missed);
	seq_printf(m, "outer_calls %ld\nouter_hits %llu\nouter_missed %lu\n",
		   atomic_long_read(&djp_nest.outer_calls), outer->hits,
		   outer->missed);
	seq_printf(m, "wrong %ld\nfirst 0x%02x\ncopied 0x%lx\n",
		   atomic_long_read(&djp_nest.wrong), djp_nest_first,
		   djp_nest.copied);
	mutex_unlock(&djp_nest_mutex);
	return 0;
}

static int djp_nest_open(struct inode *inode, struct file *file)
{
	return single_open(file, djp_nest_show, NULL);
}

static const struct file_operations djp_nest_fops = {
	.owner = THIS_MODULE,
	.open = djp_nest_open,
	.read = seq_read,
	.write = djp_nest_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * djp_test_nest_init() - make the file "nest"
 * @dir: where
 *
 * Return: 0 or a negative errno.
 */
int djp_test_nest_init(struct dentry *dir)
{
	int ret = djp_nest_event_init();

	if (ret)
		return ret;
	djp_nest_buffer = kvmalloc(DJP_NEST_DWELL, GFP_KERNEL);
	if (!djp_nest_buffer)
		return -ENOMEM;
	debugfs_create_file("nest", 0600, dir, NULL, &djp_nest_fops);
	return 0;
}

/**
 * djp_test_nest_exit() - free what djp_test_nest_init() took
 */
void djp_test_nest_exit(void)
{
	kvfree(djp_nest_buffer);
}
