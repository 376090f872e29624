/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the guests' PID 1 share. */
#ifndef DJP_GUEST_H
#define DJP_GUEST_H

/* One line to the host, and to the console. */
void __attribute__((format(printf, 1, 2))) say(const char *format, ...);

/* Say why ("djp: failed ...") and power off. */
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

void __attribute__((noreturn)) power_off(void);

/* Test the CPU's flags, say "djp: check ok" or "djp: check corrupt", power off. */
void __attribute__((noreturn)) check_emulator(void);

#endif
