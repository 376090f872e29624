/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Judging every instruction there is.
 */
#ifndef _DJP_CENSUS_H
#define _DJP_CENSUS_H

#include <linux/module.h>
#include <linux/types.h>

#include "core/internal.h"
#include "x86/mainline.h"

/* djp_judgement.flags; and DJP_PEER_* */
#define DJP_IS_PADDING	0x01	/* nothing reaches it */
#define DJP_IS_TARGET	0x02	/* something branches to it */
#define DJP_IS_FTRACE	0x10	/* a probe moves behind the ftrace site here */
#define DJP_INC_FREE	0x20	/* of the status flags nobody reads any but CF */
#define DJP_CF_FREE	0x40	/* nobody reads CF */

/**
 * struct djp_judgement - what was found of one instruction
 * @addr: where it is
 * @insn: the instruction itself
 * @text: its original bytes
 * @dcr: what a probe displaces
 * @verdict: what can stand there; a kprobe only if the kernel takes one
 * @flags: DJP_IS_*, DJP_PEER_*
 */
struct djp_judgement {
	unsigned long		addr;
	struct djp_insn		insn;
	u8			text[MAX_INSN_SIZE];
	struct djp_dcr		dcr;
	struct djp_verdict	verdict;
	u8			flags;
};

/**
 * struct djp_cursor - how far a census is
 * @name: the part that it is in: "kernel", or a module
 * @start: where that part's text starts
 * @end: one behind its end
 * @addr: the next address
 * @id: which part; 0 before the first
 * @done: bytes of text judged
 * @total: bytes of text that there were when it began
 * @mainline: the kernel's rules for the function at hand
 */
struct djp_cursor {
	char			name[MODULE_NAME_LEN];
	unsigned long		start;
	unsigned long		end;
	unsigned long		addr;
	unsigned int		id;
	unsigned long		done;
	unsigned long		total;
	struct djp_mainline	mainline;
};

typedef void (*djp_judged_t)(void *data, const struct djp_judgement *j);

void djp_cursor_init(struct djp_cursor *c);
void djp_cursor_exit(struct djp_cursor *c);
int djp_census_step(struct djp_cursor *c, djp_judged_t judged, void *data);

#endif /* _DJP_CENSUS_H */
