/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_X86_H
#define _DJP_X86_H

#include <linux/types.h>

#include "core/internal.h"

struct seq_file;

/* x86/textmap.c */
struct djp_textmap;

int djp_textmap_init(void);
void djp_textmap_exit(void);
struct djp_textmap *djp_textmap_get(unsigned long addr, struct module *mod);
void djp_textmap_drop(const struct module *mod);
unsigned long djp_textmap_end(const struct djp_textmap *map);
bool djp_textmap_insn(const struct djp_textmap *map, unsigned long addr);
unsigned long djp_textmap_target(const struct djp_textmap *map,
				 unsigned long start, unsigned long end);
void djp_textmap_show(struct seq_file *m);
int djp_decode(struct insn *insn, unsigned long addr, unsigned long end);

/* x86/int3_path.c */
int djp_int3_path_init(void);
void djp_int3_path_exit(void);
bool djp_on_int3_path(unsigned long addr);
void djp_int3_path_show(struct seq_file *m);

/* x86/check.c */
unsigned long djp_behind_ftrace(unsigned long addr, unsigned long *ftrace);
int djp_check_site(unsigned long addr, struct module *mod, struct djp_dcr *dcr,
		   struct djp_refusal *refusal);

/* x86/detour.c */
struct djp_detour *djp_detour_build(const struct djp_site *site,
				    struct djp_refusal *refusal);
void djp_detour_free(struct djp_detour *detour);
void djp_detours_exit(void);

/* x86/patch.c */

/**
 * struct djp_poke - a site's text, and what to make of it
 * @site: which
 * @expect: what must be there, else nothing is written; @site->dcr.len bytes
 * @int3: write the int3 first
 * @tail: then write bytes 1 to 4 of @text
 * @first: then write byte 0 of @text
 * @text: the new bytes
 * @foreign: set if @expect was not there
 */
struct djp_poke {
	struct djp_site	*site;
	u8		expect[DJP_DCR_MAX];
	bool		int3;
	bool		tail;
	bool		first;
	u8		text[DJP_JMP32_LEN];
	bool		foreign;
};

void djp_jump_text(const struct djp_site *site, const struct djp_detour *detour,
		   u8 *text);
void djp_site_text(const struct djp_site *site, u8 *text);
int djp_poke_all(struct djp_poke *pokes, int nr, bool all_or_nothing);

/* x86/trap.c */
int djp_trap_init(void);
void djp_trap_exit(void);
void djp_trap_add(struct djp_site *site);
void djp_trap_del(struct djp_site *site);
struct djp_site *djp_trap_find(unsigned long addr);
int djp_int3_notify(struct notifier_block *nb, unsigned long val, void *data);

/* x86/entry.S, x86/dispatch.c */
asmlinkage void djp_handler_entry(void);
asmlinkage void djp_dispatch(struct pt_regs *regs, unsigned long ret);

#endif /* _DJP_X86_H */
