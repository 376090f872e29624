// SPDX-License-Identifier: GPL-2.0
/*
 * Looking at a kernel stack, word by word.
 *
 * Where a task that is switched out will go on, and where it will return to, is on
 * its kernel stack above thread.sp. An interrupt that preempted it has left its
 * pt_regs there too.
 *
 * Any word that could be an address in a danger counts as one, so nothing is
 * missed. But a word may be stale: each int3 leaves addresses behind on the stack
 * of whoever met it, and a task that sleeps keeps them for as long as it sleeps.
 * So where words were found, the unwinder is asked, with the standards of
 * livepatch: if it can tell the whole stack for sure, and there is no such
 * address in it, the words are stale. The unwinder alone would not do: ORC does
 * not know detours. It says so for a task that was preempted in one, and then the
 * words count. But from a handler it finds its way past the detour, by the pt_regs
 * of djp_handler_entry(): so whoever was called by that counts as in a detour.
 *
 * A kprobe that was optimised and then removed may have left a task in its buffer,
 * from where it will jump to text that is ours by now, and that we do not know. So
 * a task in any buffer of an optimised kprobe counts as one in every JTPR.
 *
 * A task can also be moved. If the word is the ip of a pt_regs that an interrupt or
 * exception left, the task goes on where that says; and where a displaced
 * instruction begins, in the text or in the detour, the state is the same in both
 * places, which is what detours are made for. So a task in a JTPR goes on in the
 * detour; and one in a retired detour in the text, if nobody has put another probe
 * there.
 */
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/pgtable.h>
#include <linux/ptrace.h>
#include <linux/sched/task_stack.h>
#include <asm/processor-flags.h>
#include <asm/segment.h>

#include "core/internal.h"
#include "quiesce/quiesce.h"
#include "x86/x86.h"

/* It is an RCU list, and whoever calls this can't sleep. */
static bool djp_in_optprobe(const struct djp_scan *scan, unsigned long addr)
{
	/* Where kprobes have their buffers. */
	if (!scan->optprobes || addr < MODULES_VADDR || addr >= MODULES_END)
		return false;
	return djp_k.__is_insn_slot_addr(djp_k.kprobe_optinsn_slots, addr);
}

/* Mostly there are none, and no word need be looked up. */
static bool djp_has_optprobes(void)
{
	return djp_k.__is_insn_slot_addr && djp_k.kprobe_optinsn_slots &&
		!list_empty(&djp_k.kprobe_optinsn_slots->pages);
}

/**
 * struct djp_walk - what the unwinder finds of one task
 * @scan: what for
 * @hit: a return address in a danger
 */
struct djp_walk {
	struct djp_scan	*scan;
	bool		hit;
};

static bool djp_walk_frame(void *cookie, unsigned long addr)
{
	struct djp_walk *walk = cookie;

	if (djp_danger_at(walk->scan->proof, addr) ||
	    djp_in_optprobe(walk->scan, addr) || djp_is_handler_entry(addr))
		walk->hit = true;
	return true;
}

/* Are the words that were found on a task's stack nothing but left-overs? */
static bool djp_words_are_stale(struct djp_scan *scan, struct task_struct *task)
{
	struct djp_walk walk = { .scan = scan };

	return !djp_k.arch_stack_walk_reliable(djp_walk_frame, &walk, task) &&
	       !walk.hit;
}

/*
 * The pt_regs that a word is the ip of, or NULL. The CPU has saved the stack pointer
 * too, as it was before it aligned it to 16 bytes: that can't be there by chance.
 * A pt_regs that is itself stale, nobody will ever return by, moved or not.
 */
static __no_sanitize_address struct pt_regs *
djp_regs_of(const unsigned long *word, unsigned long top)
{
	struct pt_regs *regs = container_of(word, struct pt_regs, ip);
	unsigned long end = (unsigned long)(regs + 1);

	if (end > top)
		return NULL;
	if (READ_ONCE_NOCHECK(regs->cs) != __KERNEL_CS ||
	    READ_ONCE_NOCHECK(regs->ss) != __KERNEL_DS ||
	    (READ_ONCE_NOCHECK(regs->flags) & (X86_EFLAGS_FIXED | X86_EFLAGS_TF)) !=
	    X86_EFLAGS_FIXED)
		return NULL;
	if (READ_ONCE_NOCHECK(regs->sp) != end &&
	    READ_ONCE_NOCHECK(regs->sp) != end + sizeof(long))
		return NULL;
	return regs;
}

/* A site that has put its bytes, or may be about to, where a task would go on. */
static bool djp_is_covered(unsigned long addr)
{
	const struct djp_site *site;
	unsigned long a;

	for (a = addr - DJP_DCR_MAX + 1; a < addr; a++) {
		site = djp_trap_find(a);
		if (site && a + site->dcr.len > addr)
			return true;
	}
	return false;
}

/* Where the instruction that begins at an address is too, or 0. */
static unsigned long djp_twin(const struct djp_danger *danger,
			      unsigned long addr)
{
	const struct djp_detour *detour = danger->detour;
	unsigned int i;

	if (!detour)
		return 0;
	for (i = 0; i < detour->nr_insns; i++) {
		unsigned long in_text = detour->addr + detour->offs[i];
		unsigned long in_detour = detour->text + detour->insns[i];

		if (!danger->reclaim && addr == in_text)
			return in_detour;
		if (!danger->reclaim || addr != in_detour)
			continue;
		/* A probe that came meanwhile would count the same arrival. */
		if (djp_is_covered(in_text) || (!i && djp_trap_find(in_text)))
			return 0;
		return in_text;
	}
	return 0;
}

static bool djp_move(struct djp_scan *scan, const struct djp_danger *danger,
		     const unsigned long *word, unsigned long top)
{
	struct pt_regs *regs = scan->moves ? djp_regs_of(word, top) : NULL;
	unsigned long to = regs ? djp_twin(danger, regs->ip) : 0;

	if (!to)
		return false;
	regs->ip = to;
	scan->proof->moved++;
	return true;
}

/**
 * djp_scan_range() - look at a part of a stack
 * @scan: what for
 * @task: whose it is
 * @start: the first byte to look at
 * @end: one behind the last
 * @mark: set dangers busy; otherwise only look, and move
 *
 * Stacks are poisoned for KASAN where no object lives; we read all of it.
 *
 * Context: the task can't run, or is interrupted by us; or the caller finds out whether
 * it has run, and then what was found does not count.
 * Return: how many words were found that are, or may be, in a danger.
 */
__no_sanitize_address unsigned long
djp_scan_range(struct djp_scan *scan, struct task_struct *task,
	       unsigned long start, unsigned long end, bool mark)
{
	const unsigned long *word = (const unsigned long *)ALIGN(start, 8);
	struct djp_danger *danger;
	unsigned long found = 0;

	for (; (unsigned long)word < end; word++) {
		unsigned long value = *(const volatile unsigned long *)word;

		danger = djp_danger_at(scan->proof, value);
		if (!danger && !djp_in_optprobe(scan, value))
			continue;
		if (danger && djp_move(scan, danger, word, end))
			continue;
		found++;
		if (!mark)
			continue;
		if (danger) {
			djp_danger_mark(scan->proof, danger, task, value);
		} else if (!cmpxchg(&scan->landing, NULL, task)) {
			get_task_struct(task);
			scan->landing_addr = value;
		}
	}
	return found;
}

/**
 * djp_scan_task() - look at the stack of a task that is not running
 * @scan: what for
 * @task: the task
 * @sp: its stack pointer, on its kernel stack
 * @mark: set dangers busy
 *
 * Context: as djp_scan_range(); its stack is not freed meanwhile.
 * Return: true if it is in no danger, or was moved out of it.
 */
bool djp_scan_task(struct djp_scan *scan, struct task_struct *task,
		   unsigned long sp, bool mark)
{
	unsigned long top = (unsigned long)task_stack_page(task) + THREAD_SIZE;
	bool clean = !djp_scan_range(scan, task, sp, top, false) ||
		djp_words_are_stale(scan, task);

	if (!clean && mark)
		djp_scan_range(scan, task, sp, top, true);
	scan->proof->tasks++;
	scan->proof->words += (top - sp) / sizeof(long);
	return clean;
}

/**
 * djp_scan_begin() - prepare to look at stacks
 * @scan: is filled in
 * @proof: what for
 * @moves: tasks may be moved
 */
void djp_scan_begin(struct djp_scan *scan, struct djp_proof *proof,
		    bool moves)
{
	*scan = (struct djp_scan) {
		.proof = proof,
		.moves = moves,
		.optprobes = djp_has_optprobes(),
	};
}

/**
 * djp_scan_end() - all stacks have been looked at
 * @scan: from djp_scan_begin()
 */
void djp_scan_end(struct djp_scan *scan)
{
	struct djp_proof *proof = scan->proof;
	unsigned int i;

	if (!scan->landing)
		return;
	for (i = 0; i < proof->nr; i++) {
		if (!proof->dangers[i].reclaim)
			djp_danger_mark(proof, &proof->dangers[i], scan->landing,
					scan->landing_addr);
	}
	put_task_struct(scan->landing);
}
