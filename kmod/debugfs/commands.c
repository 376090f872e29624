// SPDX-License-Identifier: GPL-2.0
/*
 * The commands of the control file: from lines to changes.
 */
#include <linux/ctype.h>
#include <linux/hashtable.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/stringhash.h>

#include "debugfs/control.h"
#include "debugfs/debugfs.h"

#define DJP_NAME_MAX	64	/* with the final 0 */
#define DJP_NAME_BITS	12

/* djp_control_mutex guards it. */
static DEFINE_HASHTABLE(djp_names, DJP_NAME_BITS);

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

/**
 * djp_word() - the next word of a line
 * @line: the line; moved on behind the word
 *
 * Return: the word, cut off; or NULL.
 */
char *djp_word(char **line)
{
	char *word;

	do {
		word = strsep(line, " \t\r");
	} while (word && !*word);
	return word;
}

/*
 * "0xADDR", or "[MOD:]SYM[+OFF]", which is cut off at the "+" and to be looked up.
 * Return: 0, or the negative errno of @refusal's reason.
 */
static int djp_split_target(char *target, struct djp_lookup *lookup,
			    struct djp_refusal *refusal)
{
	char *plus;

	memset(lookup, 0, sizeof(*lookup));
	if (!strncasecmp(target, "0x", 2)) {
		if (kstrtoul(target, 16, &lookup->addr))
			return djp_refuse(refusal, DJP_BAD_OFFSET, 0);
		return 0;
	}
	lookup->symbol = target;
	plus = strchr(target, '+');
	if (!plus)
		return 0;
	if (!isdigit(plus[1]) || kstrtoul(plus + 1, 0, &lookup->offset))
		return djp_refuse(refusal, DJP_BAD_OFFSET, 0);
	*plus = '\0';
	return 0;
}

/**
 * djp_parse_target() - [MOD:]SYM[+OFF] or 0xADDR
 * @target: the word; may be changed meanwhile
 * @addr: the address
 * @refusal: why not
 *
 * Context: may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_parse_target(char *target, unsigned long *addr,
		     struct djp_refusal *refusal)
{
	char *end = target + strlen(target);
	struct djp_lookup lookup;
	int ret = djp_split_target(target, &lookup, refusal);

	if (ret)
		return ret;
	*addr = lookup.addr;
	if (!lookup.symbol)
		return 0;
	ret = djp_resolve(lookup.symbol, lookup.offset, addr, refusal);
	if (target + strlen(target) < end)
		target[strlen(target)] = '+';
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

/* A probe of a name that is free, known by it from now on. */
static struct djp_named *djp_named_new(const char *command, const char *target,
				       struct djp_refusal *refusal)
{
	char given[DJP_NAME_MAX];
	struct djp_named *named;
	size_t size;

	if (command[1] == ':' ? !djp_name_is_good(command + 2) :
				djp_default_name(given, target)) {
		djp_refuse(refusal, DJP_BAD_NAME, 0);
		return NULL;
	}
	if (command[1] == ':')
		strscpy(given, command + 2, sizeof(given));
	if (djp_named_find(given)) {
		djp_refuse(refusal, DJP_DUPLICATE_NAME, 0);
		return NULL;
	}
	size = strlen(given) + 1;
	named = kzalloc(struct_size(named, name, size), GFP_KERNEL);
	if (!named) {
		djp_refuse(refusal, DJP_NO_MEMORY, 0);
		return NULL;
	}
	memcpy(named->name, given, size);
	named->p.name = named->name;
	hash_add(djp_names, &named->hash, djp_name_hash(named->name));
	return named;
}

/* "p[:NAME] TARGET [count] [method=METHOD] [OPTION...]"; the target comes later. */
static int djp_parse_add(struct djp_batch *batch, char *command, char *rest,
			 char **token, struct djp_refusal *refusal)
{
	struct djp_options options, *copy = NULL;
	enum djprobe_method method;
	struct djp_named *named;
	char *target;
	bool any;
	int ret;

	target = djp_word(&rest);
	if (!target)
		return djp_refuse(refusal, DJP_SYNTAX, 0);
	ret = djp_parse_options(rest, &options, &any, &method, token, refusal);
	if (ret)
		return ret;
	*token = command;
	if (any) {
		copy = kmemdup(&options, sizeof(options), GFP_KERNEL);
		if (!copy)
			return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	}
	named = djp_named_new(command, target, refusal);
	if (!named) {
		kfree(copy);
		return djp_reason_errno(refusal->reason);
	}
	named->p.method = method;
	named->p.options = copy;
	*token = target;
	ret = djp_batch_add(batch, named, DJP_ADD, target, refusal);
	if (ret) {
		djp_named_free(named);
		kfree(copy);
		return ret;
	}
	batch->items[batch->nr - 1].options = copy;
	return 0;
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

static int djp_parse_lines(struct djp_batch *batch, char **token,
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

/* Where what is added is to go: an address, or a symbol to be looked up. */
static int djp_split_targets(struct djp_batch *batch, struct djp_lookup *lookups,
			     int *nr, char **token, struct djp_refusal *refusal)
{
	int i, ret;

	for (i = 0, *nr = 0; i < batch->nr; i++) {
		struct djp_item *item = &batch->items[i];
		struct djp_lookup *lookup = &lookups[*nr];

		if (item->change != DJP_ADD)
			continue;
		*token = item->token;
		ret = djp_split_target(item->token, lookup, refusal);
		if (ret)
			return ret;
		if (lookup->symbol)
			(*nr)++;
		else
			item->named->p.addr = (void *)lookup->addr;
	}
	return 0;
}

/* All symbols in one go: to find one is to read all that the kernel has. */
static int djp_find_targets(struct djp_batch *batch, struct djp_lookup *lookups,
			    char **token, struct djp_refusal *refusal)
{
	struct djp_lookup *lookup = lookups;
	int i, nr, ret;

	ret = djp_split_targets(batch, lookups, &nr, token, refusal);
	if (ret)
		return ret;
	djp_resolve_all(lookups, nr);
	for (i = 0; i < batch->nr && lookup < lookups + nr; i++) {
		struct djp_item *item = &batch->items[i];

		if (item->token != lookup->symbol)
			continue;
		if (lookup->refusal.reason != DJP_OK) {
			*refusal = lookup->refusal;
			*token = item->token;
			return djp_reason_errno(refusal->reason);
		}
		item->named->p.addr = (void *)lookup->addr;
		lookup++;
	}
	return 0;
}

static int djp_parse_targets(struct djp_batch *batch, char **token,
			     struct djp_refusal *refusal)
{
	struct djp_lookup *lookups;
	int ret;

	if (!batch->nr)
		return 0;
	lookups = kvcalloc(batch->nr, sizeof(*lookups), GFP_KERNEL);
	if (!lookups)
		return djp_refuse(refusal, DJP_NO_MEMORY, 0);
	ret = djp_find_targets(batch, lookups, token, refusal);
	kvfree(lookups);
	return ret;
}

/**
 * djp_batch_parse() - the changes that a write asks for
 * @batch: its text; items are added
 * @token: set to what is wrong, if something is
 * @refusal: why
 *
 * Context: djp_control_mutex held, may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_batch_parse(struct djp_batch *batch, char **token,
		    struct djp_refusal *refusal)
{
	return djp_parse_lines(batch, token, refusal) ?:
		djp_parse_targets(batch, token, refusal);
}

/**
 * djp_named_free() - forget a probe, and its name
 * @named: the probe; it is not registered
 *
 * Context: djp_control_mutex held.
 */
void djp_named_free(struct djp_named *named)
{
	hash_del(&named->hash);
	kfree(named);
}
