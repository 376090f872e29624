/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_DEBUGFS_H
#define _DJP_DEBUGFS_H

#include <linux/types.h>

#include "core/reasons.h"

struct djp_options;
struct djp_refusal;
struct djprobe;
struct file;
struct file_operations;
struct inode;
struct seq_file;

/* The largest batch that one write may hold. */
#define DJP_WRITE_MAX	(16u << 20)

int djp_debugfs_init(void);
void djp_debugfs_exit(void);

/**
 * struct djp_complaint - what was wrong with a write
 * @line: which line, from 1 on; 0 if nothing was wrong
 * @column: where the token starts in it, from 1 on
 * @text: the line
 * @token: the token
 * @reason: why
 * @offending: the address that stood in the way, or 0
 * @owner: whose the bytes there are, or who is there; empty if unknown
 */
struct djp_complaint {
	unsigned int	line;
	unsigned int	column;
	char		text[256];
	char		token[128];
	enum djp_reason	reason;
	unsigned long	offending;
	char		owner[32];
};

/* debugfs/control.c */
ssize_t djp_control(char *buf);
void djp_control_show_error(struct seq_file *m);
void djp_complain(const char *text, const char *token,
		  const struct djp_refusal *refusal);
extern struct mutex djp_control_mutex;

/* debugfs/commands.c */
int djp_parse_target(char *target, unsigned long *addr,
		     struct djp_refusal *refusal);

/* debugfs/options.c */
void djp_options_show(struct seq_file *m, const struct djp_options *o);

/* debugfs/hits.c */
size_t djp_hits_room(void);
int djp_hits_show(struct seq_file *m, void *v);
int djp_maps_show(struct seq_file *m, const struct djprobe *p);

/* debugfs/debugfs.c */
int djp_may_open(struct inode *inode);
char *djp_get_text(const char __user *user, size_t len);

/* debugfs/explain.c */
int djp_explain_show(struct seq_file *m, void *v);
ssize_t djp_explain_write(struct file *file, const char __user *user,
			  size_t len, loff_t *pos);

/* debugfs/quiesce.c */
int djp_strategy_show(struct seq_file *m, void *v);
ssize_t djp_strategy_write(struct file *file, const char __user *user,
			   size_t len, loff_t *pos);
int djp_stats_show(struct seq_file *m, void *v);
int djp_blockers_show(struct seq_file *m, void *v);

/* debugfs/census.c */
extern const struct file_operations djp_census_fops;
extern const struct file_operations djp_judgements_fops;

#endif /* _DJP_DEBUGFS_H */
