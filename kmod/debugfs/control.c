// SPDX-License-Identifier: GPL-2.0
/*
 * The control file: a write is one batch.
 *
 * It is parsed whole before anything is done (debugfs/commands.c), then done as one
 * update, so a bad line leaves everything as it was. docs/debugfs.md has the grammar.
 */
#include <linux/ctype.h>
#include <linux/kernel.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"
#include "debugfs/control.h"
#include "debugfs/debugfs.h"
#include "quiesce/quiesce.h"

/* Guards all below. Inside djp_commit_mutex, and not held while a commit waits. */
DEFINE_MUTEX(djp_control_mutex);
static struct djp_complaint djp_last_error;

/* Where a token of the cut-up copy stands in what was written. */
static void djp_batch_complain(const struct djp_batch *batch, const char *token,
			       const struct djp_refusal *refusal)
{
	struct djp_complaint *c = &djp_last_error;
	const char *at = batch->original + (token - batch->text);
	const char *start, *s;
	size_t len;

	memset(c, 0, sizeof(*c));
	for (start = at; start > batch->original && start[-1] != '\n'; start--)
		;
	c->line = 1;
	for (s = batch->original; s < start; s++)
		c->line += *s == '\n';
	c->column = at - start + 1;
	len = strcspn(start, "\n");
	strscpy(c->text, start, min(len + 1, sizeof(c->text)));
	len = strcspn(at, " \t\r\n");
	strscpy(c->token, at, min(len + 1, sizeof(c->token)));
	c->reason = refusal->reason;
	c->offending = refusal->offending;
	strscpy(c->owner, refusal->owner ?: "", sizeof(c->owner));
}

/**
 * djp_complain() - set last_error for a write of one word
 * @text: the whole write
 * @token: what was wrong in it
 * @refusal: why
 *
 * Context: djp_control_mutex held.
 */
void djp_complain(const char *text, const char *token,
		  const struct djp_refusal *refusal)
{
	struct djp_complaint *c = &djp_last_error;

	memset(c, 0, sizeof(*c));
	if (refusal->reason == DJP_OK)
		return;
	c->line = 1;
	c->column = 1;
	strscpy(c->text, text, sizeof(c->text));
	strscpy(c->token, token, sizeof(c->token));
	c->reason = refusal->reason;
	c->offending = refusal->offending;
	strscpy(c->owner, refusal->owner ?: "", sizeof(c->owner));
}

/**
 * djp_control_show_error() - the last_error file
 * @m: where to
 *
 * Context: djp_control_mutex held.
 */
void djp_control_show_error(struct seq_file *m)
{
	const struct djp_complaint *c = &djp_last_error;
	char symbol[KSYM_NAME_LEN + 32];

	if (!c->line)
		return;
	seq_printf(m, "line: %u\ntext: %s\ntoken: %s\ncolumn: %u\n", c->line,
		   c->text, c->token, c->column);
	seq_printf(m, "reason: %s\nmessage: %s\nhint: %s\n",
		   djp_reason_code(c->reason), djp_reason_sentence(c->reason),
		   djp_reason_hint(c->reason));
	if (c->offending) {
		djp_symbolize(c->offending, symbol, sizeof(symbol));
		seq_printf(m, "offending: 0x%016lx %s\n", c->offending, symbol);
	}
	if (*c->owner)
		seq_printf(m, "owner: %s\n", c->owner);
}

static int djp_batch_apply(struct djp_batch *batch, char **token,
			   struct djp_refusal *refusal)
{
	struct djp_update *updates;
	int i, ret;

	updates = kvcalloc(max(batch->nr, 1), sizeof(*updates), GFP_KERNEL);
	if (!updates)
		return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	for (i = 0; i < batch->nr; i++) {
		updates[i].probe = &batch->items[i].named->p;
		updates[i].change = batch->items[i].change;
	}
	mutex_lock(&djp_mutex);
	ret = djp_update_locked(updates, batch->nr, refusal);
	if (!ret)
		djp_once_settle();
	mutex_unlock(&djp_mutex);
	if (ret)
		*token = batch->items[refusal->index].token;
	kvfree(updates);
	return ret;
}

/* Forget the probes that are not there: new ones if it failed, else old ones. */
static void djp_batch_finish(struct djp_batch *batch, bool failed)
{
	int i;

	for (i = 0; i < batch->nr; i++) {
		struct djp_item *item = &batch->items[i];

		item->named->item = -1;
		item->named->leaving = false;
		item->named->p.options = NULL;
		kfree(item->options);
		if (item->change == (failed ? DJP_ADD : DJP_REMOVE))
			djp_named_free(item->named);
	}
	kvfree(batch->items);
	kvfree(batch->original);
}

/* Free all retired detours, or say who is in one. */
static int djp_reclaim_all(struct djp_refusal *refusal, char *owner, size_t len)
{
	const struct djp_blocker *b = NULL;
	unsigned int i, nr;
	int ret = min(djp_commit_locked(DJP_RECLAIM), 0);

	mutex_lock(&djp_mutex);
	if (!ret && djp_stats.detours_retired) {
		ret = djp_refuse(refusal, DJP_DETOURS_BUSY, 0);
		nr = djp_blockers(&b);
		for (i = 0; i < nr && !b[i].reclaim; i++)
			;
		if (i < nr) {
			snprintf(owner, len, "%s[%d]", b[i].comm, b[i].pid);
			refusal->owner = owner;
			refusal->offending = b[i].addr;
		}
	}
	mutex_unlock(&djp_mutex);
	return ret;
}

/* Is a command among the lines of a text that nobody has parsed yet? */
static bool djp_text_has(const char *text, const char *command)
{
	size_t len = strlen(command);

	for (; text; text = strchr(text, '\n')) {
		text = skip_spaces(text);
		if (!strncmp(text, command, len) &&
		    (!text[len] || isspace(text[len])))
			return true;
	}
	return false;
}

static int djp_control_quiesce(const struct djp_batch *batch)
{
	struct djp_refusal busy = { };
	char owner[32];
	int ret = 0;

	if (batch->commit)
		ret = min(djp_commit_locked(DJP_COMMIT), 0);
	if (!ret && batch->reclaim)
		ret = djp_reclaim_all(&busy, owner, sizeof(owner));
	if (busy.reason != DJP_OK) {
		mutex_lock(&djp_control_mutex);
		djp_complain("reclaim", "reclaim", &busy);
		mutex_unlock(&djp_control_mutex);
	}
	return ret;
}

/* Context: djp_control_mutex held. */
static int djp_control_change(struct djp_batch *batch)
{
	struct djp_refusal refusal = { };
	char *token = batch->text;
	int ret;

	ret = djp_batch_parse(batch, &token, &refusal);
	if (!ret && batch->nr)
		ret = djp_batch_apply(batch, &token, &refusal);
	memset(&djp_last_error, 0, sizeof(djp_last_error));
	if (refusal.reason != DJP_OK)
		djp_batch_complain(batch, token, &refusal);
	djp_batch_finish(batch, refusal.reason != DJP_OK);
	return ret;
}

/* Context: djp_commit_mutex held if @quiesce. */
static int djp_control_do(struct djp_batch *batch, bool quiesce)
{
	int ret;

	mutex_lock(&djp_control_mutex);
	ret = djp_control_change(batch);
	mutex_unlock(&djp_control_mutex);
	if (!ret && quiesce)
		ret = djp_control_quiesce(batch);
	/* The last probe is gone: then rmmod need not wait for the background. */
	if (!ret && !quiesce && !READ_ONCE(djp_stats.sites) &&
	    mutex_trylock(&djp_commit_mutex)) {
		djp_commit_locked(DJP_SWEEP);
		mutex_unlock(&djp_commit_mutex);
	}
	return ret;
}

/**
 * djp_control() - do what was written to the control file
 * @buf: the text, zero-terminated; is cut up
 *
 * Context: task, may sleep.
 * Return: 0 or a negative errno, with last_error set.
 */
ssize_t djp_control(char *buf)
{
	bool quiesce = djp_text_has(buf, "commit") || djp_text_has(buf, "reclaim");
	struct djp_batch batch = { .text = buf };
	size_t size = strlen(buf) + 1;
	int ret;

	batch.original = kvmalloc(size, GFP_KERNEL);
	if (!batch.original)
		return -ENOMEM;
	memcpy(batch.original, buf, size);
	/* Before anything is done, so that a signal can restart the write. */
	ret = quiesce ? djp_lock_freezable(&djp_commit_mutex) : 0;
	if (ret) {
		kvfree(batch.original);
		return ret;
	}
	ret = djp_control_do(&batch, quiesce);
	if (quiesce)
		mutex_unlock(&djp_commit_mutex);
	return ret;
}
