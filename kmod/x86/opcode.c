// SPDX-License-Identifier: GPL-2.0
/*
 * What an instruction is, and how it is displaced, by its opcode; or why it has to
 * stay.
 */
#include <linux/kernel.h>
#include <linux/preempt.h>
#include <linux/string.h>

#include "x86/x86.h"

/**
 * djp_decode() - decode one instruction of the original text
 * @insn: filled in; its pointers to the bytes are not valid any more
 * @addr: where it starts
 * @end: it may not go on beyond
 *
 * "Original" is without our int3s and jumps, and without the kernel's kprobes
 * and optimised kprobes.
 *
 * Context: djp_mutex held.
 * Return: its length, or -EILSEQ.
 */
int djp_decode(struct insn *insn, unsigned long addr, unsigned long end)
{
	unsigned int len = min_t(unsigned long, end - addr, MAX_INSN_SIZE);
	u8 buf[MAX_INSN_SIZE];
	u8 kprobe_buf[MAX_INSN_SIZE + 1];

	memcpy(buf, (void *)addr, len);
	if (djp_k.recover_probed_instruction &&
	    (buf[0] == DJP_INT3 || buf[0] == DJP_JMP32)) {
		unsigned long recovered;

		preempt_disable();
		recovered = djp_k.recover_probed_instruction(kprobe_buf, addr);
		preempt_enable();
		if (recovered == (unsigned long)kprobe_buf)
			memcpy(buf, kprobe_buf, len);
	}
	/* A kprobe may stand on a jump of ours. */
	djp_original_text(addr, buf, len);

	if (djp_k.insn_decode(insn, buf, len, INSN_MODE_64))
		return -EILSEQ;
	return insn->length;
}

/*
 * The kernel's decoder gives a length to opcodes that do not exist in 64-bit
 * mode: its tables (arch/x86/lib/x86-opcode-map.txt) have nothing for them, as
 * they have nothing for plain ones. From the opcode maps of the Intel SDM,
 * volume 2, appendix A.
 */
static bool djp_no_such_opcode(const struct insn *insn)
{
	if (insn->vex_prefix.nbytes)
		return false;

	switch (insn->opcode.bytes[0]) {
	case 0x06: case 0x07: case 0x0e: case 0x16: case 0x17: case 0x1e:
	case 0x1f: case 0x27: case 0x2f: case 0x37: case 0x3f: case 0x60:
	case 0x61: case 0x62: case 0x82: case 0x9a: case 0xc4: case 0xc5:
	case 0xce: case 0xd4: case 0xd5: case 0xd6: case 0xea:
		return true;
	case 0x0f:
		break;
	default:
		return false;
	}
	switch (insn->opcode.bytes[1]) {
	case 0x04: case 0x0a: case 0x0c: case 0x0e: case 0x0f:
	case 0x24 ... 0x27: case 0x36: case 0x39: case 0x3b ... 0x3f:
	case 0x7a: case 0x7b: case 0xa6: case 0xa7:
		return true;
	}
	return false;
}

static bool djp_is_rip_relative(const struct insn *insn)
{
	return insn->modrm.nbytes && (insn->modrm.bytes[0] & 0xc7) == 0x05;
}

static bool djp_uses_rsp(const struct insn *insn)
{
	u8 modrm = insn->modrm.bytes[0];

	if (insn->rex_prefix.nbytes && X86_REX_B(insn->rex_prefix.bytes[0]))
		return false;	/* r12 */
	if (X86_MODRM_MOD(modrm) == 3)
		return X86_MODRM_RM(modrm) == 4;
	return insn->sib.nbytes && X86_SIB_BASE(insn->sib.bytes[0]) == 4;
}

/* ff /2 to /5: calls and jumps through a register or memory. */
static enum djp_reason djp_check_indirect(const struct insn *insn,
					  struct djp_insn *d)
{
	switch (X86_MODRM_REG(insn->modrm.bytes[0])) {
	case 2:
		/* The return address is pushed first, and would move (%rsp). */
		if (djp_uses_rsp(insn))
			return DJP_INSN_CALL;
		d->relocation = DJP_CALL_INDIRECT;
		return DJP_OK;
	case 4:
		d->relocation = DJP_END;
		return DJP_OK;
	case 3:		/* far */
	case 5:
		return DJP_INSN_BRANCH;
	}
	return DJP_OK;
}

static enum djp_reason djp_check_0f(const struct insn *insn, struct djp_insn *d)
{
	u8 modrm = insn->modrm.bytes[0];

	switch (insn->opcode.bytes[1]) {
	case 0x80 ... 0x8f:	/* jcc */
		d->relocation = DJP_JCC;
		return DJP_OK;
	case 0x0b:		/* ud2, ud1, ud0 */
	case 0xb9:
	case 0xff:
		return DJP_INSN_TRAP;
	case 0x05:		/* syscall, sysret, sysenter, sysexit, rsm */
	case 0x07:
	case 0x34:
	case 0x35:
	case 0xaa:
	case 0x22:		/* mov to a control or debug register */
	case 0x23:
		return DJP_INSN_PRIVILEGED;
	case 0x01:
		/* With a register operand: vm*, swapgs, monitor, ... */
		if (X86_MODRM_MOD(modrm) == 3 &&
		    modrm != 0xca && modrm != 0xcb)	/* clac, stac */
			return DJP_INSN_PRIVILEGED;
		return DJP_OK;
	}
	return DJP_OK;
}

/*
 * How an instruction is displaced, or why it is not. What is not named is
 * copied; what the decoder does not know never comes here.
 */
static enum djp_reason djp_check_opcode(const struct insn *insn,
					struct djp_insn *d)
{
	u8 modrm = insn->modrm.bytes[0];

	switch (insn->opcode.bytes[0]) {
	case 0x70 ... 0x7f:
		d->relocation = DJP_JCC;
		return DJP_OK;
	case 0xe0 ... 0xe3:
		d->relocation = DJP_LOOP;
		return DJP_OK;
	case 0xe8:
		d->relocation = DJP_CALL;
		return DJP_OK;
	case 0xe9:
	case 0xeb:
		d->relocation = DJP_JMP;
		return DJP_OK;
	case 0xc2:		/* ret */
	case 0xc3:
		d->relocation = DJP_END;
		return DJP_OK;
	case 0xff:
		return djp_check_indirect(insn, d);
	case 0x0f:
		return djp_check_0f(insn, d);
	case 0xcc:		/* int3, int, int1 */
	case 0xcd:
	case 0xf1:
		return DJP_INSN_TRAP;
	case 0xca:		/* far ret, iret */
	case 0xcb:
	case 0xcf:
	case 0xf4:		/* hlt */
	case 0xfb:		/* sti: its shadow covers the next instruction only */
		return DJP_INSN_PRIVILEGED;
	case 0x8e:		/* mov to a segment register: ss has a shadow too */
		return X86_MODRM_REG(modrm) == 2 ? DJP_INSN_PRIVILEGED : DJP_OK;
	case 0xc6:
	case 0xc7:		/* xabort, xbegin */
		return modrm == 0xf8 ? DJP_INSN_BRANCH : DJP_OK;
	}
	return DJP_OK;
}

/**
 * djp_displace() - how an instruction is displaced
 * @insn: the instruction
 * @d: filled in, but for @off
 *
 * Return: DJP_OK, or why it can't be displaced; @len is right all the same.
 */
enum djp_reason djp_displace(const struct insn *insn, struct djp_insn *d)
{
	enum djp_reason reason;

	d->len = insn->length;
	if (djp_no_such_opcode(insn))
		return DJP_UNDECODABLE;
	/* A ud2 with a signature behind it: Xen and KVM look at where it traps. */
	if (insn->emulate_prefix_size)
		return DJP_INSN_TRAP;
	d->op = insn->prefixes.nbytes + insn->rex_prefix.nbytes;
	if (!insn->vex_prefix.nbytes) {
		reason = djp_check_opcode(insn, d);
		if (reason != DJP_OK)
			return reason;
		/* Processors differ in what they make of a rel16. */
		if (d->relocation != DJP_COPY && insn->opnd_bytes == 2)
			return DJP_INSN_BRANCH;
	}
	if (djp_is_rip_relative(insn)) {
		d->disp = insn_offset_displacement((struct insn *)insn);
		if (d->relocation == DJP_COPY)
			d->relocation = DJP_RIP;
	}
	return DJP_OK;
}

/**
 * djp_branch_target() - where a direct jump or call goes
 * @addr: where it is
 * @text: its bytes
 * @d: how it is displaced: DJP_JCC, DJP_JMP, DJP_LOOP or DJP_CALL
 */
unsigned long djp_branch_target(unsigned long addr, const u8 *text,
				const struct djp_insn *d)
{
	u8 opcode = text[d->op];
	s32 rel32;

	addr += d->len;
	if (opcode != 0x0f && opcode != 0xe8 && opcode != DJP_JMP32)
		return addr + (s8)text[d->len - 1];
	memcpy(&rel32, text + d->len - sizeof(rel32), sizeof(rel32));
	return addr + rel32;
}

/**
 * djp_insn_refers() - what a displaced instruction refers to, relative to itself
 * @dcr: its text is there
 * @d: the instruction
 * @to: the address that it jumps to, calls, reads or writes
 *
 * Return: false if it refers to nothing.
 */
bool djp_insn_refers(const struct djp_dcr *dcr, const struct djp_insn *d,
		     unsigned long *to)
{
	const u8 *text = dcr->text + d->off;
	unsigned long addr = dcr->addr + d->off;
	s32 disp;

	switch (d->relocation) {
	case DJP_JCC:
	case DJP_JMP:
	case DJP_LOOP:
	case DJP_CALL:
		*to = djp_branch_target(addr, text, d);
		return true;
	}
	if (!d->disp)
		return false;
	memcpy(&disp, text + d->disp, sizeof(disp));
	*to = addr + d->len + disp;
	return true;
}

/**
 * djp_is_nop() - is it an instruction that compilers and linkers pad with?
 * @insn: the instruction
 */
bool djp_is_nop(const struct insn *insn)
{
	switch (insn->opcode.bytes[0]) {
	case 0xcc:
		return true;
	case 0x90:
		return !(insn->rex_prefix.nbytes &&
			 X86_REX_B(insn->rex_prefix.bytes[0]));
	case 0x0f:
		return insn->opcode.bytes[1] == 0x1f;	/* nopl, nopw */
	}
	return false;
}
