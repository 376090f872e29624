// SPDX-License-Identifier: GPL-2.0
/*
 * The files "census" (sums, as text) and "judgements" (one record for each
 * instruction). Reading one of them does the work, a function at a time.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>

#include "core/census.h"
#include "debugfs/debugfs.h"
#include "x86/x86.h"

/* The methods in the order in which both files have them. */
#define DJP_REFUSED	(DJPROBE_NR_METHODS - 1)

/* A method's place in that order; DJPROBE_ANY is "refused", the last. */
static unsigned int djp_method_index(enum djprobe_method method)
{
	return method == DJPROBE_ANY ? DJP_REFUSED : method - 1;
}

static const char *djp_method_word(unsigned int index)
{
	return index == DJP_REFUSED ? "refused" : djp_method_name(index + 1);
}

/**
 * struct djp_output - text or records that wait to be read
 * @buf: where they are
 * @size: room
 * @len: how many bytes there are
 * @taken: how many of them were read
 */
struct djp_output {
	char	*buf;
	size_t	size;
	size_t	len;
	size_t	taken;
};

static __printf(2, 3) void djp_print(struct djp_output *out, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	out->len += vscnprintf(out->buf + out->len, out->size - out->len, fmt,
			       args);
	va_end(args);
}

static ssize_t djp_output_take(struct djp_output *out, char __user *user,
			       size_t len)
{
	len = min(len, out->len - out->taken);
	if (copy_to_user(user, out->buf + out->taken, len))
		return -EFAULT;
	out->taken += len;
	if (out->taken == out->len) {
		out->len = 0;
		out->taken = 0;
	}
	return len;
}

/**
 * struct djp_sums - what is counted, of a part or of all
 * @sites: instructions, without padding
 * @padding: instructions that fill up space, but for int3s
 * @methods: sites by method
 * @kprobes: sites that the kernel's kprobes take
 * @optprobes: sites that the kernel would put a jump at
 */
struct djp_sums {
	unsigned long	sites;
	unsigned long	padding;
	unsigned long	methods[DJPROBE_NR_METHODS];
	unsigned long	kprobes;
	unsigned long	optprobes;
};

/**
 * struct djp_census - one reader of the file "census"
 * @cursor: how far it is
 * @part: sums of the part that it is in
 * @part_id: which that is; 0 for none yet
 * @part_name: its name
 * @part_bytes: its size
 * @all: sums of all parts
 * @cells: sites by method and reason
 * @parts: a line for each part
 * @out: what is to be read next
 * @shown: progress was shown up to here
 * @begin: when it began
 * @finished: the table was printed
 */
struct djp_census {
	struct djp_cursor	cursor;
	struct djp_sums		part;
	unsigned int		part_id;
	char			part_name[MODULE_NAME_LEN];
	unsigned long		part_bytes;
	struct djp_sums		all;
	unsigned long		cells[DJPROBE_NR_METHODS][DJP_NR_REASONS];
	struct djp_output	parts;
	struct djp_output	out;
	unsigned long		shown;
	u64			begin;
	bool			finished;
};

static void djp_census_part_end(struct djp_census *census)
{
	const struct djp_sums *part = &census->part;
	struct djp_sums *all = &census->all;
	unsigned int i;

	if (!census->part_id)
		return;
	djp_print(&census->parts, "part %s %lu %lu %lu", census->part_name,
		  census->part_bytes, part->sites, part->padding);
	for (i = 0; i < DJPROBE_NR_METHODS; i++) {
		djp_print(&census->parts, " %lu", part->methods[i]);
		all->methods[i] += part->methods[i];
	}
	djp_print(&census->parts, " %lu %lu\n", part->kprobes, part->optprobes);
	all->sites += part->sites;
	all->padding += part->padding;
	all->kprobes += part->kprobes;
	all->optprobes += part->optprobes;
	memset(&census->part, 0, sizeof(census->part));
}

static void djp_census_count(void *data, const struct djp_judgement *j)
{
	struct djp_census *census = data;
	struct djp_sums *part = &census->part;
	unsigned int method = djp_method_index(j->verdict.method);

	if (census->part_id != census->cursor.id) {
		djp_census_part_end(census);
		census->part_id = census->cursor.id;
		census->part_bytes = census->cursor.end - census->cursor.start;
		strscpy(census->part_name, census->cursor.name,
			sizeof(census->part_name));
	}
	if (j->flags & DJP_IS_PADDING) {
		part->padding++;
		return;
	}
	part->sites++;
	part->methods[method]++;
	part->kprobes += !!(j->flags & DJP_PEER_KPROBE);
	part->optprobes += !!(j->flags & DJP_PEER_OPTPROBE);
	census->cells[method][j->verdict.why]++;
}

static void djp_census_print(struct djp_census *census)
{
	const struct djp_sums *all = &census->all;
	struct djp_output *out = &census->out;
	unsigned int method, reason;

	djp_print(out, "kernel %s\n", init_utsname()->release);
	djp_print(out, "sites %lu\npadding %lu\n", all->sites, all->padding);
	for (method = 0; method < DJPROBE_NR_METHODS; method++)
		djp_print(out, "method %s %lu\n", djp_method_word(method),
			  all->methods[method]);
	for (reason = 0; reason < DJP_NR_REASONS; reason++) {
		unsigned long sum = 0;

		for (method = 0; method < DJPROBE_NR_METHODS; method++)
			sum += census->cells[method][reason];
		if (sum)
			djp_print(out, "reason %s %lu\n",
				  djp_reason_code(reason), sum);
	}
	for (method = 0; method < DJPROBE_NR_METHODS; method++) {
		for (reason = 0; reason < DJP_NR_REASONS; reason++) {
			if (census->cells[method][reason])
				djp_print(out, "cell %s %s %lu\n",
					  djp_method_word(method),
					  djp_reason_code(reason),
					  census->cells[method][reason]);
		}
	}
	djp_print(out, "peer kprobe %lu\npeer optprobe %lu\n", all->kprobes,
		  all->optprobes);
	djp_print(out, "%.*s", (int)census->parts.len, census->parts.buf);
	djp_print(out, "ns %llu\n", ktime_get_ns() - census->begin);
}

/* Judge on until there is something to show. */
static int djp_census_fill(struct djp_census *census)
{
	struct djp_cursor *c = &census->cursor;
	int ret;

	while (!census->out.len && !census->finished) {
		ret = djp_census_step(c, djp_census_count, census);
		if (ret < 0)
			return ret;
		if (!ret) {
			djp_census_part_end(census);
			djp_census_print(census);
			census->finished = true;
		} else if (c->done - census->shown > c->total / 50) {
			census->shown = c->done;
			djp_print(&census->out, "progress %lu %lu\n", c->done,
				  c->total);
		}
	}
	return 0;
}

static ssize_t djp_census_read(struct file *file, char __user *user, size_t len,
			       loff_t *pos)
{
	struct djp_census *census = file->private_data;
	int ret = djp_census_fill(census);

	return ret ?: djp_output_take(&census->out, user, len);
}

static bool djp_output_alloc(struct djp_output *out, size_t size)
{
	out->size = size;
	out->buf = kvmalloc(size, GFP_KERNEL);
	return out->buf;
}

static void djp_census_free(struct djp_census *census)
{
	djp_cursor_exit(&census->cursor);
	kvfree(census->parts.buf);
	kvfree(census->out.buf);
	kfree(census);
}

static int djp_census_open(struct inode *inode, struct file *file)
{
	struct djp_census *census;
	int ret = djp_may_open(inode);

	if (ret)
		return ret;
	census = kzalloc(sizeof(*census), GFP_KERNEL);
	if (!census)
		return -ENOMEM;
	djp_cursor_init(&census->cursor);
	census->begin = ktime_get_ns();
	file->private_data = census;
	if (djp_output_alloc(&census->parts, SZ_256K) &&
	    djp_output_alloc(&census->out, SZ_512K))
		return nonseekable_open(inode, file);
	djp_census_free(census);
	return -ENOMEM;
}

static int djp_census_release(struct inode *inode, struct file *file)
{
	djp_census_free(file->private_data);
	return 0;
}

const struct file_operations djp_census_fops = {
	.owner = THIS_MODULE,
	.open = djp_census_open,
	.read = djp_census_read,
	.release = djp_census_release,
};

/* docs/debugfs.md describes both records. */
struct djp_part_record {
	__le32	magic;
	__le32	bytes;
	__le64	start;
} __packed;

struct djp_site_record {
	__le32	off;
	u8	len;
	u8	relocation;
	u8	method;
	u8	reason;
	u8	dcr_len;
	u8	nr_insns;
	u8	flags;
	u8	traps;
	__le32	disp;
} __packed;

/* A function of more instructions than fit does not exist. */
#define DJP_JUDGEMENTS_ROOM	(16ul << 20)

/**
 * struct djp_judgements - one reader of the file "judgements"
 * @cursor: how far it is
 * @part_id: the part whose record was written
 * @out: what is to be read next
 */
struct djp_judgements {
	struct djp_cursor	cursor;
	unsigned int		part_id;
	struct djp_output	out;
};

static void djp_record(struct djp_output *out, const void *record, size_t len)
{
	if (WARN_ON_ONCE(out->len + len > out->size))
		return;
	memcpy(out->buf + out->len, record, len);
	out->len += len;
}

/* What the displacement of an instruction says, relative to the next one. */
static s32 djp_record_disp(const struct djp_judgement *j)
{
	const struct djp_insn *insn = &j->insn;
	s32 disp;

	switch (insn->relocation) {
	case DJP_JCC:
	case DJP_JMP:
	case DJP_LOOP:
	case DJP_CALL:
		return djp_branch_target(j->addr, j->text, insn) -
			(j->addr + insn->len);
	default:
		break;
	}
	if (!insn->disp)
		return 0;
	/* Probes change no more than the first five bytes. */
	memcpy(&disp, j->text + insn->disp, sizeof(disp));
	return disp;
}

static void djp_judgements_add(void *data, const struct djp_judgement *j)
{
	struct djp_judgements *all = data;
	const struct djp_cursor *c = &all->cursor;
	struct djp_site_record site = {
		.off = cpu_to_le32(j->addr - c->start),
		.len = j->insn.len,
		.relocation = j->insn.relocation,
		.method = djp_method_index(j->verdict.method),
		.reason = j->verdict.why,
		.flags = j->flags,
		.disp = cpu_to_le32(djp_record_disp(j)),
	};

	if (!(j->flags & DJP_IS_FTRACE)) {
		site.dcr_len = j->dcr.len;
		site.nr_insns = j->dcr.nr_insns;
		site.traps = j->dcr.traps;
	}
	if (all->part_id != c->id) {
		struct djp_part_record part = {
			.magic = cpu_to_le32(0xffffffff),
			.bytes = cpu_to_le32(c->end - c->start),
			.start = cpu_to_le64(c->start),
		};

		all->part_id = c->id;
		djp_record(&all->out, &part, sizeof(part));
	}
	djp_record(&all->out, &site, sizeof(site));
}

static ssize_t djp_judgements_read(struct file *file, char __user *user,
				   size_t len, loff_t *pos)
{
	struct djp_judgements *all = file->private_data;
	int ret = 1;

	while (ret && all->out.len - all->out.taken < min_t(size_t, len, SZ_64K) &&
	       all->out.len < all->out.size / 2) {
		ret = djp_census_step(&all->cursor, djp_judgements_add, all);
		if (ret < 0)
			return ret;
	}
	return djp_output_take(&all->out, user, len);
}

static int djp_judgements_open(struct inode *inode, struct file *file)
{
	struct djp_judgements *all;
	int ret = djp_may_open(inode);

	if (ret)
		return ret;
	all = kzalloc(sizeof(*all), GFP_KERNEL);
	if (!all)
		return -ENOMEM;
	if (!djp_output_alloc(&all->out, DJP_JUDGEMENTS_ROOM)) {
		kfree(all);
		return -ENOMEM;
	}
	djp_cursor_init(&all->cursor);
	file->private_data = all;
	return nonseekable_open(inode, file);
}

static int djp_judgements_release(struct inode *inode, struct file *file)
{
	struct djp_judgements *all = file->private_data;

	djp_cursor_exit(&all->cursor);
	kvfree(all->out.buf);
	kfree(all);
	return 0;
}

const struct file_operations djp_judgements_fops = {
	.owner = THIS_MODULE,
	.open = djp_judgements_open,
	.read = djp_judgements_read,
	.release = djp_judgements_release,
};
