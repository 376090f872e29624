// SPDX-License-Identifier: GPL-2.0
/*
 * Writing kernel text, many sites at a time.
 *
 * Always int3, then the bytes behind it, then the first byte, with one IPI to
 * all CPUs after each phase and not one for each site. It is the protocol of
 * text_poke_bp() (arch/x86/kernel/alternative.c), which can't be used: it knows
 * only jumps, calls and nops, and BUG()s on the instructions that we put back.
 */
#include <linux/memory.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "x86/x86.h"

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
		text[0] = DJP_INT3;
}

static bool djp_poke_verify(struct djp_poke *pokes, int nr)
{
	bool ok = true;
	int i;

	for (i = 0; i < nr; i++) {
		struct djp_poke *p = &pokes[i];

		p->foreign = memcmp((void *)p->site->dcr.addr, p->expect,
				    p->site->dcr.len);
		if (p->foreign)
			ok = false;
	}
	return ok;
}

enum djp_phase { DJP_PUT_INT3, DJP_PUT_TAIL, DJP_PUT_FIRST };

/* One phase at all sites, then one IPI to all CPUs. */
static void djp_poke_phase(const struct djp_poke *pokes, int nr,
			   enum djp_phase phase)
{
	const u8 int3 = DJP_INT3;
	bool wrote = false;
	int i;

	for (i = 0; i < nr; i++) {
		const struct djp_poke *p = &pokes[i];
		u8 *site = (u8 *)p->site->dcr.addr;

		if (p->foreign)
			continue;
		if (phase == DJP_PUT_INT3 && p->int3)
			djp_k.text_poke(site, &int3, 1);
		else if (phase == DJP_PUT_TAIL && p->tail)
			djp_k.text_poke(site + 1, p->text + 1,
					DJP_JMP32_LEN - 1);
		else if (phase == DJP_PUT_FIRST && p->first)
			djp_k.text_poke(site, p->text, 1);
		else
			continue;
		wrote = true;
		cond_resched();
	}
	if (wrote)
		djp_text_sync();
}

/**
 * djp_poke_all() - write the text of many sites
 * @pokes: what to write where
 * @nr: how many
 * @all_or_nothing: write nothing if one site does not hold what is expected;
 *	otherwise leave out such sites
 *
 * Sites whose text is not the expected one have @foreign set.
 *
 * Context: task, djp_mutex held, takes text_mutex. Not under cpus_read_lock().
 * Return: 0, or -EBUSY if nothing was written.
 */
int djp_poke_all(struct djp_poke *pokes, int nr, bool all_or_nothing)
{
	int ret = 0;

	mutex_lock(djp_k.text_mutex);
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
