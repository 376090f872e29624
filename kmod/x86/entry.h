/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What x86/entry.S has to know of the rest, and the rest of it. Offsets are checked in
 * x86/dispatch.c.
 */
#ifndef _DJP_ENTRY_H
#define _DJP_ENTRY_H

/*
 * From the return address in a detour back to its pointer to its struct djp_detour, which
 * stands before its first instruction: 8 bytes and those up to the call, see
 * djp_emit_call().
 */
#define DJP_RET_TO_HEADER	(8 + 17)
/* With the increment of a counter among them. */
#define DJP_RET_TO_HEADER_ONE	(8 + 26)

/* In struct djp_detour and struct djprobe. */
#define DJP_DETOUR_HANDLER_OF	88
#define DJP_PROBE_HANDLER	24

/* Where the kernel counts what keeps preemption off; see Kbuild. */
#ifdef DJP_PCPU_HOT
#define DJP_PREEMPT_COUNT	pcpu_hot + 8
#else
#define DJP_PREEMPT_COUNT	__preempt_count
#endif

#endif /* _DJP_ENTRY_H */
