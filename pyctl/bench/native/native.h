/* SPDX-License-Identifier: GPL-2.0 */
#ifndef NATIVE_H
#define NATIVE_H

/* Per-CPU data below here is the detours'. */
#define SLOT(n)		(0x8000 + 64 * (n))
#define PREEMPT_COUNT	SLOT(0)
#define THIS_CPU_OFF	SLOT(1)
#define RUNNING		SLOT(2)
#define HANDLED		SLOT(3)
#define COUNTER		SLOT(4)
#define CURRENT_KPROBE	SLOT(5)
#define CTLBLK		SLOT(6)

/* From a return address into a detour of ours to its pointer: DJP_RET_TO_HEADER. */
#define HEADER		(8 + 21)

#endif
