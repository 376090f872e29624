// SPDX-License-Identifier: GPL-2.0
/*
 * Detours: generated per site, for what its probes need.
 *
 *	[pointer to the detour]		if there are handlers
 *	pushfq
 *	cld; clac; call djp_handler_entry	if there are handlers
 *	incq %gs:COUNTER		for each probe that only counts
 *	popfq
 *	the displaced instructions	relocated, see enum djp_relocation
 *	jmp behind the DCR		unless they end in a jump, return or call
 */
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/cpufeature.h>

#include "x86/x86.h"

#define DJP_PUSHFQ	0x9c
#define DJP_POPFQ	0x9d
#define DJP_CALL32	0xe8
#define DJP_CLD		0xfc
#define DJP_PUSH_IMM32	0x68
#define DJP_CLAC_LEN	3

/*
 * The longest that a region becomes: five instructions, each 10 bytes (a call) or
 * unchanged, and the way back.
 */
#define DJP_REGION_MAX	(DJP_DCR_MAX + DJP_JMP32_LEN * 10 + DJP_JMP32_LEN)

/* The longest increment, see djp_emit_count(). */
#define DJP_COUNT_MAX	16

/* With its own pointer and the call of the handlers. */
#define DJP_DETOUR_MAX(nr_actions) \
	(sizeof(void *) + 3 + DJP_CLAC_LEN + DJP_JMP32_LEN + \
	 (nr_actions) * DJP_COUNT_MAX + DJP_REGION_MAX)

/**
 * struct djp_code - code that is being generated
 * @buf: the bytes
 * @len: how many there are
 * @base: where they will run
 */
struct djp_code {
	u8		*buf;
	size_t		len;
	unsigned long	base;
};

static void djp_emit(struct djp_code *code, const void *bytes, size_t len)
{
	memcpy(code->buf + code->len, bytes, len);
	code->len += len;
}

static void djp_emit1(struct djp_code *code, u8 byte)
{
	djp_emit(code, &byte, 1);
}

/* A jump or call; false if the target is out of reach. */
static bool djp_emit_rel32(struct djp_code *code, u8 opcode,
			   unsigned long target)
{
	long rel = target - (code->base + code->len + DJP_JMP32_LEN);
	s32 rel32 = rel;

	djp_emit1(code, opcode);
	djp_emit(code, &rel32, sizeof(rel32));
	return rel == rel32;
}

static void djp_emit_count(struct djp_code *code,
			   const struct djp_counter *counter)
{
	unsigned long slot = (__force unsigned long)counter->slot;
	s32 disp = slot;

	if ((long)slot == disp) {
		/* incq %gs:disp32 */
		djp_emit(code, "\x65\x48\xff\x04\x25", 5);
		djp_emit(code, &disp, sizeof(disp));
		return;
	}
	/* push %rax; movabs $slot,%rax; incq %gs:(%rax); pop %rax */
	djp_emit(code, "\x50\x48\xb8", 3);
	djp_emit(code, &slot, sizeof(slot));
	djp_emit(code, "\x65\x48\xff\x00\x58", 5);
}

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

/*
 * Between stac and clac the kernel calls nothing, and a switch of tasks does not save
 * AC (__switch_to_asm, arch/x86/entry/entry_64.S, v6.1). A handler may do anything, as
 * in an exception: those close access to user memory too.
 */
static void djp_emit_clac(struct djp_code *code)
{
	static const u8 clac[DJP_CLAC_LEN] = { 0x0f, 0x01, 0xca };
	static const u8 nop[DJP_CLAC_LEN] = { 0x0f, 0x1f, 0x00 };

	djp_emit(code, boot_cpu_has(X86_FEATURE_SMAP) ? clac : nop,
		 DJP_CLAC_LEN);
}

static bool djp_emit_all(struct djp_code *code, struct djp_detour *detour,
			 const struct djp_dcr *dcr, bool handlers)
{
	bool ok = true;
	unsigned int i;

	if (handlers)
		djp_emit(code, &detour, sizeof(detour));
	detour->text = code->base + code->len;
	djp_emit1(code, DJP_PUSHFQ);
	if (handlers) {
		/* C code wants the direction flag clear; memmove() sets it. */
		djp_emit1(code, DJP_CLD);
		djp_emit_clac(code);
		ok &= djp_emit_rel32(code, DJP_CALL32,
				     djp_handler_address());
	}
	for (i = 0; i < detour->nr_actions; i++) {
		if (!detour->actions[i].handler_of)
			djp_emit_count(code, detour->actions[i].counter);
	}
	djp_emit1(code, DJP_POPFQ);
	ok &= djp_emit_region(code, dcr, detour);
	detour->len = code->base + code->len - detour->text;
	return ok;
}

static unsigned int djp_active(const struct djp_site *site, bool *handlers)
{
	const struct djprobe *p;
	unsigned int nr = 0;

	*handlers = false;
	list_for_each_entry(p, &site->probes, site_node) {
		if (p->flags & (DJPROBE_FLAG_DISABLED | DJP_PROBE_LEAVING))
			continue;
		if (p->handler)
			*handlers = true;
		nr++;
	}
	return nr;
}

/* Most have one action: a cache of that size. */
static struct kmem_cache *djp_detour_cache;

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
		if (p->flags & (DJPROBE_FLAG_DISABLED | DJP_PROBE_LEAVING))
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
	unsigned long text;
	size_t header;
	bool handlers;
	unsigned int nr = djp_active(site, &handlers);

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
	code.buf = kmalloc(DJP_DETOUR_MAX(nr), GFP_KERNEL);
	if (!code.buf)
		goto fail;
	detour->code = code.buf;
	/* Once for its length, which does not depend on where it is. */
	djp_emit_all(&code, detour, &site->dcr, handlers);
	header = code.len - detour->len;
	if (code.len > U16_MAX / 2)	/* half a chunk; sizes have to fit */
		goto fail;
	text = djp_slot_alloc(&detour->slot, &site->dcr, header, detour->len,
			      handlers);
	if (!text)
		goto fail;
	/* And once for the branches between displaced instructions, in place. */
	code.len = 0;
	code.base = text - header;
	if (!djp_emit_all(&code, detour, &site->dcr, handlers)) {
		djp_refuse(refusal, DJP_OUT_OF_RANGE, site->dcr.addr);
		goto fail;
	}
	detour->size = code.len;
	djp_refuse(refusal, DJP_OK, 0);
	return detour;
fail:
	djp_detour_free(detour);
	return NULL;
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
		WRITE_ONCE(detour->actions[i].handler_of, NULL);
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
