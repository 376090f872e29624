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
#define DJP_CALL32	0xe8

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

/* A jump or call; false if the target is out of reach. */
static inline bool djp_emit_rel32(struct djp_code *code, u8 opcode,
				  unsigned long target)
{
	long rel = target - (code->base + code->len + 1 + sizeof(s32));

	djp_emit1(code, opcode);
	djp_emit32(code, rel);
	return rel == (s32)rel;
}

struct djp_counter;

/* The longest that djp_inline() makes of one action. */
#define DJP_INLINE_MAX	127

/* x86/inline.c */
u8 djp_inline_writes(const struct djp_counter *counter);
bool djp_inline(struct djp_code *code, const struct djp_counter *counter,
		bool calm);

#endif /* _DJP_EMIT_H */
