/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that differs between kernels, and everything that the kernel does
 * not export: this file pair and no other place.
 *
 * Symbols are looked up once, when the module loads. A missing required symbol
 * refuses the load and is named; a missing optional one switches off what needs
 * it, which debugfs' features file shows.
 */
#ifndef _DJP_COMPAT_H
#define _DJP_COMPAT_H

#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/stacktrace.h>
#include <linux/stop_machine.h>
#include <linux/types.h>
#include <asm/insn.h>
#include <asm/pgtable_types.h>

#ifndef __counted_by	/* dd06e72e68bc, v6.6 */
#define __counted_by(member)
#endif

struct bug_entry;
struct exception_table_entry;
struct jump_entry;
struct seq_file;
struct stack_info;
struct static_call_site;

/* One line for each symbol: kind, return type, name, arguments. */
#define DJP_KERNEL_FUNCTIONS(REQ, OPT) \
REQ(void *, text_poke, (void *addr, const void *opcode, size_t len)) \
OPT(void, text_poke_sync, (void)) \
OPT(void, smp_text_poke_sync_each_cpu, (void)) \
REQ(int, insn_decode, (struct insn *insn, const void *kaddr, int len, enum insn_mode m)) \
REQ(const struct exception_table_entry *, search_exception_tables, (unsigned long addr)) \
REQ(unsigned long, ftrace_location_range, (unsigned long start, unsigned long end)) \
REQ(unsigned long, ftrace_location, (unsigned long ip)) \
REQ(int, alternatives_text_reserved, (void *start, void *end)) \
REQ(bool, within_kprobe_blacklist, (unsigned long addr)) \
OPT(bool, arch_within_kprobe_blacklist, (unsigned long addr)) \
REQ(struct kprobe *, get_kprobe, (void *addr)) \
OPT(kprobe_opcode_t *, arch_adjust_kprobe_addr, (unsigned long addr, unsigned long offset, bool *on_entry)) \
OPT(bool, can_boost, (struct insn *insn, void *addr)) \
OPT(bool, __is_insn_slot_addr, (struct kprobe_insn_cache *c, unsigned long addr)) \
OPT(unsigned long, recover_probed_instruction, (u8 *buf, unsigned long addr)) \
REQ(int, kallsyms_lookup_size_offset, (unsigned long addr, unsigned long *size, unsigned long *off)) \
REQ(int, kallsyms_on_each_symbol, (void *fn, void *data)) \
OPT(int, kallsyms_on_each_match_symbol, (int (*fn)(void *, unsigned long), const char *name, void *data)) \
REQ(struct module *, __module_text_address, (unsigned long addr)) \
OPT(void *, module_alloc, (unsigned long size)) \
OPT(void, module_memfree, (void *region)) \
OPT(void *, __vmalloc_node_range, (unsigned long size, unsigned long align, unsigned long start, unsigned long end, gfp_t gfp_mask, pgprot_t prot, unsigned long vm_flags, int node, const void *caller)) \
OPT(void *, __vmalloc_node_range_noprof, (unsigned long size, unsigned long align, unsigned long start, unsigned long end, gfp_t gfp_mask, pgprot_t prot, unsigned long vm_flags, int node, const void *caller)) \
OPT(void *, execmem_alloc, (int type, size_t size)) \
OPT(void, execmem_free, (void *ptr)) \
REQ(int, set_memory_ro, (unsigned long addr, int numpages)) \
REQ(int, set_memory_rw, (unsigned long addr, int numpages)) \
REQ(int, set_memory_x, (unsigned long addr, int numpages)) \
REQ(int, set_memory_nx, (unsigned long addr, int numpages)) \
REQ(struct task_struct *, idle_task, (int cpu)) \
REQ(int, arch_stack_walk_reliable, (stack_trace_consume_fn fn, void *cookie, struct task_struct *task)) \
REQ(int, stop_machine_cpuslocked, (cpu_stop_fn_t fn, void *data, const struct cpumask *cpus)) \
OPT(void, put_task_stack, (struct task_struct *tsk)) \
OPT(int, get_stack_info, (unsigned long *stack, struct task_struct *task, struct stack_info *info, unsigned long *visit_mask)) \
OPT(int, freeze_processes, (void)) \
OPT(void, thaw_processes, (void))

#define DJP_KERNEL_DATA(REQ, OPT) \
REQ(char, _stext) \
REQ(char, _etext) \
REQ(struct mutex, text_mutex) \
REQ(struct jump_entry, __start___jump_table) \
REQ(struct jump_entry, __stop___jump_table) \
REQ(struct exception_table_entry, __start___ex_table) \
REQ(struct exception_table_entry, __stop___ex_table) \
OPT(struct static_call_site, __start_static_call_sites) \
OPT(struct static_call_site, __stop_static_call_sites) \
REQ(char, _text) \
REQ(char, _end) \
REQ(char, _sdata) \
REQ(char, _edata) \
REQ(char, __start_rodata) \
REQ(char, __end_rodata) \
REQ(struct mutex, module_mutex) \
REQ(struct list_head, modules) \
REQ(struct mutex, kprobe_mutex) \
OPT(struct atomic_notifier_head, die_chain) \
OPT(char, __x86_indirect_thunk_array) \
OPT(char, __indirect_thunk_start) \
OPT(char, __indirect_thunk_end) \
OPT(struct list_head, kprobe_blacklist) \
OPT(struct hlist_head, kprobe_table) \
OPT(unsigned int, freeze_timeout_msecs) \
OPT(struct mutex, system_transition_mutex) \
OPT(struct kprobe_insn_cache, kprobe_optinsn_slots) \
OPT(struct bug_entry, __start___bug_table) \
OPT(struct bug_entry, __stop___bug_table)

/**
 * struct djp_kernel - what the running kernel has, by the kernel's own names
 * @lookup_name: kallsyms_lookup_name()
 *
 * NULL for an optional symbol that is not there.
 */
struct djp_kernel {
	unsigned long (*lookup_name)(const char *name);
#define DJP_FUNCTION_FIELD(ret, name, args) ret (*name) args;
	DJP_KERNEL_FUNCTIONS(DJP_FUNCTION_FIELD, DJP_FUNCTION_FIELD)
#undef DJP_FUNCTION_FIELD
#define DJP_DATA_FIELD(type, name) type *name;
	DJP_KERNEL_DATA(DJP_DATA_FIELD, DJP_DATA_FIELD)
#undef DJP_DATA_FIELD
};

extern struct djp_kernel djp_k;

int djp_compat_init(void);
void djp_compat_show(struct seq_file *m);

void djp_text_sync(void);
void *djp_exec_alloc(size_t size);
void djp_exec_free(void *mem, size_t size);
void *djp_exec_alloc_in(size_t size, unsigned long start, unsigned long end);
void djp_exec_free_in(void *mem, size_t size);
int djp_each_symbol(int (*fn)(void *data, const char *name, unsigned long addr),
		    void *data);
bool djp_kprobes_refuse_traps(void);
void djp_module_text(const struct module *mod, unsigned long *start,
		     unsigned long *end);
bool djp_module_data(const struct module *mod, int i, unsigned long *start,
		     unsigned long *end);
const struct static_call_site *
djp_module_static_calls(const struct module *mod,
			const struct static_call_site **end);
unsigned long djp_static_call_address(const struct static_call_site *site);

#endif /* _DJP_COMPAT_H */
