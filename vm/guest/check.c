// SPDX-License-Identifier: GPL-2.0
/* Does this CPU, or who emulates it, keep its flags?  See check_cx16(). */
#include <signal.h>
#include <stdint.h>

#include "guest.h"

#define ZF 0x40UL
#define CHECKED 0x3f7fd5UL	/* all defined flags of EFLAGS but the fixed ones, with TF, IF, DF */

struct pair {
	uint64_t lo, hi;
} __attribute__((aligned(16)));

/* cmpxchg16b with `flags` set before; gives the flags pushed after it. */
#define CX16(name, prefix)							\
static uint64_t name(struct pair *mem, uint64_t lo, uint64_t hi, uint64_t flags)	\
{										\
	uint64_t out;								\
										\
	asm volatile("pushq %[in]\n\tpopfq\n\t"					\
		     prefix "cmpxchg16b %[mem]\n\t"				\
		     "pushfq\n\tpopq %[out]\n\tcld"				\
		     : [out] "=r"(out), [mem] "+m"(*mem), "+a"(lo), "+d"(hi)	\
		     : [in] "r"(flags), "b"(7UL), "c"(9UL)			\
		     : "memory", "cc");						\
	return out;								\
}
CX16(cx16_locked, "lock ")
CX16(cx16_plain, "")

/*
 * The same with the flags left behind by an instruction, as in real code: an
 * emulator keeps those lazily, and that is where it goes wrong.
 */
#define CX16_AFTER(name, producer, prefix, insn)				\
static uint64_t name(struct pair *mem, uint64_t lo, uint64_t hi, uint64_t a, uint64_t b)	\
{										\
	uint64_t out;								\
										\
	asm volatile("pushq $0x202\n\tpopfq\n\t"	/* same start each time */	\
		     producer							\
		     prefix insn						\
		     "pushfq\n\tpopq %[out]\n\t"				\
		     : [out] "=&r"(out), [mem] "+m"(*mem), "+a"(lo), "+d"(hi),	\
		       [a] "+&r"(a)						\
		     : [b] "r"(b), "b"(7UL), "c"(9UL)				\
		     : "memory", "cc");						\
	return out;								\
}
#define PRODUCERS(X)								\
	X(add, "addq %[b], %[a]\n\t") X(sub, "subq %[b], %[a]\n\t")		\
	X(cmp, "cmpq %[b], %[a]\n\t") X(and, "andq %[b], %[a]\n\t")		\
	X(xor, "xorq %[b], %[a]\n\t") X(inc, "incq %[a]\n\t")			\
	X(dec, "decq %[a]\n\t") X(neg, "negq %[a]\n\t")				\
	X(shl, "shlq $1, %[a]\n\t") X(sar, "sarq $1, %[a]\n\t")			\
	X(imul, "imulq %[b], %[a]\n\t") X(adc, "stc\n\tadcq %[b], %[a]\n\t")	\
	X(sbb, "stc\n\tsbbq %[b], %[a]\n\t") X(cmpl, "cmpl %k[b], %k[a]\n\t")	\
	X(testb, "testb %b[b], %b[a]\n\t") X(bt, "btq %[b], %[a]\n\t")
#define DEFINE(name, producer)							\
	CX16_AFTER(plain_##name, producer, "", "cmpxchg16b %[mem]\n\t")		\
	CX16_AFTER(locked_##name, producer, "lock ", "cmpxchg16b %[mem]\n\t")	\
	CX16_AFTER(bare_##name, producer, "", "")
PRODUCERS(DEFINE)

typedef uint64_t (*after_fn)(struct pair *, uint64_t, uint64_t, uint64_t, uint64_t);
static const struct {
	const char *name;
	after_fn plain, locked, bare;
} producers[] = {
#define ROW(name, producer) { #name, plain_##name, locked_##name, bare_##name },
	PRODUCERS(ROW)
};

static unsigned int bad;

static void expect(const char *what, const char *how, int match, uint64_t before, uint64_t after)
{
	uint64_t want = (before & ~ZF) | (match ? ZF : 0);

	if (((after ^ want) & CHECKED) && bad++ < 8)
		say("djp: check bad %s %s match=%d flags before=%lx want=%lx got=%lx", how, what,
		    match, (unsigned long)before, (unsigned long)want, (unsigned long)after);
}

/*
 * cmpxchg16b may change ZF and no other flag.  QEMU before 8 leaves stray bits
 * in the flags, TF among them; whoever pushes the flags then, as a probe's
 * detour does, takes a trap it never asked for.
 */
static unsigned int check_cx16(void)
{
	/* CF PF AF ZF SF DF OF, over the fixed bit 1 and IF */
	static const uint64_t bits[] = { 0x1, 0x4, 0x10, ZF, 0x80, 0x400, 0x800 };
	static const uint64_t values[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fffffff, 0x80000000,
					   0xffffffff, INT64_MAX, (uint64_t)INT64_MIN, UINT64_MAX };
	const unsigned int n = sizeof(values) / sizeof(values[0]);
	unsigned int runs = 0;

	for (unsigned int pattern = 0; pattern < 1U << 7; pattern++) {
		uint64_t flags = 0x202;

		for (unsigned int i = 0; i < 7; i++)
			if (pattern & 1U << i)
				flags |= bits[i];
		for (int match = 0; match < 2; match++, runs += 2) {
			struct pair mem = { 1, 2 };

			expect("popf", "lock", match, flags,
			       cx16_locked(&mem, match ? 1 : 3, 2, flags));
			mem = (struct pair){ 1, 2 };
			expect("popf", "plain", match, flags,
			       cx16_plain(&mem, match ? 1 : 3, 2, flags));
		}
	}
	for (unsigned int p = 0; p < sizeof(producers) / sizeof(producers[0]); p++)
		for (unsigned int v = 0; v < n * n; v++)
			for (int match = 0; match < 2; match++, runs += 2) {
				uint64_t a = values[v / n], b = values[v % n];
				struct pair mem = { 1, 2 };
				uint64_t before = producers[p].bare(&mem, 1, 2, a, b);

				expect(producers[p].name, "lock", match, before,
				       producers[p].locked(&mem, match ? 1 : 3, 2, a, b));
				mem = (struct pair){ 1, 2 };
				expect(producers[p].name, "plain", match, before,
				       producers[p].plain(&mem, match ? 1 : 3, 2, a, b));
			}
	return runs;
}

/* A stray TF raises SIGTRAP right after the flags are used: that is a finding too. */
static void on_trap(int signal)
{
	(void)signal;
	bad++;
}

static unsigned long cpuid_has_cx16(void)
{
	unsigned int a = 1, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return c >> 13 & 1;
}

void check_emulator(void)
{
	unsigned int runs;

	if (!cpuid_has_cx16())
		fail("check: this CPU model has no cmpxchg16b, nothing was checked");
	signal(SIGTRAP, on_trap);
	runs = check_cx16();
	if (bad)
		say("djp: check corrupt cmpxchg16b runs=%u bad=%u", runs, bad);
	else
		say("djp: check ok cmpxchg16b runs=%u bad=0", runs);
	power_off();
}
