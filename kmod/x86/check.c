// SPDX-License-Identifier: GPL-2.0
/*
 * What can stand at an address: a jump, a jump with int3s in it, an int3, a kprobe
 * or nothing. Whatever is not proven is refused, with the reason and the address
 * that stands in the way.
 *
 * djp_judge() looks at the text alone, so that a census can judge all of it.
 * djp_check_site() looks at the probes too that are there.
 */
#include <linux/ftrace.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/preempt.h>
#include <linux/string.h>

#include "x86/flags.h"
#include "x86/x86.h"

static enum djprobe_method djp_say(struct djp_verdict *v,
				   enum djprobe_method method,
				   enum djp_reason why, unsigned long offending)
{
	v->method = method;
	v->why = why;
	v->offending = offending;
	return method;
}

/* Remember the first thing that a plain jump does not cope with. */
static void djp_object(struct djp_verdict *v, enum djp_reason why,
		       unsigned long offending)
{
	if (v->why == DJP_OK)
		djp_say(v, DJPROBE_ANY, why, offending);
}

/* One instruction alone, as an int3 or a kprobe displaces it. */
static void djp_keep_first(struct djp_dcr *dcr)
{
	dcr->nr_insns = 1;
	dcr->len = dcr->insns[0].len;
	dcr->traps = 0;
}

static void djp_copy_text(struct djp_dcr *dcr)
{
	memcpy(dcr->text, (void *)dcr->addr, dcr->len);
	djp_original_text(dcr->addr, dcr->text, dcr->len);
}

/*
 * Where indirect branches and, on some processors, all returns pass through. Labels
 * there stand in the middle of other instructions (arch/x86/lib/retpoline.S).
 */
static bool djp_in_thunks(unsigned long addr)
{
	return djp_k.__indirect_thunk_start && djp_k.__indirect_thunk_end &&
		addr >= (unsigned long)djp_k.__indirect_thunk_start &&
		addr < (unsigned long)djp_k.__indirect_thunk_end;
}

/**
 * djp_place_find() - what is known of a function
 * @place: filled in
 * @addr: an address in it
 * @mod: the module that it is in, which may not go meanwhile, or NULL
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_place_find(struct djp_place *place, unsigned long addr,
		    const struct module *mod)
{
	unsigned long size, offset;
	struct djp_function fn;

	memset(place, 0, sizeof(*place));
	place->bar = DJP_NOT_TEXT;
	if (mod == THIS_MODULE) {
		place->bar = DJP_OWN_TEXT;
		return;
	}
	place->map = djp_textmap_get(mod);
	if (!place->map || !djp_textmap_has(place->map, addr))
		return;
	if (djp_function_find(addr, &fn)) {
		place->start = fn.start;
		place->end = fn.end;
		/* Not just any in it, see djp_is_lost_site(). */
		if (fn.ftrace && fn.ftrace <= fn.start + ENDBR_INSN_SIZE)
			place->ftrace = fn.ftrace;
	} else {
		if (!djp_k.kallsyms_lookup_size_offset(addr, &size, &offset))
			return;
		fn.plain = false;
		place->start = addr - offset;
		place->end = min(place->start + size,
				 djp_textmap_end(place->map));
		place->ftrace = djp_k.ftrace_location_range(place->start,
							    place->start +
							    ENDBR_INSN_SIZE);
	}
	if (djp_is_blacklisted(addr, fn.plain))
		place->bar = DJP_BLACKLIST;
	else if (djp_on_int3_path(addr) || djp_in_thunks(addr))
		place->bar = DJP_INT3_PATH;
	else
		place->bar = DJP_OK;
}

/* Text that the kernel itself patches at run time. */
static enum djp_reason djp_reserved(const struct djp_place *place,
				    unsigned long start, unsigned long end,
				    unsigned long *where)
{
	if (place->ftrace && place->ftrace < end &&
	    place->ftrace + MCOUNT_INSN_SIZE > start) {
		*where = place->ftrace;
		return DJP_FTRACE;
	}
	*where = start;
	if (djp_textmap_smp_lock(place->map, start, end))
		return DJP_ALTERNATIVE;
	return djp_textmap_reserved(place->map, start, end, where);
}

/*
 * The ftrace site of a function without a symbol: a weak one that another takes the
 * place of. It seems to be in the function before it, as padding.
 */
static bool djp_is_lost_site(const struct insn *insn, unsigned long addr)
{
	return insn->length == MCOUNT_INSN_SIZE && djp_is_nop(insn) &&
		djp_k.ftrace_location_range(addr, addr);
}

/* Decode and look at the instruction at @addr, behind those that @dcr has. */
static enum djp_reason djp_take(const struct djp_place *place,
				struct djp_dcr *dcr, unsigned long addr,
				unsigned long *where)
{
	struct djp_insn *d = &dcr->insns[dcr->nr_insns];
	enum djp_reason reason, reserved;
	struct insn insn;

	*where = addr;
	if (addr >= place->end)
		return DJP_TOO_NEAR_END;
	memset(d, 0, sizeof(*d));
	d->off = addr - dcr->addr;
	if (djp_decode(&insn, addr, place->end) < 0)
		return DJP_UNDECODABLE;
	reason = djp_displace(&insn, d);
	dcr->nr_insns++;
	dcr->len = d->off + d->len;
	reserved = djp_reserved(place, addr, addr + d->len, where);
	if (reserved != DJP_OK)
		return reserved;
	*where = addr;
	if (djp_is_lost_site(&insn, addr))
		return DJP_FTRACE;
	if (reason == DJP_OK && djp_may_fault(addr) &&
	    djp_k.search_exception_tables(addr))
		return DJP_EXTABLE;
	return reason;
}

/*
 * Over what is not reached: padding behind a return or a jump. It may go on
 * beyond the function's end; a function that starts there is a branch target.
 */
static unsigned long djp_skip_padding(const struct djp_place *place,
				      const struct djp_dcr *dcr,
				      unsigned long addr)
{
	struct insn insn;
	int len;

	while (addr < dcr->addr + DJP_JMP32_LEN && addr < place->end &&
	       !djp_textmap_target(place->map, addr, addr + 1)) {
		len = djp_decode(&insn, addr, place->end);
		if (len < 0 || !djp_is_nop(&insn) ||
		    djp_is_lost_site(&insn, addr))
			break;
		addr += len;
	}
	return addr;
}

static bool djp_is_call(const struct djp_insn *insn)
{
	return insn->relocation == DJP_CALL ||
		insn->relocation == DJP_CALL_INDIRECT;
}

/*
 * The rest of the bytes that a jump covers. Where control comes in by another way
 * than from above - a branch, a call that returns, code behind a return - an int3
 * will have to stand.
 *
 * Return: DJP_OK, or why no jump can stand at all.
 */
static enum djp_reason djp_extend(const struct djp_place *place,
				  struct djp_dcr *dcr, struct djp_verdict *v,
				  unsigned long *where)
{
	unsigned long addr = dcr->addr + dcr->len;
	enum djp_reason reason;

	while (addr < dcr->addr + DJP_JMP32_LEN) {
		const struct djp_insn *last = &dcr->insns[dcr->nr_insns - 1];

		if (djp_ends_region(last)) {
			addr = djp_skip_padding(place, dcr, addr);
			if (addr >= dcr->addr + DJP_JMP32_LEN)
				break;
			djp_object(v, DJP_INSN_RETURN, dcr->addr + last->off);
			dcr->traps |= BIT(addr - dcr->addr);
		} else if (djp_is_call(last)) {
			djp_object(v, DJP_INSN_CALL, dcr->addr + last->off);
			dcr->traps |= BIT(addr - dcr->addr);
		}
		reason = djp_take(place, dcr, addr, where);
		if (reason != DJP_OK)
			return reason;
		addr = dcr->addr + dcr->len;
	}
	dcr->len = addr - dcr->addr;
	return DJP_OK;
}

/* An int3 for each branch target; false if one is inside an instruction. */
static bool djp_trap_targets(const struct djp_place *place, struct djp_dcr *dcr,
			     struct djp_verdict *v, unsigned long *where)
{
	unsigned long end = dcr->addr + dcr->len;
	unsigned long at = dcr->addr + 1;
	unsigned int i;

	while (true) {
		at = djp_textmap_target(place->map, at, end);
		if (!at)
			return true;
		*where = at;
		for (i = 1; i < dcr->nr_insns; i++) {
			if (dcr->insns[i].off == at - dcr->addr)
				break;
		}
		if (i >= dcr->nr_insns)
			return false;
		djp_object(v, DJP_BRANCH_TARGET, at);
		dcr->traps |= BIT(at - dcr->addr);
		at++;
	}
}

static enum djprobe_method djp_judge_jump(const struct djp_place *place,
					  struct djp_dcr *dcr,
					  struct djp_verdict *v)
{
	unsigned long where;
	enum djp_reason reason;

	reason = djp_extend(place, dcr, v, &where);
	if (reason == DJP_OK &&
	    dcr->addr + dcr->len > djp_textmap_end(place->map)) {
		reason = DJP_TOO_NEAR_END;
		where = dcr->addr;
	}
	if (reason == DJP_OK && !djp_trap_targets(place, dcr, v, &where))
		reason = DJP_BRANCH_TARGET;
	/* What it refers to matters for where a detour can be. */
	djp_copy_text(dcr);
	if (reason == DJP_OK && dcr->traps && !djp_slot_possible(dcr)) {
		reason = v->why;
		where = v->offending;
	}
	if (reason != DJP_OK) {
		djp_keep_first(dcr);
		return djp_say(v, DJPROBE_INT3, reason, where);
	}
	v->method = dcr->traps ? DJPROBE_JUMP_INT3 : DJPROBE_JUMP;
	return v->method;
}

/**
 * djp_judge() - what can stand at an address, by the text alone
 * @place: the function that it is in
 * @addr: the address; not at an ftrace site, see djp_behind_ftrace()
 * @dcr: what is displaced, as far as was found out
 * @v: the verdict. DJPROBE_KPROBE is "nothing of ours": whether kprobes take it
 *	is theirs to say
 *
 * Context: djp_mutex held.
 * Return: the verdict's method.
 */
enum djprobe_method djp_judge(const struct djp_place *place, unsigned long addr,
			      struct djp_dcr *dcr, struct djp_verdict *v)
{
	enum djp_reason reason;
	unsigned long where, by;

	/* The text is copied whole; of the instructions @nr_insns are valid. */
	dcr->addr = addr;
	dcr->len = 0;
	dcr->nr_insns = 0;
	dcr->traps = 0;
	dcr->live = DJP_FLAGS_ALL;
	dcr->calm = false;
	djp_say(v, DJPROBE_ANY, DJP_OK, 0);
	if (place->bar != DJP_OK)
		return djp_say(v, DJPROBE_ANY, place->bar, addr);
	if (!djp_textmap_insn(place->map, addr))
		return djp_say(v, DJPROBE_ANY, DJP_NOT_BOUNDARY, addr);

	reason = djp_take(place, dcr, addr, &where);
	djp_copy_text(dcr);
	switch (reason) {
	case DJP_OK:
		break;
	/*
	 * Not an instruction that may fault: when single-stepping faults, kprobes
	 * forget to leave that state, and the next int3 on this CPU that is not
	 * theirs, such as ours, is an oops in kprobe_int3_handler() (since
	 * 6256e668b7af, v5.13).
	 */
	case DJP_INSN_BRANCH:
	case DJP_INSN_CALL:
	case DJP_INSN_PRIVILEGED:
		return djp_say(v, DJPROBE_KPROBE, reason, where);
	default:
		return djp_say(v, DJPROBE_ANY, reason, where);
	}
	dcr->live = djp_live_flags(place, addr, &by);
	dcr->calm = djp_is_calm(place);
	return djp_judge_jump(place, dcr, v);
}

/**
 * djp_kprobe_in() - the first kprobe in a range
 * @start: first address
 * @end: one behind the last
 *
 * One on an ftrace site does not count: it writes nothing but that.
 *
 * Return: its address, or 0.
 */
unsigned long djp_kprobe_in(unsigned long start, unsigned long end)
{
	unsigned long found = 0;
	unsigned long addr;
	struct kprobe *kp;

	if (djp_kprobes_none(start, end))
		return 0;
	preempt_disable();
	for (addr = start; addr < end && !found; addr++) {
		kp = djp_k.get_kprobe((void *)addr);
		if (kp && !(kp->flags & KPROBE_FLAG_FTRACE))
			found = addr;
	}
	preempt_enable();
	return found;
}

/**
 * djp_kprobe_near() - a kprobe that is, or may come, in the way of bytes of ours
 * @addr: the insertion address
 * @len: bytes from there
 *
 * One before them may be optimised, now or later, and then displaces up to
 * DJP_DCR_MAX bytes from its address on.
 *
 * Return: its address, or 0.
 */
unsigned long djp_kprobe_near(unsigned long addr, unsigned int len)
{
	return djp_kprobe_in(addr - DJP_DCR_MAX + 1, addr + len);
}

/* Others are here already, or their bytes are in the way of a jump. */
static void djp_check_neighbours(struct djp_dcr *dcr, struct djp_verdict *v)
{
	unsigned long addr = dcr->addr;
	struct djp_site *site;
	unsigned long kprobe;

	kprobe = djp_kprobe_near(addr, 1);
	if (kprobe) {
		djp_keep_first(dcr);
		djp_say(v, DJPROBE_KPROBE, DJP_KPROBE, kprobe);
		return;
	}
	site = djp_site_overlap(addr, dcr->len);
	if (site && site->dcr.addr < addr) {
		djp_say(v, DJPROBE_ANY, DJP_OVERLAP, site->dcr.addr);
		return;
	}
	kprobe = djp_kprobe_in(addr + 1, addr + dcr->len);
	if (!site && !kprobe)
		return;
	djp_keep_first(dcr);
	if (v->method == DJPROBE_JUMP || v->method == DJPROBE_JUMP_INT3)
		djp_say(v, DJPROBE_INT3, site ? DJP_OVERLAP : DJP_KPROBE,
			site ? site->dcr.addr : kprobe);
}

/* The user asks for one method and no other. */
static void djp_want(struct djp_dcr *dcr, struct djp_verdict *v,
		     enum djprobe_method want)
{
	enum djp_reason why = v->why == DJP_OK ? DJP_OTHER_METHOD : v->why;

	if (want == DJPROBE_ANY || v->method == DJPROBE_ANY ||
	    v->method == want)
		return;
	if (want == DJPROBE_KPROBE ||
	    (want == DJPROBE_INT3 && v->method != DJPROBE_KPROBE)) {
		djp_keep_first(dcr);
		djp_say(v, want, why, v->offending);
		return;
	}
	djp_say(v, DJPROBE_ANY, why, v->offending);
}

/**
 * djp_behind_ftrace() - move an address behind the ftrace site that it is at
 * @addr: an address
 * @ftrace: the site's address, 0 if there is none
 *
 * A function's entry, with or without endbr64, and the site itself count as "at".
 *
 * Return: the address to probe instead, or @addr.
 */
unsigned long djp_behind_ftrace(unsigned long addr, unsigned long *ftrace)
{
	struct djp_function fn;

	/* Knows a function's entry, and any byte of the site itself. */
	if (!djp_function_find(addr, &fn))
		*ftrace = djp_k.ftrace_location(addr);
	else
		*ftrace = addr == fn.start || addr == fn.ftrace ? fn.ftrace : 0;
	if (*ftrace && addr <= *ftrace)
		return *ftrace + MCOUNT_INSN_SIZE;
	*ftrace = 0;
	return addr;
}

/**
 * djp_check_site() - what can stand at an address, now
 * @addr: the address
 * @mod: the module that it is in, which may not go meanwhile, or NULL
 * @want: the method that was asked for, or DJPROBE_ANY
 * @dcr: what is displaced, as far as was found out
 * @v: the verdict
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_check_site(unsigned long addr, const struct module *mod,
		    enum djprobe_method want, struct djp_dcr *dcr,
		    struct djp_verdict *v)
{
	struct djp_place place;

	djp_place_find(&place, addr, mod);
	if (djp_judge(&place, addr, dcr, v) == DJPROBE_ANY)
		return;
	djp_check_neighbours(dcr, v);
	djp_want(dcr, v, want);
}

/**
 * djp_verdict_demote() - nothing but an int3, after all
 * @dcr: what is displaced
 * @v: the verdict that could not be kept
 */
void djp_verdict_demote(struct djp_dcr *dcr, struct djp_verdict *v)
{
	djp_keep_first(dcr);
	v->method = DJPROBE_INT3;
}
