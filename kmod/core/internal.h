/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_INTERNAL_H
#define _DJP_INTERNAL_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/types.h>

#include "actions/actions.h"
#include "compat.h"
#include "core/reasons.h"
#include "djprobes.h"

#define DJP_INT3	0xcc
#define DJP_JMP32	0xe9
#define DJP_NOP		0x90
#define DJP_JMP32_LEN	5

/* A region ends with the instruction that holds its fifth byte. */
#define DJP_DCR_MAX	(DJP_JMP32_LEN - 1 + MAX_INSN_SIZE)

/**
 * struct djp_refusal - why something was refused
 * @reason: DJP_OK if it was not
 * @offending: the address that stands in the way, or 0
 * @index: which element of the array that was passed in
 * @owner: whose the bytes are that stand there; NULL if that is not the matter
 */
struct djp_refusal {
	enum djp_reason	reason;
	unsigned long	offending;
	int		index;
	const char	*owner;
};

static inline int djp_refuse(struct djp_refusal *r, enum djp_reason reason,
			     unsigned long offending)
{
	r->reason = reason;
	r->offending = offending;
	return djp_reason_errno(reason);
}

/**
 * struct djp_verdict - what can stand at an address
 * @offending: the address that stands in the way of a plain jump, or 0
 * @method: how it is probed, an enum djprobe_method; DJPROBE_ANY if it can't be
 * @why: why it does not take a plain jump, an enum djp_reason; DJP_OK if it does
 */
struct djp_verdict {
	unsigned long	offending;
	u8		method;
	u8		why;
};

/* What makes an address a branch target. */
enum djp_source_kind {
	DJP_SOURCE_NONE,
	DJP_SOURCE_BRANCH,	/* a jump */
	DJP_SOURCE_CALL,
	DJP_SOURCE_ADDRESS,	/* an instruction holds it */
	DJP_SOURCE_JUMP_LABEL,
	DJP_SOURCE_FIXUP,	/* of an instruction that may fault */
	DJP_SOURCE_SYMBOL,
	DJP_SOURCE_DATA,	/* it stands in static data */
	DJP_SOURCE_INDIRECT_JUMP,	/* that may go to anywhere in the function */
	DJP_NR_SOURCES
};

/**
 * struct djp_source - what makes an address a branch target
 * @kind: in which way
 * @addr: the instruction, or the data
 */
struct djp_source {
	enum djp_source_kind	kind;
	unsigned long		addr;
};

/* How a displaced instruction is made to do the same in the detour. */
enum djp_relocation {
	DJP_COPY,		/* as it is */
	DJP_RIP,		/* its RIP-relative displacement is moved */
	DJP_JCC,		/* a conditional jump, made near */
	DJP_JMP,		/* a jump, made near; ends the region */
	DJP_LOOP,		/* loop, jrcxz: over a near jump */
	DJP_CALL,		/* the original return address is pushed, then a jump */
	DJP_CALL_INDIRECT,	/* the same with a register or memory */
	DJP_END,		/* ret, indirect jump: as it is; ends the region */
	DJP_NR_RELOCATIONS
};

/**
 * struct djp_insn - a displaced instruction
 * @off: where it starts, in bytes from the insertion address
 * @len: its length
 * @op: where its opcode is, in bytes from its start
 * @disp: where its RIP-relative disp32 is, in bytes from its start; 0 if none
 * @relocation: how it is displaced, an enum djp_relocation
 */
struct djp_insn {
	u8	off;
	u8	len;
	u8	op;
	u8	disp;
	u8	relocation;
};

/**
 * struct djp_dcr - a detoured code region and what is known of it
 * @addr: the insertion address
 * @len: bytes; DJP_JMP32_LEN to DJP_DCR_MAX under a jump, else one instruction
 * @nr_insns: how many instructions; padding that nothing reaches is not counted
 * @traps: bit k: control comes in at byte k too, and an int3 stands there
 * @live: status flags that may be read from here on, DJP_FLAG_*
 * @calm: AC and DF are clear here
 * @insns: the instructions
 * @text: the original bytes
 */
struct djp_dcr {
	unsigned long	addr;
	u8		len;
	u8		nr_insns;
	u8		traps;
	u8		live;
	bool		calm;
	struct djp_insn	insns[DJP_JMP32_LEN];
	u8		text[DJP_DCR_MAX];
};

/*
 * The offsets of a DCR's traps. Most have none. Nothing is called: where all functions are
 * probed that would be an int3 for each site of the update.
 */
#define djp_for_each_trap(k, traps)					\
	for ((k) = 1; (traps) >> (k); (k)++)				\
		if (!((traps) & BIT(k))) {} else

/* Does control never come behind it? */
static inline bool djp_ends_region(const struct djp_insn *insn)
{
	return insn->relocation == DJP_JMP || insn->relocation == DJP_END;
}

/**
 * struct djp_action - what a detour does for one probe
 * @counter: incremented at each hit
 * @handler_of: the probe whose handler is called, or NULL if it has none; djp_nobody
 *	once the probe is on its way out. Read with preemption disabled
 */
struct djp_action {
	struct djp_counter	*counter;
	struct djprobe		*handler_of;
};

/**
 * struct djp_slot - memory for a detour
 * @addr: its start
 * @size: bytes
 */
struct djp_slot {
	unsigned long	addr;
	u16		size;
} __packed __aligned(2);

/**
 * struct djp_detour - out-of-line code for one site, never changed once written
 *
 * That of a site with a kprobe has no code: it is the list of actions. There is one for
 * each site: what can be smaller is.
 *
 * @code: its code, with what stands before @text, as long as that is not in @slot
 * @retired_node: on the list of retired detours: it is in @slot, then
 * @text: its first instruction
 * @addr: the insertion address
 * @seq: djp_sequence of when it was retired
 * @retired_at: when, in jiffies, as far as they fit
 * @slot: its memory; none if @slot.addr is 0
 * @size: bytes of the code
 * @len: bytes from @text on
 * @insns: where each displaced instruction begins, in bytes from @text
 * @offs: where each does in the text, in bytes from @addr; the jump back counts as one
 * @nr_insns: how many
 * @dcr_len: bytes of the DCR: behind it is where it goes back to
 * @nr_actions: length of @actions
 */
struct djp_detour {
	union {
		u8			*code;
		struct list_head	retired_node;
	};
	unsigned long		text;
	unsigned long		addr;
	u64			seq;
	u32			retired_at;
	struct djp_slot		slot;
	u16			size;
	u16			len;
	u16			insns[DJP_JMP32_LEN + 1];
	u8			offs[DJP_JMP32_LEN + 1];
	u8			nr_insns;
	u8			dcr_len;
	u16			nr_actions;
	struct djp_action	actions[] __counted_by(nr_actions);
};

/**
 * struct djp_stray - an int3 among the bytes of a jump
 * @hash: by address, for the int3 handler (RCU)
 * @addr: where it is
 * @entry: the same instruction in the detour; 0 if there is none
 */
struct djp_stray {
	struct hlist_node	hash;
	unsigned long		addr;
	unsigned long		entry;
};

struct djp_kprobe;

/* See the top of core/site.c. */
enum djp_state {
	DJP_NEW,
	DJP_BYPASS,
	DJP_JUMP,
};

/**
 * struct djp_site - an insertion address and the probes that share it
 * @hash: by address, for the int3 handler (RCU) and for look-ups
 * @node: on djp_waiting or djp_sites
 * @probes: struct djprobe.site_node of all its probes, disabled ones too
 * @dcr: what it displaces
 * @verdict: how, and why not by a plain jump
 * @state: where it is in its life, an enum djp_state
 * @deferred: the last commit left it in DJP_BYPASS
 * @strays: one for each bit of @dcr.traps, or NULL
 * @kprobe: for method DJPROBE_KPROBE, while it is in use
 * @ban: on kprobes' blacklist from before its bypass until its text is restored
 * @detour: what is in the text now; NULL in DJP_NEW
 * @entry: @detour's first instruction, for the int3 handler
 * @seq: djp_sequence of when it left DJP_NEW
 * @mod: the module that the address is in, or NULL
 * @next: the detour that an update is putting in
 * @touched: on the current update's list
 * @rcu: to free it
 */
struct djp_site {
	struct hlist_node	hash;
	struct list_head	node;
	struct list_head	probes;
	struct djp_dcr		dcr;
	struct djp_verdict	verdict;
	u8			state;
	bool			deferred;
	struct djp_stray	*strays;
	struct djp_kprobe	*kprobe;
	struct djp_ban		*ban;
	struct djp_detour	*detour;
	unsigned long		entry;
	u64			seq;
	struct module		*mod;
	struct djp_detour	*next;
	union {
		struct list_head	touched;
		struct rcu_head		rcu;
	};
};

static inline bool djp_by_jump(const struct djp_site *site)
{
	return site->verdict.method == DJPROBE_JUMP ||
		site->verdict.method == DJPROBE_JUMP_INT3;
}

/* In bypass, and a jump will follow. An int3 of its own right stays one. */
static inline bool djp_awaits_jump(const struct djp_site *site)
{
	return site->state == DJP_BYPASS && djp_by_jump(site);
}

/* Private bits of struct djprobe.flags. */
#define DJP_PROBE_LEAVING	0x100	/* an update is removing it */
#define DJP_PROBE_REGISTERED	0x200
#define DJP_PROBE_SPENT		0x400	/* it was for one hit, which has been */

/* Is it in its site's detour? A soft one is there when it is disabled, too. */
static inline bool djp_in_detour(const struct djprobe *p)
{
	if (p->flags & (DJP_PROBE_LEAVING | DJP_PROBE_SPENT))
		return false;
	return !(p->flags & DJPROBE_FLAG_DISABLED) || djp_is_soft(p->counter);
}

enum djp_change {
	DJP_ADD,
	DJP_REMOVE,
	DJP_ENABLE,
	DJP_DISABLE,
	DJP_SPEND,	/* as DJP_DISABLE: it has had its one hit */
};

/**
 * struct djp_update - one thing to do to one probe
 * @probe: which
 * @change: what
 * @rearmed: it was spent before
 */
struct djp_update {
	struct djprobe	*probe;
	enum djp_change	change;
	bool		rearmed;
};

/**
 * struct djp_stats - what debugfs' stats file shows; djp_mutex guards it
 *
 * Times are in nanoseconds, sizes in bytes; docs/debugfs.md explains each.
 */
struct djp_stats {
	unsigned long	probes;
	unsigned long	sites;
	unsigned long	sites_jump;
	unsigned long	commits;
	unsigned long	commits_partial;
	unsigned long	patched;
	unsigned long	deferred;
	unsigned long	retries;
	u64		last_stop_ns;
	u64		max_stop_ns;
	u64		last_quiescence_ns;
	unsigned long	last_tasks;
	unsigned long	last_words;
	unsigned long	detour_bytes_live;
	unsigned long	detour_bytes_retired;
	unsigned long	detours_reclaimed;
	unsigned long	detour_bytes_mapped;
	unsigned long	detours_retired;
	unsigned long	tasks_moved;
	u64		last_commit_ns;
	unsigned long	once;
};

/*
 * Lock order: djp_commit_mutex, djp_mutex, then the kernel's cpu_hotplug_lock
 * and text_mutex.
 *
 * djp_commit_mutex is held while the freezer runs, so a user task must wait for
 * it interruptibly: a task in uninterruptible sleep can't be frozen, and the
 * freezer would wait for it in turn. djp_mutex is never held across freezing.
 */
extern struct mutex djp_commit_mutex;
extern struct mutex djp_mutex;
extern u64 djp_sequence;
extern u64 djp_generation;
extern struct djp_stats djp_stats;
/* Those that wait for their jump, and all others. */
extern struct list_head djp_waiting;
extern struct list_head djp_sites;
extern struct list_head djp_probes;
extern atomic_long_t djp_recursion_missed;

/* core/api.c */
int djp_lock_freezable(struct mutex *lock);

/* core/site.c */
struct djp_site *djp_site_find(unsigned long addr);
struct djp_site *djp_site_overlap(unsigned long addr, unsigned int len);
void djp_sites_exit(void);
void djp_site_file(struct djp_site *site);
int djp_probe_attach(struct djprobe *p, struct djp_refusal *refusal);
void djp_probe_detach(struct djprobe *p);
void djp_site_drop_if_empty(struct djp_site *site);
bool djp_is_ours(unsigned long addr);
void djp_original_text(unsigned long addr, u8 *buf, unsigned int len);
int djp_pin_module(unsigned long addr, struct module **mod,
		   struct djp_refusal *refusal);
void djp_unpin_module(struct module *mod);

/* core/update.c */
int djp_update_locked(struct djp_update *updates, int nr,
		      struct djp_refusal *refusal);
void djp_module_gone(const struct module *mod);

/* core/explain.c */

/**
 * struct djp_explanation - what there is to say of an address
 * @addr: the address; behind the ftrace site, if it was at one
 * @ftrace: that site, or 0
 * @dcr: what is displaced, as far as was found out
 * @verdict: what can stand there
 * @source: what makes @verdict.offending a branch target
 * @state: "-" if it is not probed
 * @flags_by: the first instruction that may read a flag, or 0
 * @live: what is in the text of the DCR once a detour is in use
 * @detour: where the detour is, or would be; 0 if there is none
 * @len: its length
 * @insns: where each displaced instruction begins in it
 * @text: its bytes
 */
struct djp_explanation {
	unsigned long		addr;
	unsigned long		ftrace;
	struct djp_dcr		dcr;
	struct djp_verdict	verdict;
	struct djp_source	source;
	const char		*state;
	unsigned long		flags_by;
	u8			live[DJP_DCR_MAX];
	unsigned long		detour;
	size_t			len;
	u16			insns[DJP_JMP32_LEN];
	u8			text[384];
};

void djp_explain(unsigned long addr, const struct djp_options *options,
		 struct djp_explanation *x);
const char *djp_method_name(enum djprobe_method method);
const char *djp_source_name(enum djp_source_kind kind);
const char *djp_state_name(const struct djp_site *site);

/* core/kprobe.c */
int djp_kprobe_arm(struct djp_site *site, struct djp_refusal *refusal);
void djp_kprobe_disarm(struct djp_kprobe *kprobe);
unsigned long djp_kprobe_missed(const struct djp_site *site);

/* core/commit.c */
struct djp_blocker;

enum djp_commit_kind {
	DJP_COMMIT,	/* a user's: until every jump is in, or the deadline */
	DJP_RECLAIM,	/* a user's: and every retired detour is freed */
	DJP_SWEEP,	/* one look, and nobody is disturbed */
};

int djp_commit_locked(enum djp_commit_kind kind);
unsigned int djp_blockers(const struct djp_blocker **blockers);
void djp_sweep_soon(void);
void djp_commit_exit(void);

/* core/retire.c */
struct list_head *djp_retired_list(void);
long djp_retired_due(void);
void djp_retire(struct djp_detour *detour);
void djp_reclaim(struct list_head *detours, long patience);
void djp_retired_silence(void);

/* core/resolve.c */

/**
 * struct djp_lookup - a symbol and an offset, and the address that they stand for
 * @symbol: "SYM" or "MOD:SYM"
 * @offset: bytes from there; less than the symbol's size
 * @addr: the address; 0 if it was refused
 * @refusal: why it was; DJP_OK if not
 */
struct djp_lookup {
	const char		*symbol;
	unsigned long		offset;
	unsigned long		addr;
	struct djp_refusal	refusal;
};

void djp_resolve_all(struct djp_lookup *lookups, int nr);
void djp_symbolize(unsigned long addr, char *buf, size_t len);
int djp_resolve(const char *symbol, unsigned long offset, unsigned long *addr,
		struct djp_refusal *refusal);

/* core/once.c */
void djp_once_settle(void);

#endif /* _DJP_INTERNAL_H */
