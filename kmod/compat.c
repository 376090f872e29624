// SPDX-License-Identifier: GPL-2.0
#include <linux/kallsyms.h>
#include <linux/moduleloader.h>
#include <linux/notifier.h>
#include <linux/pgtable.h>
#include <linux/seq_file.h>
#include <linux/static_call_types.h>
#include <linux/vmalloc.h>

#ifdef CONFIG_EXECMEM	/* 12af2b83d0b1, v6.10 */
#include <linux/execmem.h>
#define DJP_EXECMEM_TYPE EXECMEM_MODULE_TEXT
#else
#define DJP_EXECMEM_TYPE 0
#endif

#include "compat.h"

/* f3 0f 1e fa */
#define DJP_ENDBR64	0xfa1e0ff3
#define DJP_ENDBR64_LEN	4

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
	/* It goes behind an endbr64, which an indirect call must meet. */
	if (*(u32 *)(kp.addr - DJP_ENDBR64_LEN) == DJP_ENDBR64)
		kp.addr -= DJP_ENDBR64_LEN;
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
 * with text_poke(), so that it is never writable and executable at once.
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

/* __vmalloc_node_range() became a macro in b951aaff5035 (v6.10). */
static void *djp_vmalloc_in(size_t size, unsigned long start, unsigned long end)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN;

	if (djp_k.__vmalloc_node_range)
		return djp_k.__vmalloc_node_range(size, PAGE_SIZE, start, end,
						  gfp, PAGE_KERNEL, 0,
						  NUMA_NO_NODE,
						  __builtin_return_address(0));
	if (djp_k.__vmalloc_node_range_noprof)
		return djp_k.__vmalloc_node_range_noprof(size, PAGE_SIZE, start,
							 end, gfp, PAGE_KERNEL,
							 0, NUMA_NO_NODE,
							 __builtin_return_address(0));
	return NULL;
}

/**
 * djp_exec_alloc_in() - memory for detours, in a range of addresses
 * @size: bytes, a multiple of the page size
 * @start: first address of the range
 * @end: one behind its last
 *
 * As djp_exec_alloc(), but to be freed with djp_exec_free_in(). Under KASAN there
 * is no shadow for addresses outside the module area, which text_poke() would
 * touch: nothing is offered.
 *
 * Context: may sleep.
 * Return: the memory, or NULL.
 */
void *djp_exec_alloc_in(size_t size, unsigned long start, unsigned long end)
{
	int pages = size >> PAGE_SHIFT;
	void *mem;

	if (IS_ENABLED(CONFIG_KASAN))
		return NULL;
	mem = djp_vmalloc_in(size, start, end);
	if (!mem)
		return NULL;
	memset(mem, 0xcc, size);
	if (djp_k.set_memory_ro((unsigned long)mem, pages) ||
	    djp_k.set_memory_x((unsigned long)mem, pages)) {
		djp_exec_free_in(mem, size);
		return NULL;
	}
	return mem;
}

/**
 * djp_exec_free_in() - give back what djp_exec_alloc_in() gave
 * @mem: the memory; nothing may be running in it
 * @size: as given to djp_exec_alloc_in()
 *
 * Context: may sleep.
 */
void djp_exec_free_in(void *mem, size_t size)
{
	int pages = size >> PAGE_SHIFT;

	djp_k.set_memory_nx((unsigned long)mem, pages);
	djp_k.set_memory_rw((unsigned long)mem, pages);
	vfree(mem);
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

/* What a callback of kallsyms_on_each_symbol() had before 3703bd54cd37, v6.4. */
typedef int (*djp_symbol_with_module_t)(void *data, const char *name,
					struct module *mod, unsigned long addr);
#define DJP_SYMBOL_WITH_MODULE \
	__builtin_types_compatible_p(typeof(kallsyms_on_each_symbol), \
				     int (djp_symbol_with_module_t, void *))

/**
 * struct djp_each - a callback for each symbol
 * @fn: the callback
 * @data: its argument
 */
struct djp_each {
	int	(*fn)(void *data, const char *name, unsigned long addr);
	void	*data;
};

static int djp_each_with_module(void *data, const char *name,
				struct module *mod, unsigned long addr)
{
	const struct djp_each *each = data;

	return each->fn(each->data, name, addr);
}

/**
 * djp_each_symbol() - for each symbol of the kernel
 * @fn: called with @data, the symbol's name and its address; not 0 ends it. It may be
 *	called for symbols of modules, too
 * @data: for @fn
 *
 * Context: may sleep.
 * Return: what @fn returned last.
 */
int djp_each_symbol(int (*fn)(void *data, const char *name, unsigned long addr),
		    void *data)
{
	struct djp_each each = { .fn = fn, .data = data };

	if (DJP_SYMBOL_WITH_MODULE)
		return djp_k.kallsyms_on_each_symbol(djp_each_with_module,
						     &each);
	return djp_k.kallsyms_on_each_symbol(fn, data);
}

/* Never called; there is a ud2 in it that is no bug entry. */
static __used notrace noinline void djp_trap(void)
{
	asm volatile("ud2");
	__builtin_unreachable();
}

/**
 * djp_kprobes_refuse_traps() - does register_kprobe() refuse int and ud?
 *
 * It does since e884edbb844f (v6.9), which no symbol tells of. So it is tried
 * out, once, with a ud2 that nothing executes.
 *
 * Context: may sleep. Takes kprobes' locks the first time.
 */
bool djp_kprobes_refuse_traps(void)
{
	static enum { UNKNOWN, TAKEN, REFUSED } traps;
	const u8 *text = (const u8 *)djp_trap;
	struct kprobe kp = {};

	if (traps == UNKNOWN) {
		/* There may be an endbr64 before it. */
		while (text[0] != 0x0f || text[1] != 0x0b)
			text++;
		kp.addr = (kprobe_opcode_t *)text;
		traps = REFUSED;
		if (!register_kprobe(&kp)) {
			unregister_kprobe(&kp);
			traps = TAKEN;
		}
	}
	return traps == REFUSED;
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

/**
 * djp_module_data() - a module's static data
 * @mod: the module
 * @i: which part, from 0
 * @start: its first byte
 * @end: one behind its last byte
 *
 * Return: false if there is no such part.
 */
bool djp_module_data(const struct module *mod, int i, unsigned long *start,
		     unsigned long *end)
{
#ifdef for_each_mod_mem_type	/* ac3b43283923, v6.4 */
	static const enum mod_mem_type types[] = {
		MOD_DATA, MOD_RODATA, MOD_RO_AFTER_INIT,
	};

	if (i >= ARRAY_SIZE(types))
		return false;
	*start = (unsigned long)mod->mem[types[i]].base;
	*end = *start + mod->mem[types[i]].size;
#else
	if (i)
		return false;
	*start = (unsigned long)mod->core_layout.base +
		mod->core_layout.text_size;
	*end = (unsigned long)mod->core_layout.base + mod->core_layout.size;
#endif
	return true;
}

/**
 * djp_module_static_calls() - a module's static call sites
 * @mod: the module
 * @end: one behind the last
 */
const struct static_call_site *
djp_module_static_calls(const struct module *mod,
			const struct static_call_site **end)
{
#ifdef CONFIG_HAVE_STATIC_CALL_INLINE
	*end = mod->static_call_sites + mod->num_static_call_sites;
	return mod->static_call_sites;
#else
	*end = NULL;
	return NULL;
#endif
}

/**
 * djp_static_call_address() - where a static call is
 * @site: the static call
 */
unsigned long djp_static_call_address(const struct static_call_site *site)
{
	return (unsigned long)&site->addr + site->addr;
}
