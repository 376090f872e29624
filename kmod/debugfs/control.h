/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A write to the file control, for the files that parse it and that do it.
 */
#ifndef _DJP_CONTROL_H
#define _DJP_CONTROL_H

#include <linux/list.h>

#include "core/internal.h"

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
	char			name[];
};

/**
 * struct djp_item - one change that a write asks for
 * @named: to which probe
 * @change: which
 * @token: what named it, in the copy that was cut into tokens
 * @options: of a probe that is added, or NULL
 */
struct djp_item {
	struct djp_named	*named;
	enum djp_change		change;
	char			*token;
	struct djp_options	*options;
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

/* debugfs/commands.c; djp_control_mutex held */
char *djp_word(char **line);
int djp_batch_parse(struct djp_batch *batch, char **token,
		    struct djp_refusal *refusal);
void djp_named_free(struct djp_named *named);

/* debugfs/options.c */
int djp_parse_options(char *rest, struct djp_options *options, bool *any,
		      enum djprobe_method *method, char **token,
		      struct djp_refusal *refusal);

#endif /* _DJP_CONTROL_H */
