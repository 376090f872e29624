/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_X86_H
#define _DJP_X86_H

#include <linux/percpu.h>
#include <linux/types.h>

#include "core/internal.h"

struct seq_file;

/* x86/textmap.c */
struct djp_textmap;

int djp_textmap_init(void);
void djp_textmap_add_all(void);
void djp_textmap_exit(void);
struct djp_textmap *djp_textmap_get(const struct module *mod);
struct djp_textmap *djp_textmap_next(struct djp_textmap *map);
void djp_textmap_drop(const struct module *mod);
unsigned int djp_textmap_id(const struct djp_textmap *map);
const struct module *djp_textmap_mod(const struct djp_textmap *map);
unsigned long djp_textmap_start(const struct djp_textmap *map);
unsigned long djp_textmap_size(const struct djp_textmap *map);
bool djp_textmap_has(const struct djp_textmap *map, unsigned long addr);
unsigned long djp_textmap_end(const struct djp_textmap *map);
bool djp_textmap_smp_lock(const struct djp_textmap *map, unsigned long start,
			  unsigned long end);
bool djp_textmap_insn(const struct djp_textmap *map, unsigned long addr);
unsigned long djp_textmap_target(const struct djp_textmap *map,
				 unsigned long start, unsigned long end);
enum djp_reason djp_textmap_reserved(const struct djp_textmap *map,
				     unsigned long start, unsigned long end,
				     unsigned long *where);
void djp_textmap_show(struct seq_file *m);

/* x86/int3_path.c */
int djp_int3_path_init(void);
void djp_int3_path_exit(void);
bool djp_on_int3_path(unsigned long addr);
void djp_int3_path_show(struct seq_file *m);

/* x86/functions.c */

/**
 * struct djp_function - a function of the kernel
 * @start: its first byte
 * @end: one behind its last
 * @ftrace: the ftrace site in it, the only one; or 0
 * @plain: its name has no dot
 */
struct djp_function {
	unsigned long	start;
	unsigned long	end;
	unsigned long	ftrace;
	bool		plain;
};

bool djp_function_find(unsigned long addr, struct djp_function *fn);
bool djp_may_fault(unsigned long addr);

/* x86/known.c */
void djp_known_init(void);
void djp_known_exit(void);
int djp_known_take(void *data);
void djp_known_drop(void);
void djp_known_stale(void);
void djp_kprobes_take(void);
void djp_kprobes_drop(void);
bool djp_kprobes_none(unsigned long start, unsigned long end);
bool djp_is_blacklisted(unsigned long addr, bool plain);

/* x86/branch.c */
void djp_find_source(unsigned long to, struct djp_source *source);

/* x86/opcode.c */
int djp_decode(struct insn *insn, unsigned long addr, unsigned long end);
enum djp_reason djp_displace(const struct insn *insn, struct djp_insn *d);
unsigned long djp_branch_target(unsigned long addr, const u8 *text,
				const struct djp_insn *d);
bool djp_insn_refers(const struct djp_dcr *dcr, const struct djp_insn *d,
		     unsigned long *to);
bool djp_is_nop(const struct insn *insn);

/* x86/check.c */

/**
 * struct djp_place - what is known of a function
 * @map: the map that it is in
 * @start: its first byte
 * @end: one behind its last
 * @ftrace: its ftrace site, or 0
 * @bar: why nothing can stand anywhere in it, or DJP_OK
 */
struct djp_place {
	struct djp_textmap	*map;
	unsigned long		start;
	unsigned long		end;
	unsigned long		ftrace;
	enum djp_reason		bar;
};

unsigned long djp_behind_ftrace(unsigned long addr, unsigned long *ftrace);
void djp_place_find(struct djp_place *place, unsigned long addr,
		    const struct module *mod);
enum djprobe_method djp_judge(const struct djp_place *place, unsigned long addr,
			      struct djp_dcr *dcr, struct djp_verdict *v);
void djp_check_site(unsigned long addr, const struct module *mod,
		    enum djprobe_method want, struct djp_dcr *dcr,
		    struct djp_verdict *v);
void djp_verdict_demote(struct djp_dcr *dcr, struct djp_verdict *v);
unsigned long djp_kprobe_in(unsigned long start, unsigned long end);
unsigned long djp_kprobe_near(unsigned long addr, unsigned int len);

/* x86/liveness.c */
void djp_steps_keep(void);
void djp_steps_drop(void);
u8 djp_live_flags(const struct djp_place *place, unsigned long addr,
		  unsigned long *by);

/* x86/calm.c */
bool djp_is_calm(const struct djp_place *place);

/* x86/slots.c */
bool djp_slot_possible(const struct djp_dcr *dcr);
unsigned long djp_slot_alloc(struct djp_slot *slot, const struct djp_dcr *dcr,
			     size_t header, size_t len, bool calls);
void djp_slot_free(const struct djp_slot *slot);
void djp_slots_exit(void);

/* x86/detour.c */

struct djp_detour *djp_detour_build(const struct djp_site *site,
				    struct djp_refusal *refusal);
const u8 *djp_detour_bytes(const struct djp_detour *detour);
void djp_detour_put(struct djp_detour *detour);
void djp_detour_scrub(const struct djp_detour *detour);
void djp_detour_silence(struct djp_detour *detour);
void djp_detour_free(struct djp_detour *detour);
void djp_detours_exit(void);

/* x86/patch.c */

/* How long others may keep us from writing text. */
#define DJP_TEXT_PATIENCE (5 * HZ)

/**
 * struct djp_poke - a site's text, and what to make of it
 * @site: which
 * @expect: what must be there, else nothing is written; @site->dcr.len bytes
 * @int3: write the int3s first: at byte 0 and at those of @site->dcr.traps
 * @tail: then write so many bytes of @text from byte 1 on, but for the traps
 * @first: then write byte 0 of @text, and the traps
 * @unban: then let kprobes into the DCR again
 * @recheck: it was put in a moment ago: is it alone?
 * @withdraw: take it out again, whoever has come meanwhile
 * @text: the new bytes
 * @foreign: set if @expect was not there
 */
struct djp_poke {
	struct djp_site	*site;
	u8		expect[DJP_DCR_MAX];
	bool		int3;
	u8		tail;
	bool		first;
	bool		unban;
	bool		recheck;
	bool		withdraw;
	u8		text[DJP_DCR_MAX];
	bool		foreign;
};

void djp_jump_text(const struct djp_site *site, const struct djp_detour *detour,
		   u8 *text);
void djp_bypass_text(const struct djp_site *site, u8 *text);
void djp_site_text(const struct djp_site *site, u8 *text);
void djp_text_put(unsigned long to, const u8 *bytes, size_t len);
void djp_text_flush(void);
void djp_text_queue(struct work_struct *work);
int djp_text_do(int (*fn)(void *data), void *data, long patience);
int djp_poke_all(struct djp_poke *pokes, int nr, bool all_or_nothing,
		 long patience);
int djp_patch_init(void);
void djp_patch_exit(void);
const char *djp_text_owner(const struct djp_poke *poke, unsigned long *addr);

/* x86/ban.c */
int djp_ban_alloc(struct djp_site *site);
void djp_ban_set(struct djp_site *site);
int djp_ban_settle(void);
void djp_ban_lift(struct djp_site *site, bool locked);
bool djp_ban_is(const struct kprobe_blacklist_entry *entry);
void djp_bans_exit(void);

/* x86/trap.c */
int djp_trap_init(void);
void djp_trap_exit(void);
void djp_trap_add(struct djp_site *site);
void djp_trap_del(struct djp_site *site);
struct djp_site *djp_trap_find(unsigned long addr);
struct djp_site *djp_trap_next(unsigned long start, unsigned long end);
int djp_strays_alloc(struct djp_site *site);
void djp_strays_enter(struct djp_site *site, const struct djp_detour *detour);
int djp_int3_notify(struct notifier_block *nb, unsigned long val, void *data);

/* x86/entry.S, x86/dispatch.c */
struct djp_begun;

enum djp_entry {
	DJP_ENTRY_HANDLER,
	DJP_ENTRY_HANDLER_CALM,
	DJP_ENTRY_READER,
	DJP_ENTRY_READER_CALM,
	DJP_ENTRY_ACTIONS,
	DJP_ENTRY_MAP,
	DJP_ENTRY_MAP_CALM,
};

asmlinkage void djp_handler_entry(void);
asmlinkage void djp_handler_entry_calm(void);
asmlinkage void djp_reader_entry(void);
asmlinkage void djp_reader_entry_calm(void);
asmlinkage void djp_actions_entry(void);
asmlinkage void djp_map_entry(void);
asmlinkage void djp_map_entry_calm(void);
extern const u8 djp_entries_end[];
extern struct djprobe djp_nobody;
DECLARE_PER_CPU(unsigned long, djp_running);
bool djp_is_handler_entry(unsigned long addr);
unsigned long djp_entry_address(enum djp_entry entry);
asmlinkage void djp_dispatch(struct pt_regs *regs, unsigned long ret);
asmlinkage void djp_dispatch_nested(const struct djp_begun *begun,
				    struct pt_regs *regs);
asmlinkage void djp_call_handler(struct djprobe *p, struct pt_regs *regs);
asmlinkage void djp_resched(void);
void djp_run_actions(const struct djp_detour *detour, struct pt_regs *regs,
		     bool count_all);

/* No handler is called any more; those that run may go on until synchronize_rcu(). */
static inline void djp_silence(struct djp_action *action)
{
	if (action->handler_of)
		WRITE_ONCE(action->handler_of, &djp_nobody);
}

#endif /* _DJP_X86_H */
