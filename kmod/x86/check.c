// SPDX-License-Identifier: GPL-2.0
/*
 * Can a jump stand here? Everything that is not proven is refused, with the
 * reason and the address that stands in the way.
 */
#include <linux/ftrace.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/preempt.h>
#include <linux/string.h>

#include "x86/x86.h"

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

/*
 * Instructions that do not do the same elsewhere, or that this version does not
 * relocate. What is not named is copied; what the decoder does not know never
 * comes here.
 */
static enum djp_reason djp_check_opcode(const struct insn *insn)
{
	u8 op1 = insn->opcode.bytes[0];
	u8 op2 = insn->opcode.bytes[1];
	u8 modrm = insn->modrm.bytes[0];
	u8 reg = X86_MODRM_REG(modrm);

	if (insn->vex_prefix.nbytes)
		return DJP_OK;

	switch (op1) {
	case 0x70 ... 0x7f:	/* jcc */
	case 0xe0 ... 0xe3:	/* loop, jrcxz */
	case 0xe9:		/* jmp */
	case 0xeb:
		return DJP_INSN_BRANCH;
	case 0xe8:		/* call */
		return DJP_INSN_CALL;
	case 0xc2:		/* ret */
	case 0xc3:
	case 0xca:
	case 0xcb:
		return DJP_INSN_RETURN;
	case 0xcc:		/* int3, int, int1 */
	case 0xcd:
	case 0xf1:
		return DJP_INSN_TRAP;
	case 0xcf:		/* iret */
	case 0xf4:		/* hlt */
	case 0xfb:		/* sti: its shadow covers the next instruction only */
		return DJP_INSN_PRIVILEGED;
	case 0x8e:		/* mov to a segment register: ss has a shadow too */
		return reg == 2 ? DJP_INSN_PRIVILEGED : DJP_OK;
	case 0xc6:
	case 0xc7:		/* xabort, xbegin */
		return modrm == 0xf8 ? DJP_INSN_BRANCH : DJP_OK;
	case 0xff:
		if (reg == 2 || reg == 3)
			return DJP_INSN_CALL;
		if (reg == 4 || reg == 5)
			return DJP_INSN_BRANCH;
		return DJP_OK;
	case 0x0f:
		break;
	default:
		return DJP_OK;
	}

	switch (op2) {
	case 0x80 ... 0x8f:	/* jcc */
		return DJP_INSN_BRANCH;
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

static enum djp_reason djp_check_insn(const struct insn *insn)
{
	if (djp_no_such_opcode(insn))
		return DJP_UNDECODABLE;
	return djp_check_opcode(insn);
}

static int djp_decode_dcr(struct djp_dcr *dcr, unsigned long end,
			  struct djp_refusal *refusal)
{
	unsigned long addr = dcr->addr;
	enum djp_reason reason;
	struct insn insn;
	int len;

	while (addr < dcr->addr + DJP_JMP32_LEN) {
		if (addr >= end)
			return djp_refuse(refusal, DJP_TOO_NEAR_END, end);
		len = djp_decode(&insn, addr, end);
		if (len < 0)
			return djp_refuse(refusal, DJP_UNDECODABLE, addr);
		reason = djp_check_insn(&insn);
		if (reason != DJP_OK)
			return djp_refuse(refusal, reason, addr);
		if (djp_k.search_exception_tables(addr))
			return djp_refuse(refusal, DJP_EXTABLE, addr);
		if (insn.modrm.nbytes &&
		    (insn.modrm.bytes[0] & 0xc7) == 0x05) {
			unsigned int off = addr - dcr->addr;

			dcr->rip[dcr->nr_rip].disp =
				off + insn_offset_displacement(&insn);
			dcr->rip[dcr->nr_rip].next = off + len;
			dcr->nr_rip++;
		}
		addr += len;
	}
	dcr->len = addr - dcr->addr;
	memcpy(dcr->text, (void *)dcr->addr, dcr->len);
	djp_original_text(dcr->addr, dcr->text, dcr->len);
	return 0;
}

/* Text that the kernel itself patches at run time. */
static int djp_check_reserved(const struct djp_dcr *dcr,
			      struct djp_refusal *refusal)
{
	void *start = (void *)dcr->addr;
	void *end = (void *)(dcr->addr + dcr->len - 1);	/* inclusive */
	int reserved;

	if (djp_k.ftrace_text_reserved(start, end))
		return djp_refuse(refusal, DJP_FTRACE, dcr->addr);
	djp_k.jump_label_lock();
	reserved = djp_k.jump_label_text_reserved(start, end);
	djp_k.jump_label_unlock();
	if (reserved)
		return djp_refuse(refusal, DJP_JUMP_LABEL, dcr->addr);
	if (djp_k.static_call_text_reserved(start, end))
		return djp_refuse(refusal, DJP_STATIC_CALL, dcr->addr);
	if (djp_k.alternatives_text_reserved(start, end))
		return djp_refuse(refusal, DJP_ALTERNATIVE, dcr->addr);
	return 0;
}

/*
 * A kprobe in our bytes would be overwritten. One before them may be optimised,
 * now or later, and then displaces up to DJP_DCR_MAX bytes from its address on.
 * A kprobe on an ftrace site writes nothing but that site.
 */
static int djp_check_kprobes(const struct djp_dcr *dcr,
			     struct djp_refusal *refusal)
{
	unsigned long found = 0;
	unsigned long addr;
	struct kprobe *kp;

	preempt_disable();
	for (addr = dcr->addr - DJP_DCR_MAX + 1; addr < dcr->addr + dcr->len;
	     addr++) {
		kp = djp_k.get_kprobe((void *)addr);
		if (kp && !(kp->flags & KPROBE_FLAG_FTRACE)) {
			found = addr;
			break;
		}
	}
	preempt_enable();
	return found ? djp_refuse(refusal, DJP_KPROBE, found) : 0;
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
	/* Knows a function's entry, and any byte of the site itself. */
	*ftrace = djp_k.ftrace_location(addr);
	if (*ftrace && addr <= *ftrace)
		return *ftrace + MCOUNT_INSN_SIZE;
	*ftrace = 0;
	return addr;
}

/**
 * djp_check_site() - can a jump stand here?
 * @addr: the insertion address
 * @mod: the module that it is in, which may not go meanwhile, or NULL
 * @dcr: filled in as far as was found out
 * @refusal: why not
 *
 * Context: djp_mutex held, may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_check_site(unsigned long addr, struct module *mod, struct djp_dcr *dcr,
		   struct djp_refusal *refusal)
{
	struct djp_textmap *map;
	unsigned long size, offset, target;
	struct djp_site *other;
	int ret;

	memset(dcr, 0, sizeof(*dcr));
	dcr->addr = addr;

	if (mod == THIS_MODULE)
		return djp_refuse(refusal, DJP_OWN_TEXT, addr);
	map = djp_textmap_get(addr, mod);
	if (!map || !djp_k.kallsyms_lookup_size_offset(addr, &size, &offset))
		return djp_refuse(refusal, DJP_NOT_TEXT, addr);
	if (djp_k.within_kprobe_blacklist(addr))
		return djp_refuse(refusal, DJP_BLACKLIST, addr);
	if (djp_on_int3_path(addr))
		return djp_refuse(refusal, DJP_INT3_PATH, addr);
	if (!djp_textmap_insn(map, addr))
		return djp_refuse(refusal, DJP_NOT_BOUNDARY, addr);

	ret = djp_decode_dcr(dcr, addr - offset + size, refusal);
	if (ret)
		return ret;
	target = djp_textmap_target(map, addr + 1, addr + dcr->len);
	if (target)
		return djp_refuse(refusal, DJP_BRANCH_TARGET, target);
	ret = djp_check_reserved(dcr, refusal);
	if (ret)
		return ret;
	ret = djp_check_kprobes(dcr, refusal);
	if (ret)
		return ret;
	other = djp_site_overlap(addr, dcr->len);
	if (other)
		return djp_refuse(refusal, DJP_OVERLAP, other->dcr.addr);
	return djp_refuse(refusal, DJP_OK, 0);
}
