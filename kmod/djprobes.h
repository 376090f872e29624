/* SPDX-License-Identifier: GPL-2.0 */
/*
 * djprobes: direct-jump probes.
 *
 * The interface for other kernel modules. It follows kprobes: fill in a
 * struct djprobe, register it, unregister it. A registered probe fires at once,
 * through an int3; commit_djprobes() turns that into a 5-byte jump, for all
 * probes that wait for it, with one quiescence.
 */
#ifndef _DJPROBES_H
#define _DJPROBES_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/ptrace.h>
#include <linux/types.h>

struct djprobe;
struct djp_counter;
struct djp_options;
struct djp_site;

/**
 * typedef djprobe_handler_t - called when a probed instruction is reached
 * @p: the probe
 * @regs: registers as they were at the probed instruction; @regs->ip is its
 *	address. Changes to general registers and to status flags that are read
 *	before they are written again take effect, without DJPROBE_FLAG_READ_ONLY;
 *	other changes do not.
 *
 * Context: that of the probed code (task, softirq, hardirq or NMI), with
 * preemption disabled. Must not sleep and must not use the FPU. If the handler
 * reaches its own probe in the same context, that hit is refused and counted
 * in @p->missed.
 */
typedef void (*djprobe_handler_t)(struct djprobe *p, struct pt_regs *regs);

/* The probe is out of the kernel text, and its count stands still. */
#define DJPROBE_FLAG_DISABLED	0x1
/* The module it was in is gone. Only unregister_djprobe() is left to do. */
#define DJPROBE_FLAG_GONE	0x2
/* The handler only reads its pt_regs: what it changes there may be lost. It is cheaper. */
#define DJPROBE_FLAG_READ_ONLY	0x4

/**
 * enum djprobe_method - how a probe takes control
 * @DJPROBE_ANY: the best that the address allows
 * @DJPROBE_JUMP: a jump
 * @DJPROBE_JUMP_INT3: a jump with int3s among its bytes, where something else
 *	branches in
 * @DJPROBE_INT3: an int3, which sends the CPU to a detour
 * @DJPROBE_KPROBE: the kernel's own kprobe
 */
enum djprobe_method {
	DJPROBE_ANY,
	DJPROBE_JUMP,
	DJPROBE_JUMP_INT3,
	DJPROBE_INT3,
	DJPROBE_KPROBE,
	DJPROBE_NR_METHODS
};

/**
 * struct djprobe - one probe
 * @symbol_name: "SYM" or "MOD:SYM"; NULL if @addr is given
 * @offset: bytes from the symbol
 * @addr: where to probe; filled in if @symbol_name was given. At an ftrace site
 *	this moves behind the site's 5 bytes
 * @handler: NULL to do no more than count
 * @flags: DJPROBE_FLAG_*. DISABLED and READ_ONLY may be set before registering
 * @method: the only one that will do, or DJPROBE_ANY
 * @missed: handler calls that were refused as recursion
 * @name: private
 * @site: private
 * @options: private
 * @counter: private
 * @site_node: private
 * @node: private
 *
 * The caller owns the memory. It must stay until unregister_djprobe() returns
 * 0, with @symbol_name valid until register_djprobe() returns.
 */
struct djprobe {
	const char		*symbol_name;
	unsigned long		offset;
	void			*addr;
	djprobe_handler_t	handler;
	unsigned int		flags;
	enum djprobe_method	method;
	atomic_long_t		missed;

	const char		*name;
	struct djp_site		*site;
	const struct djp_options *options;
	struct djp_counter	*counter;
	struct list_head	site_node;
	struct list_head	node;
};

int register_djprobe(struct djprobe *p);
int register_djprobes(struct djprobe **ps, int num);
int unregister_djprobe(struct djprobe *p);
int unregister_djprobes(struct djprobe **ps, int num);
int enable_djprobe(struct djprobe *p);
int disable_djprobe(struct djprobe *p);
int commit_djprobes(void);
u64 djprobe_hits(const struct djprobe *p);

#endif /* _DJPROBES_H */
