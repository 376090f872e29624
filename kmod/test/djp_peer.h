/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DJP_PEER_H
#define _DJP_PEER_H

#include <linux/compiler_types.h>
#include <linux/types.h>

struct dentry;

int peer_read_command(char *buf, size_t size, const char __user *user,
		      size_t len);

void peer_bulk_init(struct dentry *dir);
void peer_bulk_exit(void);
void peer_direct_init(struct dentry *dir);
void peer_direct_exit(void);
void peer_race_init(struct dentry *dir);
void peer_race_exit(void);
void peer_slow_init(struct dentry *dir);
void peer_slow_exit(void);

#endif /* _DJP_PEER_H */
