// SPDX-License-Identifier: GPL-2.0
/*
 * The control file: from text to updates.
 *
 * A write is parsed whole before anything is done, then done as one update, so a
 * bad line leaves everything as it was. docs/debugfs.md has the grammar.
 */
#include <linux/ctype.h>
#include <linux/hashtable.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/stringhash.h>

#include "core/internal.h"
#include "debugfs/debugfs.h"
#include "quiesce/quiesce.h"

#define DJP_NAME_MAX	64	/* with the final 0 */
#define DJP_NAME_BITS	12

/**
 * struct djp_named - a probe made through debugfs
 * @p: the probe; p.name is @name
 * @hash: by name
 * @leaving: the write that is being parsed removes it
 * @item: its place in that write's items, or -1
 * @name: as users call it
 */
struct djp_named {
	struct djprobe		p;
	struct hlist_node	hash;
	bool			leaving;
	int			item;
	char			name[DJP_NAME_MAX];
};

/**
 * struct djp_item - one change that a write asks for
 * @named: to which probe
 * @change: which
 * @token: what named it, in the copy that was cut into tokens
 */
struct djp_item {
	struct djp_named	*named;
	enum djp_change		change;
	char			*token;
};

/**
 * struct djp_batch - a write that is being parsed
 * @text: the copy that is cut into tokens
 * @original: as it was written
 * @items: the changes
 * @nr: how many
 * @room: for how many there is memory
 * @commit: it says "commit"
 * @reclaim: it says "reclaim"
 */
struct djp_batch {
	char		*text;
	char		*original;
	struct djp_item	*items;
	int		nr;
	int		room;
	bool		commit;
	bool		reclaim;
};

/* Guards all below. Inside djp_commit_mutex, and not held while a commit waits. */
DEFINE_MUTEX(djp_control_mutex);
static DEFINE_HASHTABLE(djp_names, DJP_NAME_BITS);
static unsigned int djp_names_nr;
static struct djp_complaint djp_last_error;

static u32 djp_name_hash(const char *name)
{
	return full_name_hash(NULL, name, strlen(name));
}

static struct djp_named *djp_named_find(const char *name)
{
	struct djp_named *named;

	hash_for_each_possible(djp_names, named, hash, djp_name_hash(name)) {
		if (!named->leaving && !strcmp(named->name, name))
			return named;
	}
	return NULL;
}

static bool djp_name_is_good(const char *name)
{
	if (!isalpha(*name) && *name != '_')
		return false;
	if (strlen(name) >= DJP_NAME_MAX)
		return false;
	for (; *name; name++) {
		if (!isalnum(*name) && *name != '_')
			return false;
	}
	return true;
}

/* The next word of a line, or NULL. */
static char *djp_word(char **line)
{
	char *word;

	do {
		word = strsep(line, " \t\r");
	} while (word && !*word);
	return word;
}

/**
 * djp_parse_target() - [MOD:]SYM[+OFF] or 0xADDR
 * @target: the word; may be changed
 * @addr: the address
 * @refusal: why not
 *
 * Context: may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_parse_target(char *target, unsigned long *addr,
		     struct djp_refusal *refusal)
{
	unsigned long offset = 0;
	char *plus;
	int ret;

	if (!strncasecmp(target, "0x", 2)) {
		if (kstrtoul(target, 16, addr))
			return djp_refuse(refusal, DJP_BAD_OFFSET, 0);
		return 0;
	}
	plus = strchr(target, '+');
	if (plus) {
		if (!isdigit(plus[1]) || kstrtoul(plus + 1, 0, &offset))
			return djp_refuse(refusal, DJP_BAD_OFFSET, 0);
		*plus = '\0';
	}
	ret = djp_resolve(target, offset, addr, refusal);
	if (plus)
		*plus = '+';
	return ret;
}

static int djp_batch_add(struct djp_batch *batch, struct djp_named *named,
			 enum djp_change change, char *token,
			 struct djp_refusal *refusal)
{
	struct djp_item *items;
	int room;

	if (batch->nr == batch->room) {
		room = max(64, batch->room * 2);
		items = kvcalloc(room, sizeof(*items), GFP_KERNEL);
		if (!items)
			return djp_refuse(refusal, DJP_NO_MEMORY, 0);
		if (batch->nr)
			memcpy(items, batch->items,
			       batch->nr * sizeof(*items));
		kvfree(batch->items);
		batch->items = items;
		batch->room = room;
	}
	named->item = batch->nr;
	batch->items[batch->nr++] = (struct djp_item) {
		.named = named, .change = change, .token = token,
	};
	return 0;
}

/* p_SYM_OFF or p_0xADDR, with what is no letter or digit made a '_' */
static int djp_default_name(char *name, const char *target)
{
	char symbol[KSYM_NAME_LEN];
	const char *colon = strchr(target, ':');
	const char *plus = strchr(target, '+');
	unsigned long offset = 0;
	char *c;
	int len;

	if (!strncasecmp(target, "0x", 2)) {
		len = snprintf(name, DJP_NAME_MAX, "p_%s", target);
		return len < DJP_NAME_MAX ? 0 : -ENAMETOOLONG;
	}
	strscpy(symbol, colon ? colon + 1 : target, sizeof(symbol));
	c = strchr(symbol, '+');
	if (c)
		*c = '\0';
	if (plus && kstrtoul(plus + 1, 0, &offset))
		return -EINVAL;
	len = snprintf(name, DJP_NAME_MAX, "p_%s_%lx", symbol, offset);
	if (len >= DJP_NAME_MAX)
		return -ENAMETOOLONG;
	for (c = name; *c; c++) {
		if (!isalnum(*c))
			*c = '_';
	}
	return 0;
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

/* "[count] [method=METHOD]"; @token is left at what is neither. */
static int djp_parse_options(char *rest, enum djprobe_method *method,
			     char **token, struct djp_refusal *refusal)
{
	bool counted = false;

	*method = DJPROBE_ANY;
	while ((*token = djp_word(&rest))) {
		if (!counted && !strcmp(*token, "count"))
			counted = true;
		else if (*method != DJPROBE_ANY ||
			 strncmp(*token, "method=", 7) ||
			 !djp_parse_method(*token + 7, method))
			return djp_refuse(refusal, DJP_NOT_SUPPORTED, 0);
	}
	return 0;
}

/* "p[:NAME] TARGET [count] [method=METHOD]" */
static int djp_parse_add(struct djp_batch *batch, char *command, char *rest,
			 char **token, struct djp_refusal *refusal)
{
	struct djp_named *named;
	enum djprobe_method method;
	char *target;
	unsigned long addr;
	int ret;

	target = djp_word(&rest);
	if (!target)
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	ret = djp_parse_options(rest, &method, token, refusal);
	if (ret)
		return ret;

	named = kzalloc(sizeof(*named), GFP_KERNEL);
	*token = command;
	if (!named)
		return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	ret = 0;
	if (command[1] == ':')
		strscpy(named->name, command + 2, DJP_NAME_MAX);
	else
		ret = djp_default_name(named->name, target);
	if (ret ||
	    (command[1] == ':' && !djp_name_is_good(command + 2))) {
		ret = djp_refuse(refusal, DJP_BAD_NAME, 0);
		goto fail;
	}
	if (djp_named_find(named->name)) {
		ret = djp_refuse(refusal, DJP_DUPLICATE_NAME, 0);
		goto fail;
	}
	*token = target;
	ret = djp_parse_target(target, &addr, refusal);
	if (ret)
		goto fail;

	named->p.addr = (void *)addr;
	named->p.name = named->name;
	named->p.method = method;
	ret = djp_batch_add(batch, named, DJP_ADD, target, refusal);
	if (ret)
		goto fail;
	hash_add(djp_names, &named->hash, djp_name_hash(named->name));
	djp_names_nr++;
	return 0;
fail:
	kfree(named);
	return ret;
}

/* "-:NAME" and "-*" */
static int djp_parse_remove(struct djp_batch *batch, char *command,
			    struct djp_refusal *refusal)
{
	struct djp_named *named;
	bool all = !strcmp(command, "-*");
	int bucket, ret;

	if (!all) {
		named = command[1] == ':' ? djp_named_find(command + 2) : NULL;
		if (command[1] != ':')
			return djp_refuse(refusal, DJP_SYNTAX, 0);
		/* Added or changed in this write: that is not there to remove. */
		if (!named || named->item >= 0)
			return djp_refuse(refusal, DJP_NO_SUCH_PROBE, 0);
		ret = djp_batch_add(batch, named, DJP_REMOVE, command, refusal);
		if (!ret)
			named->leaving = true;
		return ret;
	}
	hash_for_each(djp_names, bucket, named, hash) {
		if (named->item >= 0)
			continue;
		ret = djp_batch_add(batch, named, DJP_REMOVE, command, refusal);
		if (ret)
			return ret;
		named->leaving = true;
	}
	return 0;
}

/* "enable NAME" and "disable NAME" */
static int djp_parse_switch(struct djp_batch *batch, bool disable, char *rest,
			    char **token, struct djp_refusal *refusal)
{
	char *name = djp_word(&rest);
	struct djp_named *named;
	struct djp_item *item;

	if (!name)
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	*token = name;
	named = djp_named_find(name);
	if (!named)
		return djp_refuse(refusal, DJP_NO_SUCH_PROBE, 0);
	*token = djp_word(&rest);
	if (*token)
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	*token = name;

	item = named->item >= 0 ? &batch->items[named->item] : NULL;
	if (item && item->change == DJP_ADD) {
		named->p.flags = disable ? DJPROBE_FLAG_DISABLED : 0;
		return 0;
	}
	if (item)	/* twice in one write: which is meant? */
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	if (!(named->p.flags & DJPROBE_FLAG_GONE) &&
	    disable == !!(named->p.flags & DJPROBE_FLAG_DISABLED))
		return 0;
	return djp_batch_add(batch, named, disable ? DJP_DISABLE : DJP_ENABLE,
			     name, refusal);
}

static int djp_parse_line(struct djp_batch *batch, char *line, char **token,
			  struct djp_refusal *refusal)
{
	char *command = djp_word(&line);

	*token = command;
	if (!command || *command == '#')
		return 0;
	if (*command == 'p' && (!command[1] || command[1] == ':'))
		return djp_parse_add(batch, command, line, token, refusal);
	if (!strcmp(command, "enable"))
		return djp_parse_switch(batch, false, line, token, refusal);
	if (!strcmp(command, "disable"))
		return djp_parse_switch(batch, true, line, token, refusal);
	if (*command == '-' || !strcmp(command, "commit") ||
	    !strcmp(command, "reclaim")) {
		*token = djp_word(&line);
		if (*token)
			return djp_refuse(refusal, DJP_SYNTAX, 0);
		*token = command;
		if (*command == '-')
			return djp_parse_remove(batch, command, refusal);
		if (*command == 'c')
			batch->commit = true;
		else
			batch->reclaim = true;
		return 0;
	}
	return djp_refuse(refusal, DJP_SYNTAX, 0);
}

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

static int djp_batch_parse(struct djp_batch *batch, char **token,
			   struct djp_refusal *refusal)
{
	char *rest = batch->text;
	char *line;
	int ret;

	while ((line = strsep(&rest, "\n"))) {
		ret = djp_parse_line(batch, line, token, refusal);
		if (!*token)	/* an empty line, or one that ended too early */
			*token = line;
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
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
	mutex_unlock(&djp_mutex);
	if (ret)
		*token = batch->items[refusal->index].token;
	kvfree(updates);
	return ret;
}

static void djp_named_free(struct djp_named *named)
{
	hash_del(&named->hash);
	djp_names_nr--;
	kfree(named);
}

/* Forget the probes that are not there: new ones if it failed, else old ones. */
static void djp_batch_finish(struct djp_batch *batch, bool failed)
{
	int i;

	for (i = 0; i < batch->nr; i++) {
		struct djp_item *item = &batch->items[i];

		item->named->item = -1;
		item->named->leaving = false;
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
