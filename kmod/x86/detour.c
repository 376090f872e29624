// SPDX-License-Identifier: GPL-2.0
/*
 * Detours: generated per site, for what its probes need.
 *
 *	[pointer to the detour]		if there are handlers
 *	pushfq
 *	cld; call djp_handler_entry	if there are handlers
 *	incq %gs:COUNTER		for each probe that only counts
 *	popfq
 *	the displaced instructions	relocated, see enum djp_relocation
 *	jmp behind the DCR		unless they end in a jump, return or call
 *
 * The memory is never writable and executable at once: text_poke_copy() writes
 * it through an alias that only the writing CPU has, and only while it writes.
 * What is not in use is filled with int3.
 */
#include <linux/genalloc.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "x86/x86.h"

#define DJP_CHUNK_SIZE	(16 * PAGE_SIZE)
#define DJP_SLOT_ORDER	4	/* 16 bytes */

#define DJP_PUSHFQ	0x9c
#define DJP_POPFQ	0x9d
#define DJP_CALL32	0xe8
#define DJP_CLD		0xfc
#define DJP_PUSH_IMM32	0x68

/*
 * The longest that a region becomes: five instructions, each up to 9 bytes (loop)
 * or unchanged, a call (10) or the way back (5).
 */
#define DJP_REGION_MAX	(DJP_DCR_MAX + DJP_JMP32_LEN * 9 + 10)

/* The longest increment, see djp_emit_count(). */
#define DJP_COUNT_MAX	16

/* With its own pointer and the call of the handlers. */
#define DJP_DETOUR_MAX(nr_actions) \
	(sizeof(void *) + 3 + DJP_JMP32_LEN + \
	 (nr_actions) * DJP_COUNT_MAX + DJP_REGION_MAX)

/**
 * struct djp_chunk - executable memory for many detours
 * @node: on djp_chunks
 * @mem: DJP_CHUNK_SIZE bytes
 */
struct djp_chunk {
	struct list_head	node;
	void			*mem;
};

/* djp_mutex guards both. */
static struct gen_pool *djp_pool;
static LIST_HEAD(djp_chunks);

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
 * A call is the last instruction, and returns to behind the original one: the
 * address on the stack is that which an unwinder, or the callee, expects.
 */
static bool djp_emit_push_return(struct djp_code *code,
				 const struct djp_dcr *dcr)
{
	unsigned long ret = dcr->addr + dcr->len;
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
	bool ok = djp_emit_push_return(code, dcr);
	size_t start = code->len;

	ok &= djp_emit_copy(code, dcr, insn);
	code->buf[start + insn->op + 1] ^= (2 ^ 4) << 3;
	return ok;
}

static bool djp_emit_displaced(struct djp_code *code, const struct djp_dcr *dcr,
			       const struct djp_insn *insn)
{
	u8 opcode = dcr->text[insn->off + insn->op];

	switch (insn->relocation) {
	case DJP_JCC:
		/* rel8: 7x; rel32: 0f 8x */
		if (opcode == 0x0f)
			opcode = dcr->text[insn->off + insn->op + 1];
		djp_emit1(code, 0x0f);
		return djp_emit_rel32(code, 0x80 | (opcode & 0x0f),
				      insn->target);
	case DJP_JMP:
		return djp_emit_rel32(code, DJP_JMP32, insn->target);
	case DJP_LOOP:
		/* Taken: over the short jump, to the near one. */
		djp_emit(code, dcr->text + insn->off, insn->op);
		djp_emit1(code, opcode);
		djp_emit(code, "\x02\xeb\x05", 3);
		return djp_emit_rel32(code, DJP_JMP32, insn->target);
	case DJP_CALL:
		return djp_emit_push_return(code, dcr) &
			djp_emit_rel32(code, DJP_JMP32, insn->target);
	case DJP_CALL_INDIRECT:
		return djp_emit_call_indirect(code, dcr, insn);
	default:
		return djp_emit_copy(code, dcr, insn);
	}
}

/* The displaced instructions, and the way back if control gets there. */
static bool djp_emit_region(struct djp_code *code, const struct djp_dcr *dcr)
{
	const struct djp_insn *last = &dcr->insns[dcr->nr_insns - 1];
	bool ok = true;
	unsigned int i;

	for (i = 0; i < dcr->nr_insns; i++)
		ok &= djp_emit_displaced(code, dcr, &dcr->insns[i]);
	if (djp_ends_region(last) || last->relocation == DJP_CALL ||
	    last->relocation == DJP_CALL_INDIRECT)
		return ok;
	return ok & djp_emit_rel32(code, DJP_JMP32, dcr->addr + dcr->len);
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
		unsigned long entry = (unsigned long)djp_handler_entry;

		/* Or objtool sees an address that is folded with others. */
		OPTIMIZER_HIDE_VAR(entry);
		/* C code wants the direction flag clear; memmove() sets it. */
		djp_emit1(code, DJP_CLD);
		ok &= djp_emit_rel32(code, DJP_CALL32, entry);
	}
	for (i = 0; i < detour->nr_actions; i++) {
		if (!detour->actions[i].handler_of)
			djp_emit_count(code, detour->actions[i].counter);
	}
	djp_emit1(code, DJP_POPFQ);
	ok &= djp_emit_region(code, dcr);
	detour->len = code->base + code->len - detour->text;
	return ok;
}

static int djp_chunk_add(void)
{
	struct djp_chunk *chunk;

	chunk = kmalloc(sizeof(*chunk), GFP_KERNEL);
	if (!chunk)
		return -ENOMEM;
	chunk->mem = djp_exec_alloc(DJP_CHUNK_SIZE);
	if (!chunk->mem)
		goto fail;
	if (gen_pool_add(djp_pool, (unsigned long)chunk->mem, DJP_CHUNK_SIZE,
			 NUMA_NO_NODE))
		goto fail;
	list_add(&chunk->node, &djp_chunks);
	return 0;
fail:
	if (chunk->mem)
		djp_exec_free(chunk->mem, DJP_CHUNK_SIZE);
	kfree(chunk);
	return -ENOMEM;
}

static unsigned long djp_slot_alloc(size_t size)
{
	unsigned long addr;

	if (!djp_pool)
		djp_pool = gen_pool_create(DJP_SLOT_ORDER, NUMA_NO_NODE);
	if (!djp_pool)
		return 0;
	addr = gen_pool_alloc(djp_pool, size);
	if (!addr && !djp_chunk_add())
		addr = gen_pool_alloc(djp_pool, size);
	if (addr)
		djp_stats.detour_bytes_live += size;
	return addr;
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

static struct djp_detour *djp_detour_describe(const struct djp_site *site,
					      unsigned int nr)
{
	struct djp_detour *detour;
	struct djprobe *p;

	detour = kzalloc(struct_size(detour, actions, nr), GFP_KERNEL);
	if (!detour)
		return NULL;
	INIT_LIST_HEAD(&detour->retired_node);
	detour->addr = site->dcr.addr;
	detour->back = site->dcr.addr + site->dcr.len;
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
 * Context: djp_mutex held, may sleep, takes text_mutex.
 * Return: the detour, ready to run, to be freed with djp_detour_free() once
 * nothing can reach it; NULL if no probe is enabled, with DJP_OK in @refusal; or
 * NULL with another reason.
 */
struct djp_detour *djp_detour_build(const struct djp_site *site,
				    struct djp_refusal *refusal)
{
	struct djp_detour *detour;
	struct djp_code code = { };
	bool handlers;
	unsigned int nr = djp_active(site, &handlers);

	djp_refuse(refusal, DJP_OK, 0);
	if (!nr)
		return NULL;
	djp_refuse(refusal, DJP_NO_MEMORY, site->dcr.addr);
	detour = djp_detour_describe(site, nr);
	if (!detour)
		return NULL;

	code.buf = kmalloc(DJP_DETOUR_MAX(nr), GFP_KERNEL);
	if (!code.buf)
		goto fail;
	/* Once for its length, which does not depend on where it is. */
	djp_emit_all(&code, detour, &site->dcr, handlers);
	detour->alloc_len = code.len;
	detour->alloc = djp_slot_alloc(detour->alloc_len);
	if (!detour->alloc)
		goto fail;
	code.len = 0;
	code.base = detour->alloc;
	if (!djp_emit_all(&code, detour, &site->dcr, handlers)) {
		djp_refuse(refusal, DJP_OUT_OF_RANGE, site->dcr.addr);
		goto fail;
	}
	djp_k.text_poke_copy((void *)detour->alloc, code.buf, code.len);
	kfree(code.buf);
	djp_refuse(refusal, DJP_OK, 0);
	return detour;
fail:
	kfree(code.buf);
	djp_detour_free(detour);
	return NULL;
}

/**
 * djp_detour_free() - free a detour
 * @detour: nothing stands in it and nothing can reach it; or NULL
 *
 * Its memory is filled with int3, so that whatever reaches it all the same is
 * told apart at once.
 *
 * Context: djp_mutex held, may sleep, takes text_mutex.
 */
void djp_detour_free(struct djp_detour *detour)
{
	u8 traps[64];
	unsigned int i;
	size_t done, n;

	if (!detour)
		return;
	for (i = 0; i < detour->nr_actions; i++)
		djp_counter_put(detour->actions[i].counter);
	if (detour->alloc) {
		memset(traps, DJP_INT3, sizeof(traps));
		for (done = 0; done < detour->alloc_len; done += n) {
			n = min(sizeof(traps), detour->alloc_len - done);
			djp_k.text_poke_copy((void *)(detour->alloc + done),
					     traps, n);
		}
		gen_pool_free(djp_pool, detour->alloc, detour->alloc_len);
		djp_stats.detour_bytes_live -= detour->alloc_len;
	}
	kfree(detour);
}

/**
 * djp_detours_exit() - free the executable memory
 *
 * Context: module unload; no detour is left.
 */
void djp_detours_exit(void)
{
	struct djp_chunk *chunk, *tmp;

	if (djp_pool)
		gen_pool_destroy(djp_pool);
	list_for_each_entry_safe(chunk, tmp, &djp_chunks, node) {
		djp_exec_free(chunk->mem, DJP_CHUNK_SIZE);
		kfree(chunk);
	}
}
