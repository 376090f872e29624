// SPDX-License-Identifier: GPL-2.0
/*
 * The file "explain".
 */
#include <linux/fs.h>
#include <linux/kallsyms.h>
#include <linux/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "debugfs/control.h"
#include "debugfs/debugfs.h"
#include "x86/flags.h"

/* The last target that was asked about, with options. djp_control_mutex guards it. */
static char djp_explain_target[KSYM_NAME_LEN + 160];

static void djp_show_address(struct seq_file *m, const char *key,
			     unsigned long addr)
{
	char symbol[KSYM_NAME_LEN + 80];

	if (!addr) {
		seq_printf(m, "%s: -\n", key);
		return;
	}
	djp_symbolize(addr, symbol, sizeof(symbol));
	seq_printf(m, "%s: 0x%016lx %s\n", key, addr, symbol);
}

/* NULL if the instruction is copied as it is. */
static const char *djp_relocation_name(const struct djp_insn *insn)
{
	static const char * const names[DJP_NR_RELOCATIONS] = {
		[DJP_RIP] = "rip",
		[DJP_JCC] = "jcc",
		[DJP_JMP] = "jmp",
		[DJP_LOOP] = "loop",
		[DJP_CALL] = "call",
		[DJP_CALL_INDIRECT] = "call",
	};

	return names[insn->relocation] ?: insn->disp ? "rip" : NULL;
}

static void djp_show_bytes(struct seq_file *m, const char *key, const u8 *bytes,
			   size_t len)
{
	size_t i;

	/* %*ph ends at 64. */
	seq_printf(m, "%s:", key);
	for (i = 0; i < len; i++)
		seq_printf(m, " %02x", bytes[i]);
	seq_puts(m, len ? "\n" : " -\n");
}

static void djp_show_relocations(struct seq_file *m, const struct djp_dcr *dcr)
{
	bool none = true;
	unsigned int i;

	seq_puts(m, "relocations:");
	for (i = 0; i < dcr->nr_insns; i++) {
		const char *name = djp_relocation_name(&dcr->insns[i]);

		if (!name)
			continue;
		seq_printf(m, " +%u:%s", dcr->insns[i].off, name);
		none = false;
	}
	seq_puts(m, none ? " none\n" : "\n");
}

static void djp_show_source(struct seq_file *m, const struct djp_source *source)
{
	char symbol[KSYM_NAME_LEN + 80];

	if (source->kind == DJP_SOURCE_NONE) {
		seq_puts(m, "source: -\n");
		return;
	}
	djp_symbolize(source->addr, symbol, sizeof(symbol));
	seq_printf(m, "source: %s 0x%016lx %s\n", djp_source_name(source->kind),
		   source->addr, symbol);
}

static void djp_show_detour(struct seq_file *m, const struct djp_explanation *x)
{
	u8 traps = x->dcr.traps;
	unsigned int i, k;

	seq_puts(m, traps ? "traps:" : "traps: none");
	djp_for_each_trap(k, traps)
		seq_printf(m, " +%u", k);
	seq_putc(m, '\n');
	djp_show_bytes(m, "text", x->live, x->detour ? x->dcr.len : 0);
	if (!x->detour) {
		seq_puts(m, "detour: -\nentries: -\n");
		return;
	}
	seq_printf(m, "detour: 0x%016lx", x->detour);
	for (i = 0; i < x->len; i++)
		seq_printf(m, " %02x", x->text[i]);
	seq_puts(m, "\nentries:");
	for (i = 0; i < x->dcr.nr_insns; i++)
		seq_printf(m, " +%u:0x%016lx", x->dcr.insns[i].off,
			   x->detour + x->insns[i]);
	seq_putc(m, '\n');
}

static const char *djp_verdict_name(enum djprobe_method method)
{
	switch (method) {
	case DJPROBE_JUMP:
	case DJPROBE_JUMP_INT3:
		return "jump";
	case DJPROBE_INT3:
	case DJPROBE_KPROBE:
		return "fallback";
	default:
		return "refused";
	}
}

static void djp_explain_print(struct seq_file *m, const struct djp_explanation *x)
{
	const struct djp_verdict *v = &x->verdict;
	char symbol[KSYM_NAME_LEN + 80];

	djp_symbolize(x->addr, symbol, sizeof(symbol));
	seq_printf(m, "target: %s\naddress: 0x%016lx\nsymbol: %s\n",
		   djp_explain_target, x->addr, symbol);
	seq_printf(m, "verdict: %s\nmethod: %s\nreason: %s\n",
		   djp_verdict_name(v->method), djp_method_name(v->method),
		   djp_reason_code(v->why));
	seq_printf(m, "message: %s\nhint: %s\n", djp_reason_sentence(v->why),
		   djp_reason_hint(v->why));
	djp_show_address(m, "offending", v->offending);
	djp_show_bytes(m, "dcr", x->dcr.text, x->dcr.len);
	djp_show_relocations(m, &x->dcr);
	if (x->ftrace)
		seq_printf(m, "ftrace: 0x%016lx\n", x->ftrace);
	else
		seq_puts(m, "ftrace: -\n");
	djp_show_source(m, &x->source);
	seq_printf(m, "state: %s\n", x->state);
	djp_show_detour(m, x);
	seq_printf(m, "flags: %s\n", !x->detour ? "-" :
		   !x->dcr.live ? "dead" :
		   x->dcr.live == DJP_FLAG_CF ? "carry" : "live");
	djp_show_address(m, "flags_by", x->detour ? x->flags_by : 0);
}

/**
 * djp_explain_show() - the explain file
 * @m: where to
 * @v: not used
 *
 * Return: 0 or a negative errno.
 */
int djp_explain_show(struct seq_file *m, void *v)
{
	struct djp_refusal refusal = { };
	struct djp_explanation *x;
	struct djp_options options;
	enum djprobe_method method;
	unsigned long addr;
	char words[sizeof(djp_explain_target)], *rest = words, *token;
	bool any;
	int ret = djp_lock_freezable(&djp_control_mutex);

	if (ret)
		return ret;
	x = kmalloc(sizeof(*x), GFP_KERNEL);
	if (!x)
		ret = -ENOMEM;
	if (ret || !*djp_explain_target)
		goto out;
	strscpy(words, djp_explain_target, sizeof(words));
	ret = djp_parse_target(djp_word(&rest), &addr, &refusal) ?:
		djp_parse_options(rest, &options, &any, &method, &token, &refusal);
	if (ret)
		goto out;
	mutex_lock(&djp_mutex);
	djp_explain(addr, any ? &options : NULL, x);
	mutex_unlock(&djp_mutex);
	djp_explain_print(m, x);
out:
	mutex_unlock(&djp_control_mutex);
	kfree(x);
	return ret;
}

/**
 * djp_explain_write() - the target to explain
 * @file: the file
 * @user: the target
 * @len: its length
 * @pos: not used
 *
 * Return: @len or a negative errno.
 */
ssize_t djp_explain_write(struct file *file, const char __user *user,
				 size_t len, loff_t *pos)
{
	struct djp_refusal refusal = { };
	char words[sizeof(djp_explain_target)], *rest = words;
	struct djp_options options;
	enum djprobe_method method;
	char *buf, *text, *token;
	unsigned long addr;
	bool any;
	int ret;

	buf = djp_get_text(user, min_t(size_t, len, sizeof(words)));
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	text = strim(buf);
	ret = djp_lock_freezable(&djp_control_mutex);
	if (ret)
		goto out;
	token = words;
	if (!*text || strlen(text) >= sizeof(words) || strchr(text, '\n')) {
		*words = '\0';
		ret = djp_refuse(&refusal, DJP_SYNTAX, 0);
	} else {
		strscpy(words, text, sizeof(words));
		ret = djp_parse_target(djp_word(&rest), &addr, &refusal) ?:
			djp_parse_options(rest, &options, &any, &method, &token,
					  &refusal);
	}
	djp_complain(text, ret && !*words ? text : token, &refusal);
	if (!ret)
		strscpy(djp_explain_target, text, sizeof(djp_explain_target));
	mutex_unlock(&djp_control_mutex);
out:
	kvfree(buf);
	return ret ?: len;
}
