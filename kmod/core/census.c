// SPDX-License-Identifier: GPL-2.0
/*
 * Judging every instruction there is, function by function.
 *
 * Between functions no lock is held: modules come and go meanwhile, and probes too.
 * What is probed is judged as if it were not.
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

#include "core/census.h"
#include "x86/flags.h"
#include "x86/x86.h"

/**
 * djp_cursor_init() - before the first function
 * @c: the cursor, to be given to djp_cursor_exit()
 */
void djp_cursor_init(struct djp_cursor *c)
{
	struct djp_textmap *map = NULL;

	memset(c, 0, sizeof(*c));
	mutex_lock(&djp_mutex);
	while ((map = djp_textmap_next(map)))
		c->total += djp_textmap_size(map);
	mutex_unlock(&djp_mutex);
}

/**
 * djp_cursor_exit() - free what a cursor holds
 * @c: the cursor
 */
void djp_cursor_exit(struct djp_cursor *c)
{
	djp_mainline_leave(&c->mainline);
}

/* Nops up to the end of a function, behind a call that does not return. */
static bool djp_nops_to_end(const struct djp_place *place, unsigned long addr)
{
	struct insn insn;
	int len;

	while (addr < place->end) {
		len = djp_decode(&insn, addr, place->end);
		if (len < 0 || !djp_is_nop(&insn))
			return false;
		addr += len;
	}
	return true;
}

/*
 * Is the nop at @addr there to fill up space? Nothing branches to it, and what is
 * before it does not go on.
 */
static bool djp_is_padding(const struct djp_place *place, unsigned long addr,
			   const struct insn *insn, bool ended)
{
	if (!djp_is_nop(insn) ||
	    djp_textmap_target(place->map, addr, addr + 1))
		return false;
	return ended || djp_nops_to_end(place, addr);
}

static void djp_census_judge(const struct djp_place *place,
			     const struct djp_mainline *m,
			     struct djp_judgement *j)
{
	unsigned long addr = j->addr;
	struct djp_place behind;

	if (place->ftrace && (addr == place->start || addr == place->ftrace)) {
		j->flags |= DJP_IS_FTRACE;
		addr = place->ftrace + MCOUNT_INSN_SIZE;
	}
	/* A symbol may begin there: a label in the function. */
	if (addr >= place->end) {
		djp_place_find(&behind, addr, djp_textmap_mod(place->map));
		place = &behind;
	}
	djp_judge(place, addr, &j->dcr, &j->verdict);
	j->flags |= djp_mainline_judge(m, j->addr);
	if (j->verdict.method == DJPROBE_KPROBE && !(j->flags & DJP_PEER_KPROBE))
		j->verdict.method = DJPROBE_ANY;
}

static void djp_census_function(const struct djp_place *place,
				struct djp_cursor *c, djp_judged_t judged,
				void *data)
{
	unsigned long addr = c->addr;
	struct djp_judgement j;
	bool ended = true;
	struct insn insn;
	int len;

	while (addr < place->end) {
		if (!djp_textmap_insn(place->map, addr)) {
			addr++;
			continue;
		}
		/* Half of the padding, and not worth decoding. */
		if (*(u8 *)addr == DJP_INT3 && ended && !djp_is_ours(addr)) {
			addr++;
			continue;
		}
		len = djp_decode(&insn, addr, place->end);
		memset(&j.insn, 0, sizeof(j.insn));
		memset(&j.verdict, 0, sizeof(j.verdict));
		j.addr = addr;
		j.flags = 0;
		j.dcr.len = 0;
		j.dcr.nr_insns = 0;
		j.dcr.traps = 0;
		j.dcr.live = DJP_FLAGS_ALL;
		if (len > 0) {
			djp_displace(&insn, &j.insn);
			memcpy(j.text, (void *)addr, len);
			djp_original_text(addr, j.text, len);
		}
		if (djp_textmap_target(place->map, addr, addr + 1))
			j.flags |= DJP_IS_TARGET;
		if (len > 0 && djp_is_padding(place, addr, &insn, ended)) {
			j.flags |= DJP_IS_PADDING;
		} else {
			djp_census_judge(place, &c->mainline, &j);
			ended = djp_ends_region(&j.insn);
		}
		judged(data, &j);
		addr += max(len, 1);
	}
}

/* The next part, if this one is done. */
static struct djp_textmap *djp_census_part(struct djp_cursor *c)
{
	struct djp_textmap *map = NULL;

	while ((map = djp_textmap_next(map))) {
		if (djp_textmap_id(map) == c->id && c->addr < c->end)
			return map;
		if (djp_textmap_id(map) > c->id)
			break;
	}
	if (!map)
		return NULL;
	c->id = djp_textmap_id(map);
	c->start = djp_textmap_start(map);
	c->end = djp_textmap_end(map);
	c->addr = c->start;
	strscpy(c->name, djp_textmap_mod(map) ? djp_textmap_mod(map)->name :
		"kernel", sizeof(c->name));
	return map;
}

/**
 * djp_census_step() - judge the next function
 * @c: how far we are. @c->id, @c->name and the rest say which part it is in
 * @judged: called for each instruction but int3s that fill up space
 * @data: for @judged
 *
 * Context: may sleep. Takes djp_mutex.
 * Return: bytes of text judged, 0 at the end; -EINTR if the task is being killed;
 * -ENOMEM.
 */
int djp_census_step(struct djp_cursor *c, djp_judged_t judged, void *data)
{
	struct djp_textmap *map;
	struct djp_place place;
	unsigned long begin;
	int ret = 0;

	if (fatal_signal_pending(current))
		return -EINTR;
	cond_resched();
	mutex_lock(&djp_mutex);
	map = djp_census_part(c);
	if (!map)
		goto out;
	begin = c->addr;
	djp_place_find(&place, c->addr, djp_textmap_mod(map));
	if (place.end <= c->addr) {	/* before the first symbol */
		c->addr = c->end;
	} else {
		ret = djp_mainline_enter(&c->mainline, place.start, place.end);
		if (ret)
			goto out;
		djp_steps_keep();
		djp_census_function(&place, c, judged, data);
		djp_steps_drop();
		c->addr = place.end;
	}
	c->done += c->addr - begin;
	ret = c->addr - begin;
out:
	mutex_unlock(&djp_mutex);
	return ret;
}
