// SPDX-License-Identifier: GPL-2.0
/*
 * Writing kernel text, many sites at a time.
 *
 * Always int3, then the bytes behind it, then the first byte, with one IPI to
 * all CPUs after each phase and not one for each site. It is the protocol of
 * text_poke_bp() (arch/x86/kernel/alternative.c), which can't be used: it knows
 * only jumps, calls and nops, and BUG()s on the instructions that we put back.
 */
#include <linux/ftrace.h>
#include <linux/memory.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "x86/x86.h"

/* How long others may keep us from writing text. */
#define DJP_TEXT_PATIENCE (2 * HZ)

/**
 * djp_jump_text() - the jump from a site to a detour
 * @site: from
 * @detour: to; in reach, djp_detour_build() saw to that
 * @text: DJP_JMP32_LEN bytes
 */
void djp_jump_text(const struct djp_site *site, const struct djp_detour *detour,
		   u8 *text)
{
	s32 rel = detour->text - (site->dcr.addr + DJP_JMP32_LEN);

	text[0] = DJP_JMP32;
	memcpy(text + 1, &rel, sizeof(rel));
}

/**
 * djp_bypass_text() - the int3s of a site in bypass, in its original text
 * @site: the site
 * @text: djp_written() bytes, or more up to site->dcr.len
 */
void djp_bypass_text(const struct djp_site *site, u8 *text)
{
	unsigned long traps = site->dcr.traps;
	unsigned int k;

	text[0] = DJP_INT3;
	for_each_set_bit(k, &traps, DJP_JMP32_LEN)
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

		p->foreign = memcmp((void *)dcr->addr, p->expect, dcr->len) ||
			djp_kprobe_near(dcr->addr, djp_written(dcr));
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

	*addr = djp_kprobe_near(dcr->addr, djp_written(dcr));
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

enum djp_phase { DJP_PUT_INT3, DJP_PUT_TAIL, DJP_PUT_FIRST };

static void djp_put(const struct djp_poke *p, unsigned int k, u8 byte)
{
	u8 *at = (u8 *)p->site->dcr.addr + k;

	if (*at != byte)
		djp_k.text_poke(at, &byte, 1);
}

/* The first bytes of instructions: each is an int3 before or after this. */
static void djp_put_starts(const struct djp_poke *p, bool int3)
{
	unsigned long traps = p->site->dcr.traps;
	unsigned int k;

	for_each_set_bit(k, &traps, DJP_JMP32_LEN)
		djp_put(p, k, int3 ? DJP_INT3 : p->text[k]);
	djp_put(p, 0, int3 ? DJP_INT3 : p->text[0]);
}

/* What is between them. */
static void djp_put_tail(const struct djp_poke *p)
{
	unsigned long traps = p->site->dcr.traps;
	u8 tail[DJP_JMP32_LEN];
	unsigned int k;

	memcpy(tail, p->text, sizeof(tail));
	for_each_set_bit(k, &traps, DJP_JMP32_LEN)
		tail[k] = DJP_INT3;
	djp_k.text_poke((u8 *)p->site->dcr.addr + 1, tail + 1,
			sizeof(tail) - 1);
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
	if (wrote)
		djp_text_sync();
}

/*
 * Is no kprobe on its way in or out? One is prepared, with a copy of its instruction,
 * before it can be found: all under kprobe_mutex (register_kprobe(),
 * kernel/kprobes.c). The optimiser may hold that too, but it knows no kprobe that
 * we can't find. With text_mutex held the answer stays true: a kprobe is prepared
 * under that.
 */
static bool djp_kprobes_at_rest(void)
{
	const struct task_struct *owner;
	bool at_rest;

	if (mutex_trylock(djp_k.kprobe_mutex)) {
		mutex_unlock(djp_k.kprobe_mutex);
		return true;
	}
	rcu_read_lock();
	owner = djp_mutex_owner(djp_k.kprobe_mutex);
	at_rest = owner && (owner->flags & PF_WQ_WORKER);
	rcu_read_unlock();
	return at_rest;
}

/**
 * djp_text_lock() - take text_mutex while kprobes are at rest
 *
 * Neither mutex is waited for: kprobes' optimiser holds both while it waits for
 * RCU-tasks (kprobe_optimizer(), kernel/kprobes.c, v6.1).
 *
 * Context: may sleep, for up to DJP_TEXT_PATIENCE.
 * Return: 0, or -EAGAIN without the mutex.
 */
int djp_text_lock(void)
{
	unsigned long end = jiffies + DJP_TEXT_PATIENCE;

	while (true) {
		if (mutex_trylock(djp_k.text_mutex)) {
			if (djp_kprobes_at_rest())
				return 0;
			mutex_unlock(djp_k.text_mutex);
		}
		if (time_after(jiffies, end))
			return -EAGAIN;
		schedule_timeout_uninterruptible(1);
	}
}

/**
 * djp_poke_all() - write the text of many sites
 * @pokes: what to write where
 * @nr: how many
 * @all_or_nothing: write nothing if one site does not hold what is expected;
 *	otherwise leave out such sites
 *
 * Sites whose text is not the expected one have @foreign set. No kprobe is
 * prepared or optimised meanwhile.
 *
 * Context: task, djp_mutex held, takes text_mutex. Not under cpus_read_lock().
 * Return: 0; or, if nothing was written, -EBUSY for foreign text and -EAGAIN if
 * kprobes do not come to rest.
 */
int djp_poke_all(struct djp_poke *pokes, int nr, bool all_or_nothing)
{
	int ret = djp_text_lock();

	if (ret)
		return ret;
	if (djp_poke_verify(pokes, nr) || !all_or_nothing) {
		djp_poke_phase(pokes, nr, DJP_PUT_INT3);
		djp_poke_phase(pokes, nr, DJP_PUT_TAIL);
		djp_poke_phase(pokes, nr, DJP_PUT_FIRST);
	} else {
		ret = -EBUSY;
	}
	mutex_unlock(djp_k.text_mutex);
	return ret;
}
