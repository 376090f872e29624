// SPDX-License-Identifier: GPL-2.0
/*
 * What can be branched to, and by what.
 *
 * An instruction reaches the target of its jump or call, and every text address
 * that it holds as an immediate or computes with lea: sync_core() pushes the
 * address of a label and does an iret to it. Besides there are jump labels, on or
 * off; exception fixups; symbols; and text addresses that stand in static data,
 * where a table of labels would be.
 */
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <asm/extable.h>

#include "x86/textmap.h"

/* RETPOLINE_THUNK_SIZE, arch/x86/include/asm/nospec-branch.h */
#define DJP_THUNK_SIZE	32
#define DJP_NR_THUNKS	16

/* The register of an indirect-branch thunk, or -1. */
static int djp_thunk_reg(unsigned long addr)
{
	unsigned long array = (unsigned long)djp_k.__x86_indirect_thunk_array;
	unsigned long off = addr - array;

	if (!array || off >= DJP_NR_THUNKS * DJP_THUNK_SIZE)
		return -1;
	return off / DJP_THUNK_SIZE;
}

static void djp_reach_add(struct djp_reach *reach, unsigned long to,
			  enum djp_source_kind kind)
{
	reach->to[reach->nr] = to;
	reach->kind[reach->nr++] = kind;
}

static void djp_reach_jump(struct djp_reach *reach, unsigned long to)
{
	int reg = djp_thunk_reg(to);

	djp_reach_add(reach, to, DJP_SOURCE_BRANCH);
	if (reg >= 0) {
		reach->indirect = true;
		reach->reg = reg;
	}
}

/* ff /4 and /5: jumps through a register or memory. */
static void djp_reach_indirect(const struct insn *insn, struct djp_reach *reach)
{
	u8 modrm = insn->modrm.bytes[0];

	if (X86_MODRM_REG(modrm) != 4 && X86_MODRM_REG(modrm) != 5)
		return;
	reach->indirect = true;
	if (X86_MODRM_REG(modrm) == 5)
		reach->reg = -2;
	else if (X86_MODRM_MOD(modrm) != 3)
		reach->reg = -1;
	else
		reach->reg = X86_MODRM_RM(modrm) |
			X86_REX_B(insn->rex_prefix.bytes[0]) << 3;
}

/**
 * djp_insn_reach() - where an instruction can send control, now or later
 * @insn: the instruction
 * @next: the address behind it
 * @reach: filled in
 */
void djp_insn_reach(const struct insn *insn, unsigned long next,
		    struct djp_reach *reach)
{
	unsigned long imm = (long)(s32)insn->immediate.value;
	u8 modrm = insn->modrm.bytes[0];
	u8 op2 = insn->opcode.bytes[1];

	reach->nr = 0;
	reach->indirect = false;
	reach->reg = -1;
	if (insn->vex_prefix.nbytes)
		goto rip;

	switch (insn->opcode.bytes[0]) {
	case 0x70 ... 0x7f:	/* jcc rel8 */
	case 0xe0 ... 0xe3:	/* loop, jrcxz */
	case 0xeb:		/* jmp rel8 */
	case 0xe9:		/* jmp */
		djp_reach_jump(reach, next + imm);
		return;
	case 0xe8:		/* call */
		djp_reach_add(reach, next + imm, DJP_SOURCE_CALL);
		return;
	case 0x0f:
		if (op2 >= 0x80 && op2 <= 0x8f) {	/* jcc */
			djp_reach_jump(reach, next + imm);
			return;
		}
		break;
	case 0xc7:
		if (modrm == 0xf8) {	/* xbegin: the abort handler */
			djp_reach_add(reach, next + imm, DJP_SOURCE_BRANCH);
			return;
		}
		djp_reach_add(reach, imm, DJP_SOURCE_ADDRESS);
		break;
	case 0x68:		/* push imm32 */
	case 0x81:		/* add, cmp, ... imm32 */
		djp_reach_add(reach, imm, DJP_SOURCE_ADDRESS);
		break;
	case 0xb8 ... 0xbf:	/* mov imm64 */
		if (insn->immediate2.nbytes)
			djp_reach_add(reach, (u32)insn->immediate1.value |
				      (u64)insn->immediate2.value << 32,
				      DJP_SOURCE_ADDRESS);
		break;
	case 0xff:
		djp_reach_indirect(insn, reach);
		break;
	}
rip:
	if (insn->modrm.nbytes && (modrm & 0xc7) == 0x05)
		djp_reach_add(reach, next + (long)insn->displacement.value,
			      DJP_SOURCE_ADDRESS);
}

/**
 * djp_fixup_address() - where an exception-table entry continues
 * @entry: the entry
 */
unsigned long djp_fixup_address(const struct exception_table_entry *entry)
{
	return (unsigned long)&entry->fixup + entry->fixup;
}

/* Between variables KASAN has poisoned zones, and we read all of it. */
static __no_sanitize_address void
djp_find_words(const struct djp_textmap *map, unsigned long start,
	       unsigned long end,
	       void (*found)(void *data, unsigned long at, unsigned long to),
	       void *data)
{
	unsigned long at;

	for (at = ALIGN(start, sizeof(long)); at + sizeof(long) <= end;
	     at += sizeof(long)) {
		unsigned long to = *(const volatile unsigned long *)at;

		if (djp_in_map(map, to))
			found(data, at, to);
		if (!(at % PAGE_SIZE))
			cond_resched();
	}
}

/**
 * djp_find_pointers() - the addresses of a text that stand in static data
 * @map: the text
 * @found: called for each with @data, where it stands and what it is
 * @data: for @found
 *
 * Context: may sleep. A module must not go meanwhile.
 */
void djp_find_pointers(const struct djp_textmap *map,
		       void (*found)(void *data, unsigned long at,
				     unsigned long to),
		       void *data)
{
	unsigned long start, end;
	int i;

	if (!map->mod) {
		djp_find_words(map, (unsigned long)djp_k.__start_rodata,
			       (unsigned long)djp_k.__end_rodata, found, data);
		djp_find_words(map, (unsigned long)djp_k._sdata,
			       (unsigned long)djp_k._edata, found, data);
		return;
	}
	for (i = 0; djp_module_data(map->mod, i, &start, &end); i++)
		djp_find_words(map, start, end, found, data);
}

/**
 * struct djp_search - who reaches an address
 * @to: the address
 * @source: the answer
 */
struct djp_search {
	unsigned long		to;
	struct djp_source	*source;
};

static void djp_search_word(void *data, unsigned long at, unsigned long to)
{
	struct djp_search *search = data;

	if (to != search->to || search->source->kind != DJP_SOURCE_NONE)
		return;
	search->source->kind = DJP_SOURCE_DATA;
	search->source->addr = at;
}

static bool djp_search_text(const struct djp_textmap *map, unsigned long start,
			    unsigned long end, unsigned long to,
			    struct djp_source *source)
{
	struct djp_reach reach;
	unsigned long addr = start;
	struct insn insn;
	unsigned int i;
	int len;

	while (addr < end) {
		if (*(u8 *)addr == DJP_INT3 && !djp_is_ours(addr)) {
			addr++;
			continue;
		}
		len = djp_decode(&insn, addr, end);
		if (len < 0) {
			addr++;
			continue;
		}
		djp_insn_reach(&insn, addr + len, &reach);
		for (i = 0; i < reach.nr; i++) {
			if (reach.to[i] != to)
				continue;
			source->kind = reach.kind[i];
			source->addr = addr;
			return true;
		}
		addr += len;
		cond_resched();
	}
	return false;
}

static bool djp_search_tables(const struct djp_textmap *map, unsigned long to,
			      struct djp_source *source)
{
	const struct exception_table_entry *fixup;
	const struct jump_entry *jump;
	struct djp_tables tables;

	djp_textmap_tables(map, &tables);
	for (jump = tables.jumps; jump < tables.jumps_end; jump++) {
		if (jump_entry_target(jump) == to) {
			source->kind = DJP_SOURCE_JUMP_LABEL;
			source->addr = jump_entry_code(jump);
			return true;
		}
	}
	for (fixup = tables.fixups; fixup < tables.fixups_end; fixup++) {
		if (djp_fixup_address(fixup) == to) {
			source->kind = DJP_SOURCE_FIXUP;
			source->addr = (unsigned long)&fixup->insn +
				fixup->insn;
			return true;
		}
	}
	return false;
}

/**
 * djp_find_source() - what branches to an address
 * @to: an address that is marked as a branch target
 * @source: one of those that do; DJP_SOURCE_NONE if none was found
 *
 * Nothing remembers it: all text is decoded again if need be, which takes as long
 * as making the map did.
 *
 * Context: djp_mutex held, may sleep.
 */
void djp_find_source(unsigned long to, struct djp_source *source)
{
	const struct djp_textmap *map = djp_textmap_of(to);
	struct djp_search search = { .to = to, .source = source };
	unsigned long start, end, size, offset, jump;

	source->kind = DJP_SOURCE_NONE;
	source->addr = 0;
	if (!map)
		return;
	start = map->start;
	end = map->end;
	if (djp_k.kallsyms_lookup_size_offset(to, &size, &offset)) {
		start = to - offset;
		end = min(start + size, map->end);
	}
	if (start == to) {
		source->kind = DJP_SOURCE_SYMBOL;
		source->addr = to;
		return;
	}
	/* Most are near. */
	if (djp_search_text(map, start, end, to, source) ||
	    djp_search_tables(map, to, source))
		return;
	jump = djp_untraced_jump(map, start, end);
	if (jump) {
		source->kind = DJP_SOURCE_INDIRECT_JUMP;
		source->addr = jump;
		return;
	}
	djp_find_pointers(map, djp_search_word, &search);
	if (source->kind != DJP_SOURCE_NONE)
		return;
	if (!djp_search_text(map, map->start, start, to, source))
		djp_search_text(map, end, map->end, to, source);
}
