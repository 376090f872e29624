/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Writing instructions into a buffer.
 */
#ifndef _DJP_EMIT_H
#define _DJP_EMIT_H

#include <linux/string.h>
#include <linux/types.h>

#define DJP_PUSHFQ	0x9c
#define DJP_POPFQ	0x9d

/**
 * struct djp_code - code that is being generated
 * @buf: the bytes
 * @len: how many there are
 * @base: where they will run
 */
struct djp_code {
	u8		*buf;
	size_t		len;
	unsigned long	base;
};

static inline void djp_emit(struct djp_code *code, const void *bytes, size_t len)
{
	memcpy(code->buf + code->len, bytes, len);
	code->len += len;
}

static inline void djp_emit1(struct djp_code *code, u8 byte)
{
	djp_emit(code, &byte, 1);
}

static inline void djp_emit32(struct djp_code *code, u32 value)
{
	djp_emit(code, &value, sizeof(value));
}

static inline void djp_emit64(struct djp_code *code, u64 value)
{
	djp_emit(code, &value, sizeof(value));
}

struct djp_counter;

/* The longest that djp_inline() makes of one action. */
#define DJP_INLINE_MAX	127

/* x86/inline.c */
u8 djp_inline_writes(const struct djp_counter *counter);
void djp_inline(struct djp_code *code, const struct djp_counter *counter);

#endif /* _DJP_EMIT_H */
