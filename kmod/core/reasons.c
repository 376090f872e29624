// SPDX-License-Identifier: GPL-2.0
#include <linux/errno.h>
#include <linux/kernel.h>

#include "core/reasons.h"

static const struct {
	const char *code;
	const char *sentence;
	const char *hint;
	int err;
} djp_reasons[DJP_NR_REASONS] = {
#define DJP_REASON_ROW(name, c, e, s, h) \
	[DJP_##name] = { .code = c, .sentence = s, .hint = h, .err = e },
	DJP_REASONS(DJP_REASON_ROW)
#undef DJP_REASON_ROW
};

/**
 * djp_reason_code() - the code that users see and scripts compare
 * @reason: a reason
 *
 * Return: a static string, for instance "branch-target".
 */
const char *djp_reason_code(enum djp_reason reason)
{
	return djp_reasons[reason].code;
}

/**
 * djp_reason_sentence() - what is wrong
 * @reason: a reason
 *
 * Return: a static string.
 */
const char *djp_reason_sentence(enum djp_reason reason)
{
	return djp_reasons[reason].sentence;
}

/**
 * djp_reason_hint() - what to do about it
 * @reason: a reason
 *
 * Return: a static string, "-" if there is nothing to do.
 */
const char *djp_reason_hint(enum djp_reason reason)
{
	return djp_reasons[reason].hint;
}

/**
 * djp_reason_errno() - the errno that goes with a reason
 * @reason: a reason
 *
 * Return: 0 for DJP_OK, else a negative errno.
 */
int djp_reason_errno(enum djp_reason reason)
{
	return -djp_reasons[reason].err;
}
