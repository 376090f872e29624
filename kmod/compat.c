// SPDX-License-Identifier: GPL-2.0
#include <linux/moduleloader.h>
#include <linux/notifier.h>
#include <linux/pgtable.h>
#include <linux/seq_file.h>
#include <linux/vmalloc.h>

#ifdef CONFIG_EXECMEM	/* 12af2b83d0b1, v6.10 */
#include <linux/execmem.h>
#define DJP_EXECMEM_TYPE EXECMEM_MODULE_TEXT
#else
#define DJP_EXECMEM_TYPE 0
#endif

#include "compat.h"

struct djp_kernel djp_k __ro_after_init;

static const struct {
	const char *name;
	void **where;
	bool required;
} djp_symbols[] = {
#define DJP_ROW(n, r) { .name = #n, .where = (void **)&djp_k.n, .required = r },
#define DJP_FUNCTION_REQ(ret, name, args) DJP_ROW(name, true)
#define DJP_FUNCTION_OPT(ret, name, args) DJP_ROW(name, false)
#define DJP_DATA_REQ(type, name) DJP_ROW(name, true)
#define DJP_DATA_OPT(type, name) DJP_ROW(name, false)
	DJP_KERNEL_FUNCTIONS(DJP_FUNCTION_REQ, DJP_FUNCTION_OPT)
	DJP_KERNEL_DATA(DJP_DATA_REQ, DJP_DATA_OPT)
};

/*
 * kallsyms_lookup_name() is not exported since 0bd476e6c671 (v5.7); a kprobe is
 * told its address.
 */
static int djp_find_lookup_name(void)
{
	struct kprobe kp = { .symbol_name = "kallsyms_lookup_name" };
	int ret;

	ret = register_kprobe(&kp);
	if (ret) {
		pr_err("can't put a kprobe on kallsyms_lookup_name (%d); is CONFIG_KPROBES on and lockdown off?\n",
		       ret);
		return ret;
	}
	djp_k.lookup_name = (void *)kp.addr;
	unregister_kprobe(&kp);
	return 0;
}

/**
 * djp_compat_init() - look up every symbol that the module uses unexported
 *
 * Context: module load, may sleep.
 * Return: 0, or -ENOENT after each missing symbol was named in the log.
 */
int __init djp_compat_init(void)
{
	int missing = 0;
	int ret;
	int i;

	ret = djp_find_lookup_name();
	if (ret)
		return ret;

	for (i = 0; i < ARRAY_SIZE(djp_symbols); i++) {
		*djp_symbols[i].where =
			(void *)djp_k.lookup_name(djp_symbols[i].name);
		if (*djp_symbols[i].where || !djp_symbols[i].required)
			continue;
		pr_err("this kernel has no %s, which djprobes needs\n",
		       djp_symbols[i].name);
		missing++;
	}
	/* Renamed by 0e67e587dd16 (v6.16). */
	if (!djp_k.text_poke_sync && !djp_k.smp_text_poke_sync_each_cpu) {
		pr_err("this kernel has neither text_poke_sync nor smp_text_poke_sync_each_cpu\n");
		missing++;
	}
	if (!djp_k.module_alloc && !djp_k.execmem_alloc) {
		pr_err("this kernel has neither module_alloc nor execmem_alloc\n");
		missing++;
	}
	return missing ? -ENOENT : 0;
}

/**
 * djp_compat_show() - list the symbols, for debugfs' features file
 * @m: where to
 */
void djp_compat_show(struct seq_file *m)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(djp_symbols); i++)
		seq_printf(m, "symbol %s %s\n", djp_symbols[i].name,
			   *djp_symbols[i].where ? "yes" : "no");
}

/**
 * djp_text_sync() - make every CPU see text that was written before
 *
 * An IPI to all CPUs, each of which serialises. When it returns, no CPU is
 * still handling an int3 that was taken before the call: that handler runs with
 * interrupts off.
 *
 * Context: task, interrupts on.
 */
void djp_text_sync(void)
{
	if (djp_k.text_poke_sync)
		djp_k.text_poke_sync();
	else
		djp_k.smp_text_poke_sync_each_cpu();
}

/**
 * djp_exec_alloc() - memory for detours, within reach of kernel and modules
 * @size: bytes, a multiple of the page size
 *
 * The memory comes filled with int3, read-only and executable; it is written
 * with text_poke_copy(), so that it is never writable and executable at once.
 *
 * Context: may sleep.
 * Return: the memory, to be freed with djp_exec_free(), or NULL.
 */
void *djp_exec_alloc(size_t size)
{
	int pages = size >> PAGE_SHIFT;
	void *mem;

	if (djp_k.execmem_alloc)
		mem = djp_k.execmem_alloc(DJP_EXECMEM_TYPE, size);
	else
		mem = djp_k.module_alloc(size);
	if (!mem)
		return NULL;

	/*
	 * Where ARCH_HAS_EXECMEM_ROX is on (2e45474ab14f, v6.13) the memory is
	 * read-only, executable and filled with traps already.
	 */
#ifndef CONFIG_ARCH_HAS_EXECMEM_ROX
	memset(mem, 0xcc, size);
	if (djp_k.set_memory_ro((unsigned long)mem, pages) ||
	    djp_k.set_memory_x((unsigned long)mem, pages)) {
		djp_exec_free(mem, size);
		return NULL;
	}
#endif
	return mem;
}

/**
 * djp_exec_free() - give back what djp_exec_alloc() gave
 * @mem: the memory; nothing may be running in it
 * @size: as given to djp_exec_alloc()
 *
 * Context: may sleep.
 */
void djp_exec_free(void *mem, size_t size)
{
#ifndef CONFIG_ARCH_HAS_EXECMEM_ROX
	int pages = size >> PAGE_SHIFT;

	djp_k.set_memory_nx((unsigned long)mem, pages);
	djp_k.set_memory_rw((unsigned long)mem, pages);
#endif
	if (djp_k.execmem_free)
		djp_k.execmem_free(mem);
	else if (djp_k.module_memfree)
		djp_k.module_memfree(mem);
	else
		vfree(mem);
}

/**
 * djp_module_text() - a module's text that stays after its init
 * @mod: the module
 * @start: its first byte
 * @end: one behind its last byte
 */
void djp_module_text(const struct module *mod, unsigned long *start,
		     unsigned long *end)
{
#ifdef for_each_mod_mem_type	/* ac3b43283923, v6.4 */
	*start = (unsigned long)mod->mem[MOD_TEXT].base;
	*end = *start + mod->mem[MOD_TEXT].size;
#else
	*start = (unsigned long)mod->core_layout.base;
	*end = *start + mod->core_layout.text_size;
#endif
}
