/* SPDX-License-Identifier: GPL-2.0 */
#ifndef NATIVE_H
#define NATIVE_H

/* Per-CPU data below here is the detours'. */
#define SLOT(n)		(0x8000 + 64 * (n))
#define PREEMPT_COUNT	SLOT(0)
#define THIS_CPU_OFF	SLOT(1)
#define HANDLED		SLOT(2)
#define CURRENT_KPROBE	SLOT(3)
#define CTLBLK		SLOT(4)

/* kmod/x86/entry.h */
#define DETOUR_HANDLER_OF	88
#define PROBE_HANDLER		24

#endif
