// SPDX-License-Identifier: GPL-2.0
/*
 * What an instruction does to the status flags: which it reads, and which it surely
 * writes. From the Intel SDM, volume 1, appendix A, and volume 2.
 *
 * Whatever is not named here reads all and writes none. A flag that an instruction
 * leaves undefined counts as written only where no code could make use of what it was
 * before: AF behind a logical instruction, say, which only pushf and lahf can read.
 */
#include <linux/kernel.h>
#include <linux/string.h>

#include "x86/flags.h"

#define CF	DJP_FLAG_CF
#define PF	DJP_FLAG_PF
#define AF	DJP_FLAG_AF
#define ZF	DJP_FLAG_ZF
#define SF	DJP_FLAG_SF
#define OF	DJP_FLAG_OF
#define ALL	DJP_FLAGS_ALL

static bool djp_flags_say(struct djp_flags *f, u8 reads, u8 writes)
{
	f->reads = reads;
	f->writes = writes;
	return true;
}

/* What the conditions o, no, b, ae, e, ne, ... read; two share a test. */
static u8 djp_condition_reads(u8 opcode)
{
	static const u8 reads[8] = {
		OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF,
	};

	return reads[(opcode & 0xf) >> 1];
}

/* d0 to d3, c0 and c1: rotates and shifts. By 0 they leave all as it was. */
static bool djp_flags_shift(const struct insn *insn, struct djp_flags *f)
{
	u8 op = insn->opcode.bytes[0];
	u8 reg = X86_MODRM_REG(insn->modrm.bytes[0]);
	bool wide = insn->rex_prefix.nbytes &&
		X86_REX_W(insn->rex_prefix.bytes[0]);
	u8 reads = reg == 2 || reg == 3 ? CF : 0;	/* rcl, rcr */
	unsigned int count = 0;

	if (op == 0xc0 || op == 0xc1)
		count = insn->immediate.value & (wide ? 0x3f : 0x1f);
	else if (op == 0xd0 || op == 0xd1)
		count = 1;
	/*
	 * By %cl, or by so much that a small operand is gone or turned once around:
	 * nothing is sure.
	 */
	if (!count || (count > 7 && (op == 0xc0 || insn->opnd_bytes == 2)))
		return djp_flags_say(f, reads, 0);
	if (reg < 4)
		return djp_flags_say(f, reads, count == 1 ? CF | OF : CF);
	return djp_flags_say(f, 0, count == 1 ? ALL : ALL & ~OF);
}

static bool djp_flags_group(const struct insn *insn, struct djp_flags *f)
{
	u8 reg = X86_MODRM_REG(insn->modrm.bytes[0]);

	switch (insn->opcode.bytes[0]) {
	case 0x80: case 0x81: case 0x83:	/* add or adc sbb and sub xor cmp */
		return djp_flags_say(f, reg == 2 || reg == 3 ? CF : 0, ALL);
	case 0x8f:				/* pop; the rest is XOP */
		return !reg && djp_flags_say(f, 0, 0);
	case 0xc6: case 0xc7:			/* mov; xabort, xbegin */
		return !reg && djp_flags_say(f, 0, 0);
	case 0xf6: case 0xf7:
		if (reg < 2 || reg == 3)	/* test, neg */
			return djp_flags_say(f, 0, ALL);
		if (reg == 4 || reg == 5)	/* mul, imul */
			return djp_flags_say(f, 0, CF | OF);
		return djp_flags_say(f, 0, 0);	/* not, div, idiv */
	case 0xfe: case 0xff:
		if (reg < 2)			/* inc, dec */
			return djp_flags_say(f, 0, ALL & ~CF);
		return reg == 6 && djp_flags_say(f, 0, 0);	/* push */
	}
	return false;
}

static bool djp_has_prefix(const struct insn *insn, u8 prefix)
{
	return memchr(insn->prefixes.bytes, prefix,
		      sizeof(insn->prefixes.bytes));
}

static bool djp_flags_0f(const struct insn *insn, struct djp_flags *f)
{
	u8 op = insn->opcode.bytes[1];

	switch (op) {
	case 0x05: case 0x0b: case 0x38: case 0x3a:
		return false;
	case 0x0d: case 0x18 ... 0x1f:	/* prefetch, nop, endbr64 */
	case 0x31: case 0x32: case 0x30: case 0xa2:	/* rdtsc, rdmsr, wrmsr, cpuid */
	case 0xc8 ... 0xcf:		/* bswap */
	case 0xb6: case 0xb7: case 0xbe: case 0xbf:	/* movzx, movsx */
	case 0xa4: case 0xa5: case 0xac: case 0xad:	/* shld, shrd */
	case 0xc3:			/* movnti */
		return djp_flags_say(f, 0, 0);
	case 0x40 ... 0x4f:		/* cmov */
	case 0x80 ... 0x8f:		/* jcc */
	case 0x90 ... 0x9f:		/* setcc */
		return djp_flags_say(f, djp_condition_reads(op), 0);
	case 0xa3: case 0xab: case 0xb3: case 0xbb:	/* bt, bts, btr, btc */
		return djp_flags_say(f, 0, CF);
	case 0xba:
		return X86_MODRM_REG(insn->modrm.bytes[0]) >= 4 &&
			djp_flags_say(f, 0, CF);
	case 0xae:		/* fences; with memory fxsave and the like */
		return djp_flags_say(f, 0, 0);
	case 0xaf:		/* imul */
		return djp_flags_say(f, 0, CF | OF);
	case 0xb0: case 0xb1:	/* cmpxchg */
	case 0xc0: case 0xc1:	/* xadd */
		return djp_flags_say(f, 0, ALL);
	case 0xb8:		/* popcnt */
		return djp_has_prefix(insn, 0xf3) && djp_flags_say(f, 0, ALL);
	case 0xbc: case 0xbd:	/* bsf, bsr; tzcnt, lzcnt */
		return djp_flags_say(f, 0, insn->prefixes.nbytes ? 0 : ZF);
	case 0xc7:		/* cmpxchg8b, cmpxchg16b */
		return X86_MODRM_MOD(insn->modrm.bytes[0]) != 3 &&
			X86_MODRM_REG(insn->modrm.bytes[0]) == 1 &&
			djp_flags_say(f, 0, ZF);
	}
	return false;
}

/**
 * djp_insn_flags() - what an instruction does to the status flags
 * @insn: the instruction
 * @f: filled in
 *
 * Branches are looked at as if they fell through.
 *
 * Return: false if it is not known; then it may read all and writes none.
 */
bool djp_insn_flags(const struct insn *insn, struct djp_flags *f)
{
	bool rep = djp_has_prefix(insn, 0xf2) || djp_has_prefix(insn, 0xf3);
	u8 op = insn->opcode.bytes[0];

	djp_flags_say(f, ALL, 0);
	if (insn->vex_prefix.nbytes || insn->emulate_prefix_size)
		return false;
	switch (op) {
	/* add, or, and, sub, xor, cmp; adc and sbb are 10 to 1d */
	case 0x00 ... 0x05: case 0x08 ... 0x0d: case 0x20 ... 0x25:
	case 0x28 ... 0x2d: case 0x30 ... 0x35: case 0x38 ... 0x3d:
	case 0x84: case 0x85: case 0xa8: case 0xa9:	/* test */
		return djp_flags_say(f, 0, ALL);
	case 0x10 ... 0x15: case 0x18 ... 0x1d:
		return djp_flags_say(f, CF, ALL);
	case 0x0f:
		return djp_flags_0f(insn, f) || djp_flags_say(f, ALL, 0);
	case 0x50 ... 0x5f: case 0x63: case 0x68: case 0x6a:	/* push, pop, movsxd */
	case 0x86 ... 0x8e: case 0x90 ... 0x99:	/* xchg, mov, lea, cwde, cqo */
	case 0xa0 ... 0xa5: case 0xaa ... 0xad:	/* mov, movs, stos, lods */
	case 0xb0 ... 0xbf: case 0xc8: case 0xc9:	/* mov, enter, leave */
	case 0xe4 ... 0xe7: case 0xec ... 0xef:	/* in, out */
	case 0xfa: case 0xfc: case 0xfd:	/* cli, cld, std */
		return djp_flags_say(f, 0, 0);
	case 0x69: case 0x6b:			/* imul */
		return djp_flags_say(f, 0, CF | OF);
	case 0x70 ... 0x7f:			/* jcc */
		return djp_flags_say(f, djp_condition_reads(op), 0);
	case 0x9c: case 0x9f:			/* pushf, lahf */
		return djp_flags_say(f, ALL, 0);
	case 0x9d:				/* popf */
		return djp_flags_say(f, 0, ALL);
	case 0x9e:				/* sahf */
		return djp_flags_say(f, 0, ALL & ~OF);
	case 0xa6: case 0xa7: case 0xae: case 0xaf:	/* cmps, scas; not if 0 times */
		return djp_flags_say(f, 0, rep ? 0 : ALL);
	case 0xc0: case 0xc1: case 0xd0 ... 0xd3:
		return djp_flags_shift(insn, f);
	case 0xe0: case 0xe1:			/* loopne, loope */
		return djp_flags_say(f, ZF, 0);
	case 0xe2: case 0xe3: case 0xe8: case 0xe9: case 0xeb:
		return djp_flags_say(f, 0, 0);	/* loop, jrcxz, call, jmp */
	case 0xf5:				/* cmc */
		return djp_flags_say(f, CF, CF);
	case 0xf8: case 0xf9:			/* clc, stc */
		return djp_flags_say(f, 0, CF);
	case 0x80: case 0x81: case 0x83: case 0x8f: case 0xc6: case 0xc7:
	case 0xf6: case 0xf7: case 0xfe: case 0xff:
		return djp_flags_group(insn, f) || djp_flags_say(f, ALL, 0);
	}
	return false;
}
