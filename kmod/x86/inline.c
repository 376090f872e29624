// SPDX-License-Identifier: GPL-2.0
/*
 * Counting, in instructions: what a detour does for a probe by itself. Only hits by task
 * take a function, and that no struct pt_regs.
 *
 *	cmpl $0,%gs:SOFT; je end			soft
 *	cmp VALUE,REGISTER; jcc end			if
 *	addl STEP,%gs:SAMPLE; jnc end			sample=, if a power of two
 *	addq STEP,%gs:SAMPLE; jnc end			sample=, if not
 *	lock btsl $0,FIRED; jc end			once
 *	incq %gs:COUNT
 *	bsr REGISTER,%rax; incq %gs:HIST(,%rax,8)	hist=
 *	mov MAP,%rdi; call djp_map_entry		by=pid, by=comm
 *   end:
 *
 * Each slot is changed by one instruction, so that whatever nests - an interrupt or NMI
 * that hits the same probe - is counted exactly. actions/run.c does the same in C.
 */
#include <linux/kernel.h>

#include "actions/actions.h"
#include "core/internal.h"
#include "x86/emit.h"
#include "x86/flags.h"
#include "x86/x86.h"

#define DJP_REG_AX	0
#define DJP_REG_CX	1

/* Condition codes, the low 4 bits of jcc; an odd one is the opposite of that before. */
#define DJP_CC_B	0x2
#define DJP_CC_E	0x4
#define DJP_CC_BE	0x6
#define DJP_CC_L	0xc
#define DJP_CC_LE	0xe

/**
 * struct djp_ends - jumps to the end that is not there yet
 * @at: behind their opcode
 * @nr: how many
 */
struct djp_ends {
	size_t		at[4];
	unsigned int	nr;
};

static void djp_emit_skip(struct djp_code *code, struct djp_ends *ends, u8 cc)
{
	djp_emit1(code, 0x70 | cc);
	ends->at[ends->nr++] = code->len;
	djp_emit1(code, 0);
}

static void djp_emit_ends(struct djp_code *code, const struct djp_ends *ends)
{
	unsigned int i;

	for (i = 0; i < ends->nr; i++)
		code->buf[ends->at[i]] = code->len - ends->at[i] - 1;
}

static s32 djp_slot_disp(const struct djp_counter *counter, unsigned int slot)
{
	return (__force unsigned long)(counter->slot + slot);
}

/* incq %gs:disp32 */
static void djp_emit_inc(struct djp_code *code, s32 disp)
{
	djp_emit(code, "\x65\x48\xff\x04\x25", 5);
	djp_emit32(code, disp);
}

/* push %rax; movabs $slot,%rax; incq %gs:(%rax); pop %rax */
static void djp_emit_inc_far(struct djp_code *code,
			     const struct djp_counter *counter)
{
	djp_emit(code, "\x50\x48\xb8", 3);
	djp_emit64(code, (__force unsigned long)counter->slot);
	djp_emit(code, "\x65\x48\xff\x00\x58", 5);
}

/*
 * The opcode of an instruction on a register of the size of a field, in its form with a
 * ModRM byte whose reg field is @reg: @op for 8 bits, @op + 1 for more.
 */
static void djp_emit_op(struct djp_code *code, const struct djp_field *f, u8 op,
			u8 reg, u8 rm)
{
	u8 rex = (reg >> 3) << 2 | rm >> 3;

	if (f->size == 2)
		djp_emit1(code, 0x66);
	if (f->size == 8)
		rex |= 8;
	/* Without it 4 to 7 are ah, ch, dh and bh. */
	if (rex || f->size == 1)
		djp_emit1(code, 0x40 | rex);
	djp_emit1(code, f->size == 1 ? op : op + 1);
	djp_emit1(code, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* cmp or test with an immediate. */
static void djp_emit_compare(struct djp_code *code, const struct djp_options *o)
{
	bool test = o->op == DJP_OP_AND;
	const struct djp_field *f = &o->cond;
	s64 value = o->value;
	u8 tmp;

	if (f->size < 8 || value == (s32)value) {
		djp_emit_op(code, f, test ? 0xf6 : 0x80, test ? 0 : 7, f->reg);
		djp_emit(code, &o->value, min_t(u8, f->size, 4));
		return;
	}
	tmp = f->reg == DJP_REG_AX ? DJP_REG_CX : DJP_REG_AX;
	djp_emit1(code, 0x50 | tmp);		/* push */
	djp_emit1(code, 0x48);			/* movabs */
	djp_emit1(code, 0xb8 | tmp);
	djp_emit64(code, value);
	djp_emit_op(code, f, test ? 0x84 : 0x38, tmp, f->reg);
	djp_emit1(code, 0x58 | tmp);		/* pop */
}

/* The condition code for which a comparison holds. */
static u8 djp_compare_cc(const struct djp_options *o)
{
	bool sign = o->cond.sign;

	switch (o->op) {
	case DJP_OP_EQ:
		return DJP_CC_E;
	case DJP_OP_LT:
		return sign ? DJP_CC_L : DJP_CC_B;
	case DJP_OP_LE:
		return sign ? DJP_CC_LE : DJP_CC_BE;
	case DJP_OP_GT:
		return (sign ? DJP_CC_LE : DJP_CC_BE) ^ 1;
	case DJP_OP_GE:
		return (sign ? DJP_CC_L : DJP_CC_B) ^ 1;
	default:
		return DJP_CC_E ^ 1;
	}
}

static void djp_emit_sample(struct djp_code *code, struct djp_ends *ends,
			    const struct djp_counter *counter)
{
	s32 disp = djp_slot_disp(counter, counter->extra->sample);
	u64 step = djp_sample_step(counter->extra->options.sample);

	if ((u32)step) {
		/* push %rax; movabs $step,%rax; add %rax,%gs:disp32; pop %rax */
		djp_emit(code, "\x50\x48\xb8", 3);
		djp_emit64(code, step);
		djp_emit(code, "\x65\x48\x01\x04\x25", 5);
		djp_emit32(code, disp);
		djp_emit1(code, 0x58);
	} else {
		/* addl $imm32,%gs:disp32: the upper half is enough. */
		djp_emit(code, "\x65\x81\x04\x25", 4);
		djp_emit32(code, disp);
		djp_emit32(code, step >> 32);
	}
	djp_emit_skip(code, ends, DJP_CC_B ^ 1);
}

/* push %rax; movabs $fired,%rax; lock btsl $0,(%rax); pop %rax */
static void djp_emit_once(struct djp_code *code, struct djp_ends *ends,
			  const struct djp_counter *counter)
{
	djp_emit(code, "\x50\x48\xb8", 3);
	djp_emit64(code, (unsigned long)&counter->extra->fired);
	djp_emit(code, "\xf0\x0f\xba\x28\x00\x58", 6);
	djp_emit_skip(code, ends, DJP_CC_B);
}

/* Bucket 0 for 0, else one more than the highest bit. */
static void djp_emit_hist(struct djp_code *code, const struct djp_counter *counter)
{
	const struct djp_field *f = &counter->extra->options.hist;
	s32 disp = djp_slot_disp(counter, counter->extra->hist);
	size_t zero, done;

	djp_emit1(code, 0x50);			/* push %rax */
	if (f->size > 2) {			/* mov REG,%rax */
		if (f->size == 4 || f->reg != DJP_REG_AX)
			djp_emit_op(code, f, 0x88, f->reg, DJP_REG_AX);
	} else {				/* movzx REG,%eax */
		djp_emit1(code, 0x40 | f->reg >> 3);
		djp_emit1(code, 0x0f);
		djp_emit1(code, f->size == 1 ? 0xb6 : 0xb7);
		djp_emit1(code, 0xc0 | (f->reg & 7));
	}
	djp_emit(code, "\x48\x0f\xbd\xc0\x74\x00", 6);	/* bsr %rax,%rax; jz */
	zero = code->len;
	djp_emit(code, "\x65\x48\xff\x04\xc5", 5);	/* incq %gs:disp(,%rax,8) */
	djp_emit32(code, disp + sizeof(u64));
	djp_emit(code, "\xeb\x00", 2);			/* jmp */
	done = code->len;
	code->buf[zero - 1] = done - zero;
	djp_emit_inc(code, disp);
	code->buf[done - 1] = code->len - done;
	djp_emit1(code, 0x58);			/* pop %rax */
}

/* push %rdi; movabs $map,%rdi; call; pop %rdi */
static bool djp_emit_map(struct djp_code *code, const struct djp_map *map, bool calm)
{
	bool ok;

	djp_emit(code, "\x57\x48\xbf", 3);
	djp_emit64(code, (unsigned long)map);
	ok = djp_emit_rel32(code, DJP_CALL32,
			    djp_entry_address(calm ? DJP_ENTRY_MAP_CALM :
					      DJP_ENTRY_MAP));
	djp_emit1(code, 0x5f);
	return ok;
}

/**
 * djp_inline_writes() - the status flags that djp_inline() changes
 * @counter: of which probe
 *
 * Return: DJP_FLAG_*. An increment leaves CF alone.
 */
u8 djp_inline_writes(const struct djp_counter *counter)
{
	const struct djp_extra *extra = counter->extra;
	bool more = extra && (extra->soft || extra->options.cond.size ||
			      extra->sample || extra->options.once ||
			      extra->hist || extra->map);

	return more ? DJP_FLAGS_ALL : DJP_FLAGS_INC;
}

/**
 * djp_inline() - generate what counts a hit
 * @code: where to; DJP_INLINE_MAX bytes at most
 * @counter: of which probe; not one with @counter->extra->in_c
 * @calm: AC and DF are clear there
 *
 * The code changes nothing but slots of @counter, djp_inline_writes(), and what is below
 * the stack pointer; if it calls and not @calm, AC and DF too.
 *
 * Return: false if what it calls is out of reach.
 */
bool djp_inline(struct djp_code *code, const struct djp_counter *counter,
		bool calm)
{
	const struct djp_extra *extra = counter->extra;
	struct djp_ends ends = { };
	bool ok = true;

	if (!extra) {
		if (djp_counter_near(counter))
			djp_emit_inc(code, djp_slot_disp(counter, 0));
		else
			djp_emit_inc_far(code, counter);
		return true;
	}
	if (extra->soft) {
		djp_emit(code, "\x65\x83\x3c\x25", 4);	/* cmpl $0,%gs:disp32 */
		djp_emit32(code, djp_slot_disp(counter, extra->soft));
		djp_emit1(code, 0);
		djp_emit_skip(code, &ends, DJP_CC_E);
	}
	if (extra->options.cond.size) {
		djp_emit_compare(code, &extra->options);
		djp_emit_skip(code, &ends, djp_compare_cc(&extra->options) ^ 1);
	}
	if (extra->sample)
		djp_emit_sample(code, &ends, counter);
	if (extra->options.once)
		djp_emit_once(code, &ends, counter);
	djp_emit_inc(code, djp_slot_disp(counter, 0));
	if (extra->hist)
		djp_emit_hist(code, counter);
	if (extra->map)
		ok = djp_emit_map(code, extra->map, calm);
	djp_emit_ends(code, &ends);
	return ok;
}
