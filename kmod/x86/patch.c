// SPDX-License-Identifier: GPL-2.0
/*
 * Writing kernel text, many sites at a time.
 *
 * Always int3, then the bytes behind it, then the first byte, with one IPI to
 * all CPUs after each phase and not one for each site. It is the protocol of
 * text_poke_bp() (arch/x86/kernel/alternative.c), which can't be used: it knows
 * only jumps, calls and nops, and BUG()s on the instructions that we put back.
 */
#include <linux/completion.h>
#include <linux/ftrace.h>
#include <linux/memory.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "x86/x86.h"

/**
 * djp_jump_text() - the jump from a site to a detour
 * @site: from
 * @detour: to; in reach, djp_detour_build() saw to that
 * @text: site->dcr.len bytes
 *
 * Behind the jump, what is left of the last instruction becomes nops: kprobes
 * decode a function from its start, and would be out of step behind us.
 */
void djp_jump_text(const struct djp_site *site, const struct djp_detour *detour,
		   u8 *text)
{
	s32 rel = detour->text - (site->dcr.addr + DJP_JMP32_LEN);

	text[0] = DJP_JMP32;
	memcpy(text + 1, &rel, sizeof(rel));
	memset(text + DJP_JMP32_LEN, DJP_NOP, site->dcr.len - DJP_JMP32_LEN);
}

/**
 * djp_bypass_text() - make a site's original text that in bypass
 * @site: the site
 * @text: site->dcr.len bytes
 *
 * Int3s; and nops for the rest of the first instruction. Once the int3 was seen by
 * all CPUs nobody executes that: tasks stand at instructions, not in them.
 */
void djp_bypass_text(const struct djp_site *site, u8 *text)
{
	unsigned int k;

	text[0] = DJP_INT3;
	memset(text + 1, DJP_NOP, site->dcr.insns[0].len - 1);
	djp_for_each_trap(k, site->dcr.traps)
		text[k] = DJP_INT3;
}

/**
 * djp_site_text() - what a site's text must be now
 * @site: the site
 * @text: site->dcr.len bytes
 *
 * Context: djp_mutex held.
 */
void djp_site_text(const struct djp_site *site, u8 *text)
{
	memcpy(text, site->dcr.text, site->dcr.len);
	if (site->state == DJP_JUMP)
		djp_jump_text(site, site->detour, text);
	else if (site->state == DJP_BYPASS)
		djp_bypass_text(site, text);
}

/*
 * A kprobe in the way of a site. One before a new site may yet be optimised, and then
 * displaces text of ours; behind an int3 or a jump of ours none is.
 */
static unsigned long djp_kprobe_on(const struct djp_poke *poke)
{
	const struct djp_site *site = poke->site;
	unsigned long addr = site->dcr.addr;

	if (site->state == DJP_NEW && !poke->recheck)
		return djp_kprobe_near(addr, site->dcr.len);
	return djp_kprobe_in(addr, addr + site->dcr.len);
}

/* memcmp(), without a call: see djp_for_each_trap(). */
static bool djp_text_is(unsigned long addr, const u8 *bytes, size_t len)
{
	const u8 *text = (const u8 *)addr;

	while (len && *text == *bytes) {
		text++;
		bytes++;
		len--;
	}
	return !len;
}

/*
 * Is the text what it must be, and no kprobe about to change it? A kprobe writes
 * an int3 too: over one of ours it can't be seen in the text.
 */
static bool djp_poke_verify(struct djp_poke *pokes, int nr)
{
	bool ok = true;
	int i;

	for (i = 0; i < nr; i++) {
		struct djp_poke *p = &pokes[i];
		const struct djp_dcr *dcr = &p->site->dcr;

		/* A kprobe behind the first instruction is why, and stays. */
		if (p->withdraw)
			p->foreign = !djp_text_is(dcr->addr, p->expect,
						  dcr->insns[0].len);
		else
			p->foreign = !djp_text_is(dcr->addr, p->expect,
						  dcr->len) || djp_kprobe_on(p);
		if (p->foreign)
			ok = false;
	}
	return ok;
}

/**
 * djp_text_owner() - whose bytes stand where ours should
 * @poke: a poke with @foreign set
 * @addr: the first byte that is not the expected one, or the kprobe
 *
 * Return: "kprobe", "ftrace", "jump-label", "static-call" or "unknown".
 */
const char *djp_text_owner(const struct djp_poke *poke, unsigned long *addr)
{
	const struct djp_dcr *dcr = &poke->site->dcr;
	const struct djp_textmap *map;
	unsigned long where;
	unsigned int i;

	*addr = djp_kprobe_on(poke);
	if (*addr)
		return "kprobe";
	for (i = 0; i < dcr->len - 1; i++) {
		if (((u8 *)dcr->addr)[i] != poke->expect[i])
			break;
	}
	*addr = dcr->addr + i;
	if (djp_k.ftrace_location_range(*addr - MCOUNT_INSN_SIZE + 1, *addr))
		return "ftrace";
	map = djp_textmap_get(poke->site->mod);
	switch (map ? djp_textmap_reserved(map, *addr, *addr + 1, &where) :
		DJP_OK) {
	case DJP_JUMP_LABEL:
		return "jump-label";
	case DJP_STATIC_CALL:
		return "static-call";
	default:
		return "unknown";
	}
}

/*
 * A text_poke() takes as long as to copy some hundred bytes: it changes to page tables
 * of its own and back. So what lies near is written at once, with the bytes in between
 * as they are.
 *
 * They stay as they are, for whoever writes kernel text holds text_mutex: static keys
 * and static calls, ftrace, alternatives, kprobes, BPF (arch/x86/kernel/jump_label.c,
 * static_call.c, ftrace.c, alternative.c, kprobes/, arch/x86/net/bpf_jit_comp.c, v6.1),
 * text_poke_bp()'s own int3s among them, which are gone before it is let go; kgdb backs
 * off if it is held (kgdb_arch_set_breakpoint()). And no CPU sees them otherwise: each
 * byte is stored once, as what it was. That a CPU may be executing them is no matter:
 * it is so for each byte that shares a cache line with one that is written.
 */
#define DJP_GAP_MAX	256

/**
 * struct djp_writer - bytes that are to be written together
 * @to: where the first is
 * @len: how many
 * @buf: they
 */
struct djp_writer {
	unsigned long	to;
	size_t		len;
	u8		buf[PAGE_SIZE];
};

/* text_mutex guards it. */
static struct djp_writer djp_writer;

/**
 * djp_text_flush() - write what is left of djp_text_put()
 *
 * Context: text_mutex held, may sleep.
 */
void djp_text_flush(void)
{
	struct djp_writer *w = &djp_writer;

	/* It maps two pages at most (__text_poke(), alternative.c). */
	if (w->len)
		djp_k.text_poke((void *)w->to, w->buf, w->len);
	w->len = 0;
}

static void djp_text_put_page(unsigned long to, const u8 *bytes, size_t len)
{
	struct djp_writer *w = &djp_writer;
	unsigned long end = w->to + w->len;

	if (w->len && (to < w->to || to > end + DJP_GAP_MAX ||
		       to + len > w->to + sizeof(w->buf)))
		djp_text_flush();
	if (!w->len) {
		w->to = to;
		end = to;
	}
	if (to > end)
		memcpy(w->buf + (end - w->to), (void *)end, to - end);
	memcpy(w->buf + (to - w->to), bytes, len);
	w->len = max(end, to + len) - w->to;
}

/**
 * djp_text_put() - write executable memory
 * @to: where. Each time behind the last is cheapest
 * @bytes: what
 * @len: how many
 *
 * They are written when djp_text_flush() returns, at the latest.
 *
 * Context: text_mutex held, may sleep.
 */
void djp_text_put(unsigned long to, const u8 *bytes, size_t len)
{
	size_t n;

	for (; len; len -= n, to += n, bytes += n) {
		n = min_t(size_t, len, PAGE_SIZE);
		djp_text_put_page(to, bytes, n);
	}
}

enum djp_phase { DJP_PUT_INT3, DJP_PUT_TAIL, DJP_PUT_FIRST };

static void djp_put(const struct djp_poke *p, unsigned int k, u8 byte)
{
	unsigned long at = p->site->dcr.addr + k;

	if (*(u8 *)at != byte)
		djp_text_put(at, &byte, 1);
}

/* The first bytes of instructions: each is an int3 before or after this. */
static void djp_put_starts(const struct djp_poke *p, bool int3)
{
	unsigned int k;

	djp_put(p, 0, int3 ? DJP_INT3 : p->text[0]);
	djp_for_each_trap(k, p->site->dcr.traps)
		djp_put(p, k, int3 ? DJP_INT3 : p->text[k]);
}

/* What is between them. */
static void djp_put_tail(const struct djp_poke *p)
{
	u8 tail[DJP_DCR_MAX];
	unsigned int k;

	memcpy(tail, p->text, sizeof(tail));
	djp_for_each_trap(k, p->site->dcr.traps)
		tail[k] = DJP_INT3;
	djp_text_put(p->site->dcr.addr + 1, tail + 1, p->tail);
}

/* One phase at all sites, then one IPI to all CPUs. */
static void djp_poke_phase(const struct djp_poke *pokes, int nr,
			   enum djp_phase phase)
{
	bool wrote = false;
	int i;

	for (i = 0; i < nr; i++) {
		const struct djp_poke *p = &pokes[i];

		if (p->foreign)
			continue;
		if (phase == DJP_PUT_INT3 && p->int3)
			djp_put_starts(p, true);
		else if (phase == DJP_PUT_TAIL && p->tail)
			djp_put_tail(p);
		else if (phase == DJP_PUT_FIRST && p->first)
			djp_put_starts(p, false);
		else
			continue;
		wrote = true;
		cond_resched();
	}
	djp_text_flush();
	if (wrote)
		djp_text_sync();
}

/**
 * struct djp_text_job - something that needs the text locks, done by a worker
 * @work: the work
 * @fn: what
 * @data: its argument
 * @ret: the result
 * @state: whether it still waits for the locks; who takes it from there has it
 * @done: it has been done
 */
struct djp_text_job {
	struct work_struct	work;
	int			(*fn)(void *data);
	void			*data;
	int			ret;
	atomic_t		state;
	struct completion	done;
};

enum { DJP_JOB_WAITS, DJP_JOB_RUNS, DJP_JOB_DROPPED };

static struct workqueue_struct *djp_text_wq;

static void djp_text_work(struct work_struct *work)
{
	struct djp_text_job *job = container_of(work, struct djp_text_job, work);
	bool dropped;

	/* kernel/kprobes.c takes them in this order. */
	mutex_lock(djp_k.kprobe_mutex);
	mutex_lock(djp_k.text_mutex);
	dropped = atomic_cmpxchg(&job->state, DJP_JOB_WAITS, DJP_JOB_RUNS) !=
		DJP_JOB_WAITS;
	if (!dropped)
		job->ret = job->fn(job->data);
	mutex_unlock(djp_k.text_mutex);
	mutex_unlock(djp_k.kprobe_mutex);
	if (dropped)
		kfree(job);
	else
		complete(&job->done);
}

/**
 * djp_text_do() - do something that needs the text locks
 * @fn: what; it returns 0 or a negative errno
 * @data: its argument
 * @patience: how long to wait for the locks, jiffies
 *
 * No kprobe comes, goes or is optimised while @fn runs: a kprobe is prepared, with
 * a copy of its instruction, before it can be found, all under kprobe_mutex
 * (register_kprobe(), kernel/kprobes.c).
 *
 * Kprobes' optimiser holds that and text_mutex while it waits for RCU-tasks
 * (kprobe_optimizer(), v6.1), for as long as any task stays preempted. So a worker
 * waits for them, and is left behind if that takes too long. To try again and again
 * instead would lose against somebody who registers kprobes in a loop.
 *
 * Context: task, may sleep, djp_mutex held. Not under cpus_read_lock(). @fn runs
 * with kprobe_mutex and text_mutex held.
 * Return: that of @fn; or, if that did not run, -EAGAIN if the locks were not to
 * be had within @patience, or -ENOMEM.
 */
int djp_text_do(int (*fn)(void *data), void *data, long patience)
{
	struct djp_text_job *job = kzalloc(sizeof(*job), GFP_KERNEL);
	int ret;

	if (!job)
		return -ENOMEM;
	job->fn = fn;
	job->data = data;
	INIT_WORK(&job->work, djp_text_work);
	init_completion(&job->done);
	queue_work(djp_text_wq, &job->work);
	if (!wait_for_completion_timeout(&job->done, patience)) {
		if (atomic_cmpxchg(&job->state, DJP_JOB_WAITS,
				   DJP_JOB_DROPPED) == DJP_JOB_WAITS)
			return -EAGAIN;
		wait_for_completion(&job->done);
	}
	ret = job->ret;
	kfree(job);
	return ret;
}

/**
 * djp_text_queue() - let a worker wait for the text locks
 * @work: what to do, behind all that was queued before. It takes the locks itself
 *
 * Context: may sleep. djp_patch_exit() waits for it.
 */
void djp_text_queue(struct work_struct *work)
{
	queue_work(djp_text_wq, work);
}

/**
 * struct djp_poke_batch - the arguments of djp_poke_all()
 * @pokes: what to write where
 * @nr: how many
 * @all_or_nothing: whether
 */
struct djp_poke_batch {
	struct djp_poke	*pokes;
	int		nr;
	bool		all_or_nothing;
};

static int djp_poke_locked(void *data)
{
	struct djp_poke_batch *b = data;
	bool ok;
	int i;

	djp_kprobes_take();
	ok = djp_poke_verify(b->pokes, b->nr);
	djp_kprobes_drop();
	if (!ok && b->all_or_nothing)
		return -EBUSY;
	djp_poke_phase(b->pokes, b->nr, DJP_PUT_INT3);
	djp_poke_phase(b->pokes, b->nr, DJP_PUT_TAIL);
	djp_poke_phase(b->pokes, b->nr, DJP_PUT_FIRST);
	for (i = 0; i < b->nr; i++) {
		if (b->pokes[i].unban && !b->pokes[i].foreign)
			djp_ban_lift(b->pokes[i].site, true);
	}
	return 0;
}

/**
 * djp_poke_all() - write the text of many sites
 * @pokes: what to write where
 * @nr: how many
 * @all_or_nothing: write nothing if one site does not hold what is expected;
 *	otherwise leave out such sites
 * @patience: how long to wait for the locks, jiffies
 *
 * Sites whose text is not the expected one have @foreign set.
 *
 * Context: as djp_text_do().
 * Return: 0; or, if nothing was written, -EBUSY for foreign text, -EAGAIN if the
 * locks were not to be had, -ENOMEM.
 */
int djp_poke_all(struct djp_poke *pokes, int nr, bool all_or_nothing,
		 long patience)
{
	struct djp_poke_batch batch = { pokes, nr, all_or_nothing };

	return djp_text_do(djp_poke_locked, &batch, patience);
}

/**
 * djp_patch_init() - prepare to write text
 *
 * Context: module load.
 * Return: 0 or -ENOMEM.
 */
int djp_patch_init(void)
{
	djp_text_wq = alloc_ordered_workqueue("djprobes", 0);
	return djp_text_wq ? 0 : -ENOMEM;
}

/**
 * djp_patch_exit() - no text will be written any more
 *
 * Context: module unload, or its load failed. Waits for workers left behind.
 */
void djp_patch_exit(void)
{
	destroy_workqueue(djp_text_wq);
}
