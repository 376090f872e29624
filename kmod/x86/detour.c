// SPDX-License-Identifier: GPL-2.0
/*
 * Detours: generated per site, for what its probes need.
 *
 *	[pointer to the detour]		if something is called with a struct pt_regs
 *	... pushfq ...; call		for handlers, and options that need C; x86/entry.S
 *	pushfq				or so, if somebody reads the flags
 *	incq %gs:COUNTER		for each other probe, see x86/inline.c
 *	popfq				if they were pushed
 *	the displaced instructions	relocated, see enum djp_relocation
 *	jmp behind the DCR		unless they end in a jump, return or call
 */
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/segment.h>

#include "x86/emit.h"
#include "x86/entry.h"
#include "x86/flags.h"
#include "x86/x86.h"

#define DJP_PUSH_IMM32	0x68
/* lea 16(%rsp),%rsp: add would change the flags. */
#define DJP_DROP2	"\x48\x8d\x64\x24\x10"
#define DJP_DROP5	"\x48\x8d\x64\x24\x28"
#define DJP_DROP_LEN	5

/*
 * The longest that a region becomes: five instructions, each 10 bytes (a call) or
 * unchanged, and the way back.
 */
#define DJP_REGION_MAX	(DJP_DCR_MAX + DJP_JMP32_LEN * 10 + DJP_JMP32_LEN)

/* With its own pointer and the call of the handlers. */
#define DJP_DETOUR_MAX(nr_actions) \
	(DJP_RET_TO_HEADER_ONE + 2 * DJP_DROP_LEN + 1 + \
	 (nr_actions) * DJP_INLINE_MAX + DJP_REGION_MAX)

/* Copy an instruction, moving its RIP-relative operand. */
static bool djp_emit_copy(struct djp_code *code, const struct djp_dcr *dcr,
			  const struct djp_insn *insn)
{
	unsigned long from = dcr->addr + insn->off;
	long delta = from - (code->base + code->len);
	u8 *copy = code->buf + code->len;
	s32 disp;
	long moved;

	djp_emit(code, dcr->text + insn->off, insn->len);
	if (!insn->disp)
		return true;
	memcpy(&disp, copy + insn->disp, sizeof(disp));
	moved = disp + delta;
	disp = moved;
	memcpy(copy + insn->disp, &disp, sizeof(disp));
	return moved == disp;
}

/*
 * A call returns to behind the original one: the address on the stack is that
 * which an unwinder, or the callee, expects. If that is among the bytes of the
 * jump, an int3 there sends it on to the detour.
 */
static bool djp_emit_push_return(struct djp_code *code,
				 const struct djp_dcr *dcr,
				 const struct djp_insn *insn)
{
	unsigned long ret = dcr->addr + insn->off + insn->len;
	s32 imm = ret;

	djp_emit1(code, DJP_PUSH_IMM32);
	djp_emit(code, &imm, sizeof(imm));
	return (long)ret == imm;
}

/* "call *" to "jmp *": the opcode extension in ModRM goes from 2 to 4. */
static bool djp_emit_call_indirect(struct djp_code *code,
				   const struct djp_dcr *dcr,
				   const struct djp_insn *insn)
{
	bool ok = djp_emit_push_return(code, dcr, insn);
	size_t start = code->len;

	ok &= djp_emit_copy(code, dcr, insn);
	code->buf[start + insn->op + 1] ^= (2 ^ 4) << 3;
	return ok;
}

/*
 * Where a displaced branch goes: if to another displaced instruction, then to that
 * in the detour. A branch to the insertion address is an arrival like any other.
 */
static unsigned long djp_branch_to(const struct djp_dcr *dcr,
				   const struct djp_detour *detour,
				   const struct djp_insn *insn)
{
	unsigned long to = djp_branch_target(dcr->addr + insn->off,
					     dcr->text + insn->off, insn);
	unsigned int i;

	for (i = 1; i < dcr->nr_insns; i++) {
		if (to == dcr->addr + dcr->insns[i].off)
			return detour->text + detour->insns[i];
	}
	return to;
}

static bool djp_emit_displaced(struct djp_code *code, const struct djp_dcr *dcr,
			       const struct djp_detour *detour,
			       const struct djp_insn *insn)
{
	u8 opcode = dcr->text[insn->off + insn->op];
	unsigned long to;

	switch (insn->relocation) {
	case DJP_JCC:
		/* rel8: 7x; rel32: 0f 8x */
		to = djp_branch_to(dcr, detour, insn);
		if (opcode == 0x0f)
			opcode = dcr->text[insn->off + insn->op + 1];
		djp_emit1(code, 0x0f);
		return djp_emit_rel32(code, 0x80 | (opcode & 0x0f), to);
	case DJP_JMP:
		to = djp_branch_to(dcr, detour, insn);
		return djp_emit_rel32(code, DJP_JMP32, to);
	case DJP_LOOP:
		/* Taken: over the short jump, to the near one. */
		to = djp_branch_to(dcr, detour, insn);
		djp_emit(code, dcr->text + insn->off, insn->op);
		djp_emit1(code, opcode);
		djp_emit(code, "\x02\xeb\x05", 3);
		return djp_emit_rel32(code, DJP_JMP32, to);
	case DJP_CALL:
		to = djp_branch_target(dcr->addr + insn->off,
				       dcr->text + insn->off, insn);
		return djp_emit_push_return(code, dcr, insn) &
			djp_emit_rel32(code, DJP_JMP32, to);
	case DJP_CALL_INDIRECT:
		return djp_emit_call_indirect(code, dcr, insn);
	default:
		return djp_emit_copy(code, dcr, insn);
	}
}

/* The displaced instructions, and the way back if control gets there. */
static bool djp_emit_region(struct djp_code *code, const struct djp_dcr *dcr,
			    struct djp_detour *detour)
{
	const struct djp_insn *last = &dcr->insns[dcr->nr_insns - 1];
	bool ok = true;
	unsigned int i;

	for (i = 0; i < dcr->nr_insns; i++) {
		detour->insns[i] = code->base + code->len - detour->text;
		detour->offs[i] = dcr->insns[i].off;
		ok &= djp_emit_displaced(code, dcr, detour, &dcr->insns[i]);
	}
	detour->nr_insns = dcr->nr_insns;
	if (djp_ends_region(last) || last->relocation == DJP_CALL ||
	    last->relocation == DJP_CALL_INDIRECT)
		return ok;
	detour->insns[i] = code->base + code->len - detour->text;
	detour->offs[i] = dcr->len;
	detour->nr_insns++;
	return ok & djp_emit_rel32(code, DJP_JMP32, dcr->addr + dcr->len);
}

/* Is it done by djp_run_actions(), and not in the detour? */
static bool djp_is_called(const struct djp_action *action)
{
	return action->handler_of ||
		(action->counter->extra && action->counter->extra->in_c);
}

/* Does it run C code? */
static bool djp_runs_c(const struct djp_action *action)
{
	const struct djp_extra *extra = action->counter->extra;

	return djp_is_called(action) || (extra && extra->map);
}

/* Does the detour change flags that somebody reads? */
static bool djp_must_keep_flags(const struct djp_detour *detour,
				const struct djp_dcr *dcr)
{
	unsigned int i;

	for (i = 0; i < detour->nr_actions; i++) {
		const struct djp_action *action = &detour->actions[i];

		/* C code changes all of them; and before it AC and DF are cleared. */
		if (djp_runs_c(action) ? dcr->live || !dcr->calm :
		    djp_inline_writes(action->counter) & dcr->live)
			return true;
	}
	return false;
}

/* Is a handler all that there is to do? */
static bool djp_is_one(const struct djp_detour *detour)
{
	return detour->nr_actions == 1 && detour->actions[0].handler_of &&
		djp_counter_near(detour->actions[0].counter);
}

static enum djp_entry djp_entry_of(const struct djp_detour *detour,
				   const struct djp_dcr *dcr)
{
	if (!djp_is_one(detour))
		return DJP_ENTRY_ACTIONS;
	if (detour->actions[0].handler_of->flags & DJPROBE_FLAG_READ_ONLY)
		return dcr->calm ? DJP_ENTRY_READER_CALM : DJP_ENTRY_READER;
	return dcr->calm ? DJP_ENTRY_HANDLER_CALM : DJP_ENTRY_HANDLER;
}

/* See x86/entry.S. */
static bool djp_emit_call(struct djp_code *code, const struct djp_detour *detour,
			  const struct djp_dcr *dcr)
{
	/* push %rsp; push (%rsp); pushfq */
	djp_emit(code, "\x54\xff\x34\x24\x9c", 5);
	if (djp_is_one(detour))
		djp_inline(code, detour->actions[0].counter, dcr->calm);
	djp_emit1(code, 0x6a);		/* push */
	djp_emit1(code, __KERNEL_CS);
	djp_emit1(code, DJP_PUSH_IMM32);
	djp_emit32(code, detour->addr);
	return djp_emit_rel32(code, DJP_CALL32,
			      djp_entry_address(djp_entry_of(detour, dcr)));
}

static bool djp_emit_all(struct djp_code *code, struct djp_detour *detour,
			 const struct djp_dcr *dcr, bool calls)
{
	bool keep = djp_must_keep_flags(detour, dcr);
	bool ok = true;
	unsigned int i;

	if (calls)
		djp_emit(code, &detour, sizeof(detour));
	detour->text = code->base + code->len;
	if (calls) {
		ok &= djp_emit_call(code, detour, dcr);
		/* ip, cs; or flags, sp and ss too */
		djp_emit(code, keep ? DJP_DROP2 : DJP_DROP5, DJP_DROP_LEN);
	} else if (keep) {
		djp_emit1(code, DJP_PUSHFQ);
	}
	for (i = 0; i < detour->nr_actions; i++) {
		if (!djp_is_called(&detour->actions[i]))
			ok &= djp_inline(code, detour->actions[i].counter,
					 dcr->calm);
	}
	if (keep)
		djp_emit1(code, DJP_POPFQ);
	if (calls && keep)
		djp_emit(code, DJP_DROP2, DJP_DROP_LEN);	/* sp, ss */
	ok &= djp_emit_region(code, dcr, detour);
	detour->len = code->base + code->len - detour->text;
	return ok;
}

static unsigned int djp_active(const struct djp_site *site)
{
	const struct djprobe *p;
	unsigned int nr = 0;

	list_for_each_entry(p, &site->probes, site_node)
		nr += djp_in_detour(p);
	return nr;
}

/* Most have one action: a cache of that size, and room to make their code in. */
static struct kmem_cache *djp_detour_cache;
static u8 djp_scratch[DJP_DETOUR_MAX(1)];

static struct djp_detour *djp_detour_alloc(unsigned int nr)
{
	struct djp_detour *detour;

	if (nr > 1)
		return nr > U16_MAX ? NULL :
			kzalloc(struct_size(detour, actions, nr), GFP_KERNEL);
	if (!djp_detour_cache)
		djp_detour_cache = kmem_cache_create("djp_detour",
						     struct_size(detour, actions, 1),
						     0, 0, NULL);
	return djp_detour_cache ?
		kmem_cache_zalloc(djp_detour_cache, GFP_KERNEL) : NULL;
}

static struct djp_detour *djp_detour_describe(const struct djp_site *site,
					      unsigned int nr)
{
	struct djp_detour *detour = djp_detour_alloc(nr);
	struct djprobe *p;

	if (!detour)
		return NULL;
	detour->addr = site->dcr.addr;
	detour->dcr_len = site->dcr.len;
	detour->nr_actions = nr;
	nr = 0;
	list_for_each_entry(p, &site->probes, site_node) {
		if (!djp_in_detour(p))
			continue;
		djp_counter_get(p->counter);
		detour->actions[nr].counter = p->counter;
		detour->actions[nr].handler_of = p->handler ? p : NULL;
		nr++;
	}
	return detour;
}

/**
 * djp_detour_build() - make the detour for a site's enabled probes
 * @site: the site
 * @refusal: why not
 *
 * Context: djp_mutex held, may sleep.
 * Return: the detour, to be written with djp_detour_put() before anything goes
 * there, and to be freed with djp_detour_free() once nothing can reach it; NULL if
 * no probe is enabled, with DJP_OK in @refusal; or NULL with another reason.
 */
struct djp_detour *djp_detour_build(const struct djp_site *site,
				    struct djp_refusal *refusal)
{
	struct djp_detour *detour;
	struct djp_code code = { };
	unsigned int nr = djp_active(site), i;
	bool calls = false, runs_c = false;
	unsigned long text;
	size_t header;

	djp_refuse(refusal, DJP_OK, 0);
	if (!nr)
		return NULL;
	djp_refuse(refusal, DJP_NO_MEMORY, site->dcr.addr);
	detour = djp_detour_describe(site, nr);
	if (!detour)
		return NULL;

	if (site->verdict.method == DJPROBE_KPROBE) {
		djp_refuse(refusal, DJP_OK, 0);
		return detour;
	}
	for (i = 0; i < nr; i++) {
		calls |= djp_is_called(&detour->actions[i]);
		runs_c |= djp_runs_c(&detour->actions[i]);
	}
	code.buf = nr == 1 ? djp_scratch :
		kmalloc(DJP_DETOUR_MAX(nr), GFP_KERNEL);
	if (!code.buf)
		goto fail;
	/* Once for its length, which does not depend on where it is. */
	djp_emit_all(&code, detour, &site->dcr, calls);
	header = code.len - detour->len;
	if (code.len > U16_MAX / 2)	/* half a chunk; sizes have to fit */
		goto fail;
	text = djp_slot_alloc(&detour->slot, &site->dcr, header, detour->len,
			      runs_c);
	if (!text)
		goto fail;
	/* And once for the branches between displaced instructions, in place. */
	code.len = 0;
	code.base = text - header;
	if (!djp_emit_all(&code, detour, &site->dcr, calls)) {
		djp_refuse(refusal, DJP_OUT_OF_RANGE, site->dcr.addr);
		goto fail;
	}
	detour->code = kmemdup(code.buf, code.len, GFP_KERNEL);
	if (!detour->code)
		goto fail;
	detour->size = code.len;
	djp_refuse(refusal, DJP_OK, 0);
	goto out;
fail:
	djp_detour_free(detour);
	detour = NULL;
out:
	if (nr > 1)
		kfree(code.buf);
	return detour;
}

/**
 * djp_detour_bytes() - the first byte of a detour's code
 * @detour: the detour
 *
 * Return: @detour->len bytes, in its slot if it was put there.
 */
const u8 *djp_detour_bytes(const struct djp_detour *detour)
{
	return detour->code ? detour->code + detour->size - detour->len :
		(const u8 *)detour->text;
}

/**
 * djp_detour_put() - write a detour to where it is to run
 * @detour: the detour; nothing reaches it yet
 *
 * It is there once djp_text_flush() was called.
 *
 * Context: text_mutex held, may sleep.
 */
void djp_detour_put(struct djp_detour *detour)
{
	if (!detour->code)
		return;
	djp_text_put(detour->text + detour->len - detour->size, detour->code,
		     detour->size);
	kfree(detour->code);
	detour->code = NULL;
}

/**
 * djp_detour_scrub() - fill a detour's slot with int3
 * @detour: nothing stands in it and nothing can reach it
 *
 * So that whatever reaches it all the same is told at once. The int3s are there once
 * djp_text_flush() was called.
 *
 * Context: text_mutex held, may sleep.
 */
void djp_detour_scrub(const struct djp_detour *detour)
{
	static const u8 traps[256] = { [0 ... 255] = DJP_INT3 };
	size_t done, n;

	for (done = 0; done < detour->slot.size; done += n) {
		n = min(sizeof(traps), detour->slot.size - done);
		djp_text_put(detour->slot.addr + done, traps, n);
	}
}

/**
 * djp_detour_silence() - let a detour call no handler any more
 * @detour: the detour, or NULL
 *
 * Handlers may be running until synchronize_rcu() has returned.
 *
 * Context: djp_mutex held.
 */
void djp_detour_silence(struct djp_detour *detour)
{
	unsigned int i;

	for (i = 0; detour && i < detour->nr_actions; i++)
		djp_silence(&detour->actions[i]);
}

/**
 * djp_detour_free() - free a detour
 * @detour: it was never written, or is scrubbed; or NULL
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_detour_free(struct djp_detour *detour)
{
	unsigned int i;

	if (!detour)
		return;
	for (i = 0; i < detour->nr_actions; i++)
		djp_counter_put(detour->actions[i].counter);
	if (detour->slot.addr)
		djp_slot_free(&detour->slot);
	kfree(detour->code);
	if (detour->nr_actions > 1)
		kfree(detour);
	else
		kmem_cache_free(djp_detour_cache, detour);
}

/**
 * djp_detours_exit() - free what detours were made of
 *
 * Context: module unload; no detour is left.
 */
void djp_detours_exit(void)
{
	kmem_cache_destroy(djp_detour_cache);
}
