// SPDX-License-Identifier: GPL-2.0
/*
 * Where instructions start, and what can be branched to.
 *
 * Two bits for each byte of text, from one linear decode of the whole of it:
 * "an instruction starts here" and "something can branch here". The map of the
 * kernel is made when djprobes loads, that of a module when a probe is first
 * asked for in it. To check a site is then to look at a few bits, however far
 * away the branch is: foo.cold branches back into the middle of foo.
 *
 * What counts as a target: direct jumps, conditional jumps, loops and calls;
 * jump labels, on or off; exception fixups; every symbol; every text address
 * that an instruction holds as an immediate or computes with lea (sync_core()
 * pushes the address of a label and does an iret to it). A function that jumps
 * indirectly may have a table of labels somewhere: all its instructions count as
 * targets. (The kernel is built without jump tables where it uses retpolines,
 * arch/x86/Makefile, but assembly can have them.)
 */
#include <linux/bitmap.h>
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <asm/extable.h>

#include "x86/x86.h"

/**
 * struct djp_textmap - the map of the kernel's or of one module's text
 * @node: on djp_textmaps
 * @mod: the module, NULL for the kernel
 * @start: first byte
 * @end: one behind the last byte
 * @insns: a bit a byte: an instruction starts here
 * @targets: a bit a byte: something can branch here
 * @build_ns: how long it took to make
 */
struct djp_textmap {
	struct list_head	node;
	const struct module	*mod;
	unsigned long		start;
	unsigned long		end;
	unsigned long		*insns;
	unsigned long		*targets;
	u64			build_ns;
};

/* The kernel's map is the first. djp_mutex guards it. */
static LIST_HEAD(djp_textmaps);

/* RETPOLINE_THUNK_SIZE, arch/x86/include/asm/nospec-branch.h, times 16 registers */
#define DJP_THUNK_ARRAY_SIZE (16 * 32)

static bool djp_in_map(const struct djp_textmap *map, unsigned long addr)
{
	return addr >= map->start && addr < map->end;
}

static void djp_mark(struct djp_textmap *map, unsigned long target)
{
	if (djp_in_map(map, target))
		__set_bit(target - map->start, map->targets);
}

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
	const u8 *text = buf;

	memcpy(buf, (void *)addr, len);
	if (djp_k.recover_probed_instruction &&
	    (buf[0] == DJP_INT3 || buf[0] == DJP_JMP32)) {
		unsigned long recovered;

		preempt_disable();
		recovered = djp_k.recover_probed_instruction(kprobe_buf, addr);
		preempt_enable();
		if (recovered == (unsigned long)kprobe_buf)
			text = kprobe_buf;
	}
	if (text == buf)
		djp_original_text(addr, buf, len);

	if (djp_k.insn_decode(insn, text, len, INSN_MODE_64))
		return -EILSEQ;
	return insn->length;
}

static bool djp_kprobe_at(unsigned long addr)
{
	bool found;

	preempt_disable();
	found = djp_k.get_kprobe((void *)addr);
	preempt_enable();
	return found;
}

static bool djp_is_thunk(unsigned long addr)
{
	unsigned long array = (unsigned long)djp_k.__x86_indirect_thunk_array;

	return array && addr >= array && addr < array + DJP_THUNK_ARRAY_SIZE;
}

/*
 * Mark what an instruction can send control to.
 * Return: true if it jumps to where a register or memory says.
 */
static bool djp_mark_insn(struct djp_textmap *map, const struct insn *insn,
			  unsigned long next)
{
	u8 op1 = insn->opcode.bytes[0];
	u8 op2 = insn->opcode.bytes[1];
	unsigned long target = next + (long)(s32)insn->immediate.value;
	u8 modrm = insn->modrm.bytes[0];

	if (insn->vex_prefix.nbytes)
		goto rip;

	switch (op1) {
	case 0x70 ... 0x7f:	/* jcc rel8 */
	case 0xe0 ... 0xe3:	/* loop, jrcxz */
	case 0xe8:		/* call */
	case 0xeb:		/* jmp rel8 */
	case 0xe9:		/* jmp */
		djp_mark(map, target);
		return op1 == 0xe9 && djp_is_thunk(target);
	case 0x0f:
		if (op2 >= 0x80 && op2 <= 0x8f) {	/* jcc */
			djp_mark(map, target);
			return djp_is_thunk(target);
		}
		break;
	case 0xc7:
		if (modrm == 0xf8) {	/* xbegin: the abort handler */
			djp_mark(map, target);
			return false;
		}
		djp_mark(map, (long)(s32)insn->immediate.value);
		break;
	case 0x68:		/* push imm32 */
	case 0x81:		/* add, cmp, ... imm32 */
		djp_mark(map, (long)(s32)insn->immediate.value);
		break;
	case 0xb8 ... 0xbf:	/* mov imm64 */
		if (insn->immediate2.nbytes)
			djp_mark(map, (u32)insn->immediate1.value |
				 (u64)insn->immediate2.value << 32);
		break;
	case 0xff:		/* jmp *, ljmp * */
		if (X86_MODRM_REG(modrm) == 4 || X86_MODRM_REG(modrm) == 5)
			return true;
		break;
	}
rip:
	if (insn->modrm.nbytes && (modrm & 0xc7) == 0x05)
		djp_mark(map, next + (long)insn->displacement.value);
	return false;
}

static void djp_map_symbol(struct djp_textmap *map, unsigned long start,
			   unsigned long end)
{
	bool indirect = false;
	bool lost = false;
	unsigned long addr = start;
	struct insn insn;
	int len;

	djp_mark(map, start);
	while (addr < end) {
		/* A third of the text is padding, not worth decoding. */
		if (*(u8 *)addr == DJP_INT3 && !djp_kprobe_at(addr) &&
		    !djp_site_find(addr)) {
			__set_bit(addr - map->start, map->insns);
			addr++;
			continue;
		}
		len = djp_decode(&insn, addr, end);
		if (len < 0) {
			/*
			 * Data between the code, perhaps. No site from here on,
			 * but any branch that the rest may hold counts.
			 */
			lost = true;
			addr++;
			continue;
		}
		if (!lost)
			__set_bit(addr - map->start, map->insns);
		if (djp_mark_insn(map, &insn, addr + len))
			indirect = true;
		addr += len;
	}
	if (!indirect)
		return;
	for (addr = start; addr < end; addr++) {
		if (test_bit(addr - map->start, map->insns))
			djp_mark(map, addr);
	}
}

static void djp_map_jump_labels(struct djp_textmap *map,
				const struct jump_entry *entry,
				const struct jump_entry *stop)
{
	for (; entry < stop; entry++)
		djp_mark(map, jump_entry_target(entry));
}

static void djp_map_fixups(struct djp_textmap *map,
			   const struct exception_table_entry *entry,
			   const struct exception_table_entry *stop)
{
	for (; entry < stop; entry++)
		djp_mark(map, (unsigned long)&entry->fixup + entry->fixup);
}

static void djp_textmap_free(struct djp_textmap *map)
{
	kvfree(map->insns);
	kvfree(map->targets);
	kfree(map);
}

static struct djp_textmap *djp_textmap_build(struct module *mod)
{
	struct djp_textmap *map;
	unsigned long addr, size, offset, longs;
	u64 begin = ktime_get_ns();

	map = kzalloc(sizeof(*map), GFP_KERNEL);
	if (!map)
		return NULL;
	map->mod = mod;
	if (mod) {
		djp_module_text(mod, &map->start, &map->end);
	} else {
		map->start = (unsigned long)djp_k._stext;
		map->end = (unsigned long)djp_k._etext;
	}
	longs = BITS_TO_LONGS(map->end - map->start);
	map->insns = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	map->targets = kvcalloc(longs, sizeof(long), GFP_KERNEL);
	if (!map->insns || !map->targets) {
		djp_textmap_free(map);
		return NULL;
	}

	for (addr = map->start; addr < map->end; ) {
		unsigned long end = map->end;

		if (djp_k.kallsyms_lookup_size_offset(addr, &size, &offset) &&
		    size > offset)
			end = min(end, addr - offset + size);
		djp_map_symbol(map, addr, end);
		addr = end;
		cond_resched();
	}
	if (mod) {
		djp_map_jump_labels(map, mod->jump_entries,
				    mod->jump_entries + mod->num_jump_entries);
		djp_map_fixups(map, mod->extable,
			       mod->extable + mod->num_exentries);
	} else {
		djp_map_jump_labels(map, djp_k.__start___jump_table,
				    djp_k.__stop___jump_table);
		djp_map_fixups(map, djp_k.__start___ex_table,
			       djp_k.__stop___ex_table);
	}
	map->build_ns = ktime_get_ns() - begin;
	list_add_tail(&map->node, &djp_textmaps);
	return map;
}

/**
 * djp_textmap_init() - map the kernel's text
 *
 * Context: module load. Takes seconds under emulation.
 * Return: 0 or -ENOMEM.
 */
int djp_textmap_init(void)
{
	int ret;

	mutex_lock(&djp_mutex);
	ret = djp_textmap_build(NULL) ? 0 : -ENOMEM;
	mutex_unlock(&djp_mutex);
	return ret;
}

/**
 * djp_textmap_exit() - free all maps
 *
 * Context: module unload.
 */
void djp_textmap_exit(void)
{
	struct djp_textmap *map, *tmp;

	list_for_each_entry_safe(map, tmp, &djp_textmaps, node)
		djp_textmap_free(map);
}

/**
 * djp_textmap_get() - the map that an address is in, made if need be
 * @addr: the address
 * @mod: the module that it is in, which may not go meanwhile; NULL if in none
 *
 * Context: djp_mutex held, may sleep.
 * Return: the map; NULL if the address is in no text that stays, or for want
 * of memory.
 */
struct djp_textmap *djp_textmap_get(unsigned long addr, struct module *mod)
{
	struct djp_textmap *map;

	list_for_each_entry(map, &djp_textmaps, node) {
		if (map->mod == mod)
			return djp_in_map(map, addr) ? map : NULL;
	}
	map = djp_textmap_build(mod);
	return map && djp_in_map(map, addr) ? map : NULL;
}

/**
 * djp_textmap_drop() - forget a module's map
 * @mod: the module, which is going
 *
 * Context: djp_mutex held.
 */
void djp_textmap_drop(const struct module *mod)
{
	struct djp_textmap *map;

	list_for_each_entry(map, &djp_textmaps, node) {
		if (map->mod == mod) {
			list_del(&map->node);
			djp_textmap_free(map);
			return;
		}
	}
}

/**
 * djp_textmap_end() - one behind the last byte of a map
 * @map: the map
 */
unsigned long djp_textmap_end(const struct djp_textmap *map)
{
	return map->end;
}

/**
 * djp_textmap_insn() - does an instruction start here?
 * @map: the map
 * @addr: an address in it
 */
bool djp_textmap_insn(const struct djp_textmap *map, unsigned long addr)
{
	return test_bit(addr - map->start, map->insns);
}

/**
 * djp_textmap_target() - the first branch target in a range
 * @map: the map
 * @start: first byte of the range, in the map
 * @end: one behind its last byte
 *
 * Return: the address, or 0.
 */
unsigned long djp_textmap_target(const struct djp_textmap *map,
				 unsigned long start, unsigned long end)
{
	unsigned long last = min(end, map->end) - map->start;
	unsigned long bit = find_next_bit(map->targets, last,
					  start - map->start);

	return bit < last ? map->start + bit : 0;
}

/**
 * djp_textmap_show() - sizes and times, for debugfs' features file
 * @m: where to
 *
 * Context: djp_mutex held.
 */
void djp_textmap_show(struct seq_file *m)
{
	const struct djp_textmap *map =
		list_first_entry(&djp_textmaps, struct djp_textmap, node);
	unsigned long bytes = map->end - map->start;

	seq_printf(m, "branch_map_text_bytes %lu\n", bytes);
	seq_printf(m, "branch_map_instructions %u\n",
		   bitmap_weight(map->insns, bytes));
	seq_printf(m, "branch_map_targets %u\n",
		   bitmap_weight(map->targets, bytes));
	seq_printf(m, "branch_map_bytes %lu\n",
		   2 * BITS_TO_LONGS(bytes) * sizeof(long));
	seq_printf(m, "branch_map_ms %llu\n",
		   div_u64(map->build_ns, NSEC_PER_MSEC));
}
