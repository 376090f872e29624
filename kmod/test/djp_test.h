/* SPDX-License-Identifier: GPL-2.0 */
/*
 * djp_test: functions made to be probed, and tests that only kernel code can do.
 *
 * Driven through /sys/kernel/debug/djp_test/ by tests/vm.
 */
#ifndef _DJP_TEST_H
#define _DJP_TEST_H

#include <linux/linkage.h>
#include <linux/types.h>

struct dentry;

/*
 * targets.S. "Probe point" is what a label of the same name with _probe behind
 * it says.
 */

/* Returns its argument plus 3. */
asmlinkage long djp_test_plain(long x);
/* The probe point's instruction has a RIP-relative operand. Returns 7. */
asmlinkage long djp_test_rip(void);
extern unsigned long djp_test_rip_calls;
/*
 * All registers and flags are set to known values before the probe point and
 * compared behind it. Returns 0, or a bit for each that changed.
 */
asmlinkage long djp_test_state(void);
/* One for each kind of relocation. Each returns 0. */
asmlinkage long djp_test_jcc(void);
asmlinkage long djp_test_jmp(void);
asmlinkage long djp_test_loop(void);
asmlinkage long djp_test_call(void);
asmlinkage long djp_test_icall(void);
asmlinkage long djp_test_ijmp(void);
asmlinkage long djp_test_ret(void);
/* A loop branches to the second instruction. Returns 5. */
asmlinkage long djp_test_branch(void);
/* Returns 2, if all its instructions are executed. */
asmlinkage long djp_test_victim(void);
/* Its DCR ends in a call of djp_test_sleeper(). Returns x plus 7. */
asmlinkage long djp_test_sleepy(long x);
/* victim.c */
asmlinkage long djp_test_sleeper(long x);

/*
 * strays.S. Control comes into the JTPR of these from elsewhere.
 */

/* The hot path returns x plus 5, the cold one x plus 0x104. */
asmlinkage long djp_test_cold(long x, long cold);
/* Each returns 0. */
asmlinkage long djp_test_midcall(void);
asmlinkage long djp_test_shortjmp(void);
/* Each returns 5 - @k, if it has a branch to +@k or @k is 0. */
asmlinkage long djp_test_strays(long k);
asmlinkage long djp_test_strays_123(long k);
asmlinkage long djp_test_stray_1(long k);
asmlinkage long djp_test_stray_2(long k);
asmlinkage long djp_test_stray_3(long k);
asmlinkage long djp_test_stray_4(long k);
/* Returns *@p plus 1, or -1 if it can't be read. */
asmlinkage long djp_test_extable(const u32 *p);

/* entries.S: x plus 3, and twice x plus 31. */
asmlinkage long djp_test_endbr(long x);
asmlinkage long djp_test_neighbours(long x);
asmlinkage long djp_test_out_of_step(long x);

/* dwell.S */
asmlinkage long djp_test_dwell(unsigned long to, unsigned long n);
extern char djp_test_dwell_probe[];

/* patched.c */
long djp_test_patched(long x);
long djp_test_entered(long x);
long djp_test_flipped(long x);
void djp_test_patched_init(struct dentry *dir);

/* main.c: the functions above by name, and a call that checks its result. */
int djp_test_find(const char *name);
const char *djp_test_name(int which);
long djp_test_check(int which);

/* options.c */
void djp_test_options_init(struct dentry *dir);

/* many_handlers.c */
void djp_test_many_handlers_init(struct dentry *dir);
void djp_test_many_handlers_exit(void);

/* churn.c */
void djp_test_churn_init(struct dentry *dir);
void djp_test_churn_exit(void);

/* load.c */
void djp_test_load_init(struct dentry *dir);
void djp_test_load_exit(void);

/* spin.c */
void djp_test_spin_init(struct dentry *dir);
void djp_test_spin_exit(void);

/* refuse.c */
int djp_test_refuse_init(struct dentry *dir);
void djp_test_refuse_exit(void);

int djp_test_handlers_init(struct dentry *dir);
void djp_test_handlers_exit(void);
int djp_test_hold_init(struct dentry *dir);
void djp_test_hold_exit(void);
void djp_test_victim_init(struct dentry *dir);
void djp_test_victim_exit(void);
int djp_test_peers_init(struct dentry *dir);
void djp_test_peers_exit(void);
int djp_test_nest_init(struct dentry *dir);
void djp_test_nest_exit(void);
void djp_test_plans_init(struct dentry *dir);
void djp_test_cost_init(struct dentry *dir);

/* peers.c: what the kernel does not export. */
int djp_test_lookup(const char *name, unsigned long *addr);
void djp_test_wait_for_optimizer(void);

#endif /* _DJP_TEST_H */
