/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_FLAGS_H
#define _DJP_FLAGS_H

#include <linux/bits.h>
#include <linux/types.h>

#include "compat.h"

/* The status flags, in bits of our own. */
#define DJP_FLAG_CF	BIT(0)
#define DJP_FLAG_PF	BIT(1)
#define DJP_FLAG_AF	BIT(2)
#define DJP_FLAG_ZF	BIT(3)
#define DJP_FLAG_SF	BIT(4)
#define DJP_FLAG_OF	BIT(5)
#define DJP_FLAGS_ALL	(BIT(6) - 1)
/* What inc and dec write. */
#define DJP_FLAGS_INC	(DJP_FLAGS_ALL & ~DJP_FLAG_CF)

/**
 * struct djp_flags - what an instruction does to the status flags
 * @reads: those that it may read
 * @writes: those that it surely writes, without reading them
 */
struct djp_flags {
	u8	reads;
	u8	writes;
};

/* x86/flags.c */
bool djp_insn_flags(const struct insn *insn, struct djp_flags *f);

#endif /* _DJP_FLAGS_H */
