// SPDX-License-Identifier: GPL-2.0
/*
 * Can an indirect jump go to the middle of a function?
 *
 * Whoever jumps through a register needs an address in it. Either it got it whole:
 * as an argument, from memory, from a call, as an immediate. Then the address of
 * a label has to stand in an instruction or in static data, and the map of branch
 * targets has it already. Or it was computed, with an offset from a table for
 * instance, and then nothing is known: all instructions of the function count as
 * targets. A tail call through a pointer, of which the kernel is full, is of the
 * first kind.
 *
 * What a register holds is followed from instruction to instruction. Where other
 * code branches in, it is forgotten, unless nothing in the function ever computes
 * that register.
 */
#include <linux/kernel.h>

#include "x86/textmap.h"

#define DJP_REGS	16
#define DJP_ALL_REGS	0xffffu
/* What a call may change: rax, rcx, rdx, rsi, rdi, r8 to r11. */
#define DJP_CALLER_SAVED 0x0fc7u
/* Registers that instructions name without saying so: rax, rcx, rdx, rbx, rsi, rdi. */
#define DJP_IMPLICIT	0x00cfu

/**
 * struct djp_write - what an instruction does to the registers
 * @whole: it loads a whole value into these
 * @computed: it computes these
 * @to: it copies to this register; -1 if it does not
 * @from: from this one
 */
struct djp_write {
	unsigned int	whole;
	unsigned int	computed;
	int		to;
	int		from;
};

static unsigned int djp_reg(const struct insn *insn)
{
	return X86_MODRM_REG(insn->modrm.bytes[0]) |
		X86_REX_R(insn->rex_prefix.bytes[0]) << 3;
}

static unsigned int djp_rm(const struct insn *insn)
{
	return X86_MODRM_RM(insn->modrm.bytes[0]) |
		X86_REX_B(insn->rex_prefix.bytes[0]) << 3;
}

/* The register in the low bits of the opcode. */
static unsigned int djp_opcode_reg(const struct insn *insn)
{
	return (insn->opcode.bytes[insn->opcode.nbytes - 1] & 7) |
		X86_REX_B(insn->rex_prefix.bytes[0]) << 3;
}

static bool djp_is_64bit(const struct insn *insn)
{
	return insn->rex_prefix.nbytes &&
		X86_REX_W(insn->rex_prefix.bytes[0]);
}

/* Nothing is known of the instruction but the registers that it names. */
static void djp_write_unknown(const struct insn *insn, struct djp_write *w)
{
	if (!insn->modrm.nbytes || insn->vex_prefix.nbytes) {
		w->computed = DJP_ALL_REGS;
		return;
	}
	w->computed = DJP_IMPLICIT | BIT(djp_reg(insn));
	if (X86_MODRM_MOD(insn->modrm.bytes[0]) == 3)
		w->computed |= BIT(djp_rm(insn));
}

/* The register that r/m is, if it is one. */
static unsigned int djp_rm_bit(const struct insn *insn)
{
	return X86_MODRM_MOD(insn->modrm.bytes[0]) == 3 ? BIT(djp_rm(insn)) : 0;
}

static void djp_write_0f(const struct insn *insn, struct djp_write *w)
{
	switch (insn->opcode.bytes[1]) {
	case 0x80 ... 0x8f:	/* jcc */
	case 0x0b:		/* ud2 */
	case 0x0d:		/* prefetch */
	case 0x18:
	case 0x1e:		/* endbr */
	case 0x1f:		/* nop */
	case 0xa3:		/* bt */
		return;
	case 0x40 ... 0x4f:	/* cmov */
	case 0xb6:		/* movzx, movsx */
	case 0xb7:
	case 0xbe:
	case 0xbf:
		w->computed = BIT(djp_reg(insn));
		return;
	case 0x90 ... 0x9f:	/* setcc */
	case 0xab:		/* bts, btr, btc */
	case 0xb3:
	case 0xba:
	case 0xbb:
		w->computed = djp_rm_bit(insn);
		return;
	}
	djp_write_unknown(insn, w);
}

/* 00 to 3f: add, or, adc, sbb, and, sub, xor; cmp writes nothing. */
static void djp_write_alu(const struct insn *insn, struct djp_write *w)
{
	u8 op = insn->opcode.bytes[0];

	if (op >= 0x38)
		return;
	switch (op & 7) {
	case 0:
	case 1:
		w->computed = djp_rm_bit(insn);
		return;
	case 2:
	case 3:
		w->computed = BIT(djp_reg(insn));
		return;
	}
	w->computed = BIT(0);	/* rax */
}

static void djp_write_mov(const struct insn *insn, struct djp_write *w)
{
	bool memory = X86_MODRM_MOD(insn->modrm.bytes[0]) != 3;
	bool store = insn->opcode.bytes[0] == 0x89;
	unsigned int reg = djp_reg(insn), rm = djp_rm(insn);

	if (store && memory)
		return;
	if (!djp_is_64bit(insn)) {
		w->computed = BIT(store ? rm : reg);
	} else if (memory) {
		w->whole = BIT(reg);
	} else {
		w->to = store ? rm : reg;
		w->from = store ? reg : rm;
	}
}

static void djp_insn_writes(const struct insn *insn, struct djp_write *w)
{
	u8 modrm = insn->modrm.bytes[0];

	w->whole = 0;
	w->computed = 0;
	w->to = -1;
	if (insn->vex_prefix.nbytes) {
		djp_write_unknown(insn, w);
		return;
	}
	switch (insn->opcode.bytes[0]) {
	case 0x0f:
		djp_write_0f(insn, w);
		return;
	case 0x00 ... 0x05:
	case 0x08 ... 0x0d:
	case 0x10 ... 0x15:
	case 0x18 ... 0x1d:
	case 0x20 ... 0x25:
	case 0x28 ... 0x2d:
	case 0x30 ... 0x35:
	case 0x38 ... 0x3d:
		djp_write_alu(insn, w);
		return;
	case 0x50 ... 0x57:	/* push */
	case 0x68:
	case 0x6a:
	case 0x70 ... 0x7f:	/* jcc */
	case 0x84:		/* test */
	case 0x85:
	case 0x88:		/* mov to memory; a byte register is no address */
	case 0x90:		/* nop */
	case 0xa8:		/* test */
	case 0xa9:
	case 0xc2:		/* ret */
	case 0xc3:
	case 0xc6:		/* mov imm8 */
	case 0xcc:		/* int3 */
	case 0xe9:		/* jmp */
	case 0xeb:
		return;
	case 0x58 ... 0x5f:	/* pop */
		w->whole = BIT(djp_opcode_reg(insn));
		return;
	case 0x80:		/* add to cmp, imm */
	case 0x81:
	case 0x83:
		if (X86_MODRM_REG(modrm) != 7)
			w->computed = djp_rm_bit(insn);
		return;
	case 0x63:		/* movsxd, imul */
	case 0x69:
	case 0x6b:
		w->computed = BIT(djp_reg(insn));
		return;
	case 0x89:
	case 0x8b:
		djp_write_mov(insn, w);
		return;
	case 0x8d:		/* lea */
		if ((modrm & 0xc7) == 0x05 && djp_is_64bit(insn))
			w->whole = BIT(djp_reg(insn));
		else
			w->computed = BIT(djp_reg(insn));
		return;
	case 0xb8 ... 0xbf:	/* mov imm */
		w->whole = BIT(djp_opcode_reg(insn));
		return;
	case 0xc7:		/* mov imm32 */
		w->whole = djp_rm_bit(insn);
		return;
	case 0xc0:		/* rotations and shifts */
	case 0xc1:
	case 0xd0 ... 0xd3:
		w->computed = djp_rm_bit(insn);
		return;
	case 0xe8:		/* call */
		w->whole = DJP_CALLER_SAVED;
		return;
	case 0xff:
		if (X86_MODRM_REG(modrm) == 2) {
			w->whole = DJP_CALLER_SAVED;
			return;
		}
		if (X86_MODRM_REG(modrm) < 2)	/* inc, dec */
			w->computed = djp_rm_bit(insn);
		return;
	case 0xf6:		/* test; not, neg; mul, div */
	case 0xf7:
		if (X86_MODRM_REG(modrm) >= 2)
			w->computed = djp_rm_bit(insn);
		if (X86_MODRM_REG(modrm) >= 4)
			w->computed = BIT(0) | BIT(2);	/* rax, rdx */
		return;
	}
	djp_write_unknown(insn, w);
}

/* Registers that something in a function computes. */
static unsigned int djp_computed_anywhere(unsigned long start,
					  unsigned long end)
{
	unsigned long addr = start;
	unsigned int computed = 0;
	struct djp_write w;
	struct insn insn;
	bool again;
	int len;

	/* Copies pass it on, from later code to earlier code too. */
	do {
		again = false;
		for (addr = start; addr < end; addr += max(len, 1)) {
			len = djp_decode(&insn, addr, end);
			if (len < 0)
				continue;
			djp_insn_writes(&insn, &w);
			if (w.to >= 0 && (computed & BIT(w.from)))
				w.computed |= BIT(w.to);
			if (w.computed & ~computed)
				again = true;
			computed |= w.computed;
		}
	} while (again);
	return computed;
}

/**
 * djp_untraced_jump() - an indirect jump that may go anywhere in its function
 * @map: the map; all direct branches are marked
 * @start: the function's first byte
 * @end: one behind its last
 *
 * Context: djp_mutex held.
 * Return: the address of the first such jump, or 0.
 */
unsigned long djp_untraced_jump(const struct djp_textmap *map,
				unsigned long start, unsigned long end)
{
	unsigned int computed = djp_computed_anywhere(start, end);
	unsigned long addr = start;
	unsigned int whole = DJP_ALL_REGS;
	struct djp_reach reach;
	struct djp_write w;
	struct insn insn;
	int len;

	while (addr < end) {
		len = djp_decode(&insn, addr, end);
		if (len < 0)
			return addr;
		if (addr != start && djp_is_target(map, addr))
			whole = ~computed & DJP_ALL_REGS;
		djp_insn_reach(&insn, addr + len, &reach);
		if (reach.indirect && reach.reg != -1 &&
		    (reach.reg < 0 || !(whole & BIT(reach.reg))))
			return addr;

		djp_insn_writes(&insn, &w);
		if (w.to >= 0) {
			if (whole & BIT(w.from))
				w.whole |= BIT(w.to);
			else
				w.computed |= BIT(w.to);
		}
		whole = (whole | w.whole) & ~w.computed;
		addr += len;
	}
	return 0;
}
