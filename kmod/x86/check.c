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

static enum djp_reason djp_check_insn(const struct insn *insn,
				      unsigned long addr, struct djp_insn *d)
{
	enum djp_reason reason;

	if (djp_no_such_opcode(insn))
		return DJP_UNDECODABLE;
	d->len = insn->length;
	d->op = insn->prefixes.nbytes + insn->rex_prefix.nbytes;
	d->target = addr + insn->length + (long)(s32)insn->immediate.value;
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

/*
 * Behind a return or a jump: padding that is never executed may be covered.
 * Beyond the function's end, too; a function that starts there is a branch
 * target, which is looked for later.
 */
static int djp_decode_padding(struct djp_dcr *dcr, unsigned long addr,
			      struct djp_refusal *refusal)
{
	struct insn insn;
	int len;

	while (addr < dcr->addr + DJP_JMP32_LEN) {
		len = djp_decode(&insn, addr, addr + MAX_INSN_SIZE);
		if (len < 0)
			return djp_refuse(refusal, DJP_INSN_RETURN, addr);
		switch (insn.opcode.bytes[0]) {
		case 0xcc:
		case 0x90:
			break;
		case 0x0f:
			if (insn.opcode.bytes[1] == 0x1f)	/* nopl, nopw */
				break;
			fallthrough;
		default:
			return djp_refuse(refusal, DJP_INSN_RETURN, addr);
		}
		addr += len;
	}
	dcr->len = addr - dcr->addr;
	return 0;
}

static int djp_decode_insns(struct djp_dcr *dcr, unsigned long end,
			    struct djp_refusal *refusal)
{
	unsigned long addr = dcr->addr;
	enum djp_reason reason;
	struct djp_insn *d;
	struct insn insn;
	int len;

	while (addr < dcr->addr + DJP_JMP32_LEN) {
		if (addr >= end)
			return djp_refuse(refusal, DJP_TOO_NEAR_END, end);
		len = djp_decode(&insn, addr, end);
		if (len < 0)
			return djp_refuse(refusal, DJP_UNDECODABLE, addr);
		d = &dcr->insns[dcr->nr_insns];
		d->off = addr - dcr->addr;
		reason = djp_check_insn(&insn, addr, d);
		if (reason != DJP_OK)
			return djp_refuse(refusal, reason, addr);
		if (djp_k.search_exception_tables(addr))
			return djp_refuse(refusal, DJP_EXTABLE, addr);
		dcr->nr_insns++;
		addr += len;
		if (djp_ends_region(d))
			return djp_decode_padding(dcr, addr, refusal);
		if ((d->relocation == DJP_CALL ||
		     d->relocation == DJP_CALL_INDIRECT) &&
		    addr < dcr->addr + DJP_JMP32_LEN)
			return djp_refuse(refusal, DJP_INSN_CALL, addr - len);
	}
	dcr->len = addr - dcr->addr;
	return 0;
}

static int djp_decode_dcr(struct djp_dcr *dcr, unsigned long end,
			  struct djp_refusal *refusal)
{
	int ret = djp_decode_insns(dcr, end, refusal);

	if (ret)
		return ret;
	/* Nothing behind a return or jump at the region's fifth byte or later. */
	dcr->len = max_t(unsigned int, dcr->len,
			 dcr->insns[dcr->nr_insns - 1].off +
			 dcr->insns[dcr->nr_insns - 1].len);
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
	if (addr + dcr->len > djp_textmap_end(map))
		return djp_refuse(refusal, DJP_TOO_NEAR_END, addr);
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
