// SPDX-License-Identifier: GPL-2.0
/*
 * Runs what detours.S has: functions with a jump to a detour, as they were in a guest's
 * kernel, and the same functions without. Prints a line for each,
 *
 *	NAME WRONG TICKS...
 *
 * ticks of the TSC for each call, one number for each repetition: the median of its rounds.
 * All functions take turns in each round.
 *
 * %gs is what it is in the kernel, the base of per-CPU data. The C part of a detour is in
 * callbacks.c. Arguments: repetitions, rounds, calls.
 */
#include <asm/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "native.h"

#define ARGUMENT	39
#define WANTED		42
#define MAX_CASES	32
#define MAX_ROUNDS	100000

struct native_case {
	const char	*name;
	unsigned long	(*fn)(unsigned long x);
};

/* detours.S; ends with a NULL. */
extern const struct native_case native_cases[];

static char per_cpu[1 << 16] __attribute__((aligned(4096)));

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double measure(const struct native_case *one, unsigned int calls, unsigned long *wrong)
{
	unsigned long (*volatile fn)(unsigned long x) = one->fn;
	unsigned long (*to)(unsigned long x) = fn;
	unsigned int n, aux;
	uint64_t begin, end;

	for (n = 0; n < calls; n++)	/* what was pushed out comes back */
		*wrong += to(ARGUMENT) != WANTED;
	_mm_lfence();
	begin = __rdtscp(&aux);
	_mm_lfence();
	for (n = 0; n < calls; n++)
		*wrong += to(ARGUMENT) != WANTED;
	end = __rdtscp(&aux);
	_mm_lfence();
	return (double)(end - begin) / calls;
}

int main(int argc, char **argv)
{
	static double ticks[MAX_CASES][MAX_ROUNDS];
	static double medians[MAX_CASES][64];
	unsigned long wrong[MAX_CASES] = { 0 };
	unsigned int repetitions, rounds, calls, nr = 0, r, round, i;

	if (argc != 4)
		return 2;
	repetitions = atoi(argv[1]);
	rounds = atoi(argv[2]);
	calls = atoi(argv[3]);
	while (native_cases[nr].name)
		nr++;
	if (repetitions > 64 || rounds > MAX_ROUNDS || nr > MAX_CASES)
		return 2;
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, per_cpu)) {
		perror("arch_prctl");
		return 1;
	}
	*(unsigned long *)(per_cpu + THIS_CPU_OFF) = (unsigned long)per_cpu;
	*(unsigned int *)(per_cpu + PREEMPT_COUNT) = 1;
	for (r = 0; r < repetitions; r++) {
		for (round = 0; round < rounds; round++) {
			for (i = 0; i < nr; i++)
				ticks[i][round] = measure(&native_cases[i], calls, &wrong[i]);
		}
		for (i = 0; i < nr; i++) {
			qsort(ticks[i], rounds, sizeof(double), compare);
			medians[i][r] = ticks[i][rounds / 2];
		}
	}
	for (i = 0; i < nr; i++) {
		printf("%s %lu", native_cases[i].name, wrong[i]);
		for (r = 0; r < repetitions; r++)
			printf(" %.2f", medians[i][r]);
		putchar('\n');
	}
	return 0;
}
