// SPDX-License-Identifier: GPL-2.0
/*
 * Options of probes: from words, and back to words.
 */
#include <linux/ctype.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>
#include <linux/string.h>

#include "debugfs/control.h"
#include "debugfs/debugfs.h"

/* By their numbers in instructions. */
static const char * const djp_reg_names[DJP_NR_REGS] = {
	"ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
};

static const char * const djp_op_names[DJP_NR_OPS] = {
	[DJP_OP_EQ] = "==",
	[DJP_OP_NE] = "!=",
	[DJP_OP_LT] = "<",
	[DJP_OP_LE] = "<=",
	[DJP_OP_GT] = ">",
	[DJP_OP_GE] = ">=",
	[DJP_OP_AND] = "&",
};

static const char * const djp_by_names[DJP_NR_BY] = {
	[DJP_BY_NONE] = "-",
	[DJP_BY_CPU] = "cpu",
	[DJP_BY_PID] = "pid",
	[DJP_BY_COMM] = "comm",
};

/* Decimal, or hexadecimal with 0x; an octal number would be a slip. */
static bool djp_is_number(const char *word)
{
	return isdigit(*word) && (*word != '0' || !isdigit(word[1]));
}

/* "u8" to "u64", "s8" to "s64" */
static bool djp_parse_type(const char *type, struct djp_field *f)
{
	unsigned int bits;

	if ((*type != 'u' && *type != 's') || !isdigit(type[1]) ||
	    kstrtouint(type + 1, 10, &bits))
		return false;
	if (type[1] == '0' || (bits != 8 && bits != 16 && bits != 32 && bits != 64))
		return false;
	f->sign = *type == 's';
	f->size = bits / 8;
	return true;
}

/* "+OFF(" or "-OFF(" or "OFF(" before a register. */
static bool djp_parse_deref(char **text, struct djp_field *f)
{
	bool negative = **text == '-';
	char *open = strchr(*text, '(');
	u32 off;

	if (!open)
		return false;
	*open = '\0';
	*text += **text == '-' || **text == '+';
	if (!djp_is_number(*text) || kstrtou32(*text, 0, &off) || off > S32_MAX)
		return false;
	f->off = negative ? -(s32)off : off;
	f->deref = true;
	*text = open + 1;
	return true;
}

/* "%REG[:TYPE]" or "[+|-]OFF(%REG)[:TYPE]" */
static bool djp_parse_field(const char *word, struct djp_field *f)
{
	char copy[32], *text = copy, *type;
	int reg;

	memset(f, 0, sizeof(*f));
	f->size = 8;
	if (strscpy(copy, word, sizeof(copy)) < 0)
		return false;
	type = strchr(copy, ':');
	if (type)
		*type++ = '\0';
	if (type && !djp_parse_type(type, f))
		return false;
	if (*text != '%') {
		size_t len = strlen(text);

		if (!len || text[len - 1] != ')')
			return false;
		text[len - 1] = '\0';
		if (!djp_parse_deref(&text, f))
			return false;
	}
	if (*text != '%')
		return false;
	reg = match_string(djp_reg_names, DJP_NR_REGS, text + 1);
	if (reg < 0)
		return false;
	f->reg = reg;
	return true;
}

/* A number that fits the field. */
static bool djp_parse_value(const char *word, const struct djp_field *f, u64 *value)
{
	unsigned int unused = 64 - 8 * f->size;
	s64 number;

	if (f->sign) {
		if (!djp_is_number(word + (*word == '-')) ||
		    kstrtos64(word, 0, &number))
			return false;
		*value = number;
		return (s64)(*value << unused) >> unused == number;
	}
	if (!djp_is_number(word) || kstrtou64(word, 0, value))
		return false;
	return *value << unused >> unused == *value;
}

/* "if FIELD OP VALUE", behind "if" */
static int djp_parse_if(char **rest, struct djp_options *o, char **token,
			struct djp_refusal *refusal)
{
	char *begin = *token, *word;
	int op;

	word = djp_word(rest);
	*token = word ?: begin;
	if (!word || !djp_parse_field(word, &o->cond))
		return djp_refuse(refusal, word ? DJP_BAD_FIELD : DJP_SYNTAX, 0);
	word = djp_word(rest);
	*token = word ?: begin;
	op = word ? match_string(djp_op_names, DJP_NR_OPS, word) : -1;
	if (op < 0)
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	o->op = op;
	word = djp_word(rest);
	*token = word ?: begin;
	if (!word || !djp_parse_value(word, &o->cond, &o->value))
		return djp_refuse(refusal, word ? DJP_BAD_VALUE : DJP_SYNTAX, 0);
	return 0;
}

/* "WORD=..."; NULL if it is another word. */
static const char *djp_value_of(const char *word, const char *key)
{
	size_t len = strlen(key);

	return !strncmp(word, key, len) && word[len] == '=' ? word + len + 1 : NULL;
}

static bool djp_parse_method(const char *word, enum djprobe_method *method)
{
	enum djprobe_method m;

	for (m = DJPROBE_JUMP; m < DJPROBE_NR_METHODS; m++) {
		if (!strcmp(word, djp_method_name(m))) {
			*method = m;
			return true;
		}
	}
	return false;
}

static enum djp_reason djp_parse_hist(const char *value, struct djp_options *o)
{
	if (!djp_parse_field(value, &o->hist))
		return DJP_BAD_FIELD;
	return o->hist.sign ? DJP_NOT_SUPPORTED : DJP_OK;
}

static enum djp_reason djp_parse_sample(const char *value, struct djp_options *o)
{
	if (!djp_is_number(value) || kstrtou32(value, 0, &o->sample) ||
	    o->sample < 2 || o->sample > DJP_SAMPLE_MAX)
		return DJP_BAD_VALUE;
	return DJP_OK;
}

static enum djp_reason djp_parse_by(const char *value, struct djp_options *o)
{
	int by = match_string(djp_by_names, DJP_NR_BY, value);

	if (by <= DJP_BY_NONE)
		return DJP_BAD_VALUE;
	o->by = by;
	return DJP_OK;
}

/* One word, and not a second time. */
static enum djp_reason djp_parse_option(const char *word, struct djp_options *o,
					enum djprobe_method *method)
{
	const char *value;

	value = djp_value_of(word, "method");
	if (value && *method == DJPROBE_ANY)
		return djp_parse_method(value, method) ? DJP_OK : DJP_NOT_SUPPORTED;
	value = djp_value_of(word, "hist");
	if (value && !o->hist.size)
		return djp_parse_hist(value, o);
	value = djp_value_of(word, "sample");
	if (value && !o->sample)
		return djp_parse_sample(value, o);
	value = djp_value_of(word, "by");
	if (value && !o->by)
		return djp_parse_by(value, o);
	if (!o->once && !strcmp(word, "once")) {
		o->once = true;
		return DJP_OK;
	}
	if (!o->soft && !strcmp(word, "soft")) {
		o->soft = true;
		return DJP_OK;
	}
	return DJP_NOT_SUPPORTED;
}

/**
 * djp_parse_options() - "[count] [method=METHOD] [OPTION...]"
 * @rest: the words; cut up
 * @o: filled in
 * @any: is there an option?
 * @method: the method, or DJPROBE_ANY
 * @token: set to what is wrong, if something is
 * @refusal: why
 *
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_parse_options(char *rest, struct djp_options *o, bool *any,
		      enum djprobe_method *method, char **token,
		      struct djp_refusal *refusal)
{
	enum djp_reason reason;
	bool counted = false;
	char *word;
	int ret;

	memset(o, 0, sizeof(*o));
	*method = DJPROBE_ANY;
	while ((word = djp_word(&rest))) {
		*token = word;
		if (!counted && !strcmp(word, "count")) {
			counted = true;
			continue;
		}
		if (!o->cond.size && !strcmp(word, "if")) {
			ret = djp_parse_if(&rest, o, token, refusal);
			if (ret)
				return ret;
			continue;
		}
		reason = djp_parse_option(word, o, method);
		/* The last of those that don't go together. */
		if (reason == DJP_OK &&
		    ((o->once && (o->sample || o->hist.size || o->by)) ||
		     (o->hist.size && o->by)))
			reason = DJP_NOT_SUPPORTED;
		if (reason != DJP_OK)
			return djp_refuse(refusal, reason, 0);
	}
	*any = o->cond.size || o->sample || o->hist.size || o->by || o->once ||
		o->soft;
	return 0;
}

static void djp_show_field(struct seq_file *m, const struct djp_field *f)
{
	if (f->deref)
		seq_printf(m, "%+d(%%%s)", f->off, djp_reg_names[f->reg]);
	else
		seq_printf(m, "%%%s", djp_reg_names[f->reg]);
	if (f->sign || f->size != 8)
		seq_printf(m, ":%c%u", f->sign ? 's' : 'u', 8 * f->size);
}

/**
 * djp_options_show() - options as one word
 * @m: where to
 * @o: the options, or NULL
 */
void djp_options_show(struct seq_file *m, const struct djp_options *o)
{
	const char *comma = "";

	if (!o) {
		seq_putc(m, '-');
		return;
	}
	if (o->soft) {
		seq_puts(m, "soft");
		comma = ",";
	}
	if (o->cond.size) {
		seq_printf(m, "%sif:", comma);
		djp_show_field(m, &o->cond);
		seq_puts(m, djp_op_names[o->op]);
		if (o->cond.sign)
			seq_printf(m, "%lld", (s64)o->value);
		else
			seq_printf(m, "%llu", o->value);
		comma = ",";
	}
	if (o->sample) {
		seq_printf(m, "%ssample=%u", comma, o->sample);
		comma = ",";
	}
	if (o->once) {
		seq_printf(m, "%sonce", comma);
		comma = ",";
	}
	if (o->hist.size) {
		seq_printf(m, "%shist=", comma);
		djp_show_field(m, &o->hist);
		comma = ",";
	}
	if (o->by)
		seq_printf(m, "%sby=%s", comma, djp_by_names[o->by]);
}
