// SPDX-License-Identifier: GPL-2.0
/*
 * From a symbol to an address.
 */
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/stringhash.h>

#include "core/internal.h"

/*
 * To look for one name reads a few of the kernel's, but to read all of them once is
 * cheaper for so many.
 */
#define DJP_PASS_MIN	1024

/**
 * struct djp_match - what a search through the symbols has found
 * @name: what is looked for
 * @addr: the last address that it was found at
 * @nr: at how many different addresses
 * @next: the next with the same hash, from 1 on; 0 if there is none
 */
struct djp_match {
	const char	*name;
	unsigned long	addr;
	unsigned int	nr;
	u32		next;
};

/**
 * struct djp_search - many names that are looked for in one pass
 * @matches: one for each different name
 * @nr: how many
 * @bits: log2 of the number of @heads
 * @heads: for each hash the first match, from 1 on; 0 if there is none
 */
struct djp_search {
	struct djp_match	*matches;
	unsigned int		nr;
	unsigned int		bits;
	u32			*heads;
};

/* Only text can be probed. */
static bool djp_may_match(unsigned long addr)
{
	return addr >= (unsigned long)djp_k._stext &&
		addr < (unsigned long)djp_k._etext;
}

static int djp_matched(void *data, unsigned long addr)
{
	struct djp_match *match = data;

	/* An alias of the same address is no other. */
	if (!djp_may_match(addr) || (match->nr && match->addr == addr))
		return 0;
	match->addr = addr;
	match->nr++;
	return 0;
}

static u32 *djp_search_head(const struct djp_search *search, const char *name)
{
	u32 hash = full_name_hash(NULL, name, strlen(name));

	return &search->heads[hash_32(hash, search->bits)];
}

static struct djp_match *djp_search_find(const struct djp_search *search,
					 u32 head, const char *name)
{
	struct djp_match *match;

	for (; head; head = match->next) {
		match = &search->matches[head - 1];
		if (!strcmp(match->name, name))
			return match;
	}
	return NULL;
}

static int djp_search_symbol(void *data, const char *name, unsigned long addr)
{
	const struct djp_search *search = data;
	struct djp_match *match;

	if (!djp_may_match(addr))
		return 0;
	match = djp_search_find(search, *djp_search_head(search, name), name);
	return match ? djp_matched(match, addr) : 0;
}

static void djp_search_add(struct djp_search *search, const char *name)
{
	u32 *head = djp_search_head(search, name);
	struct djp_match *match;

	if (djp_search_find(search, *head, name))
		return;
	match = &search->matches[search->nr++];
	match->name = name;
	match->next = *head;
	*head = search->nr;
}

static int djp_lookup_done(struct djp_lookup *lookup,
			   const struct djp_match *match)
{
	struct djp_refusal *refusal = &lookup->refusal;
	unsigned long start = match->addr, size, before;

	/* A module's, "MOD:SYM" or "SYM" alone; or an init or data symbol. */
	if (!match->nr)
		start = djp_k.lookup_name(lookup->symbol);
	if (!start)
		return djp_refuse(refusal, DJP_SYMBOL_NOT_FOUND, 0);
	if (match->nr > 1)
		return djp_refuse(refusal, DJP_SYMBOL_AMBIGUOUS, start);
	/* Where a symbol of the kernel's text begins it has bytes. */
	if (lookup->offset || !match->nr) {
		if (!djp_k.kallsyms_lookup_size_offset(start, &size, &before))
			return djp_refuse(refusal, DJP_NOT_TEXT, start);
		if (lookup->offset >= size - before)
			return djp_refuse(refusal, DJP_OUTSIDE_SYMBOL,
					  start + size - before);
	}
	lookup->addr = start + lookup->offset;
	return 0;
}

/* One name after the other. 4dc533e0f2c0, v6.2, finds one without reading all. */
static void djp_resolve_each(struct djp_lookup *lookups, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		struct djp_match match = { };

		if (!strchr(lookups[i].symbol, ':'))
			djp_k.kallsyms_on_each_match_symbol(djp_matched,
							    lookups[i].symbol,
							    &match);
		djp_lookup_done(&lookups[i], &match);
		cond_resched();
	}
}

static void djp_resolve_pass(const struct djp_search *search,
			     struct djp_lookup *lookups, int nr)
{
	const struct djp_match none = { }, *match;
	int i;

	djp_each_symbol(djp_search_symbol, (void *)search);
	for (i = 0; i < nr; i++) {
		const char *symbol = lookups[i].symbol;

		match = djp_search_find(search, *djp_search_head(search, symbol),
					symbol);
		djp_lookup_done(&lookups[i], match ?: &none);
	}
}

/**
 * djp_resolve_all() - the addresses that many symbols and offsets stand for
 * @lookups: each with @symbol and @offset; @addr is filled in, or @refusal
 * @nr: how many
 *
 * Where the names have to be read one after the other, they are read once for all.
 *
 * Context: may sleep.
 */
void djp_resolve_all(struct djp_lookup *lookups, int nr)
{
	struct djp_search search = { };
	int i;

	for (i = 0; i < nr; i++) {
		lookups[i].addr = 0;
		memset(&lookups[i].refusal, 0, sizeof(lookups[i].refusal));
	}
	if (djp_k.kallsyms_on_each_match_symbol && nr < DJP_PASS_MIN) {
		djp_resolve_each(lookups, nr);
		return;
	}
	search.bits = max(ilog2(max(nr, 1)) + 1, 4);
	search.heads = kvcalloc(1u << search.bits, sizeof(*search.heads),
				GFP_KERNEL);
	search.matches = kvcalloc(max(nr, 1), sizeof(*search.matches),
				  GFP_KERNEL);
	if (search.heads && search.matches) {
		for (i = 0; i < nr; i++) {
			if (!strchr(lookups[i].symbol, ':'))
				djp_search_add(&search, lookups[i].symbol);
		}
		djp_resolve_pass(&search, lookups, nr);
	} else {
		for (i = 0; i < nr; i++)
			djp_refuse(&lookups[i].refusal, DJP_NO_MEMORY, 0);
	}
	kvfree(search.matches);
	kvfree(search.heads);
}

/**
 * djp_resolve() - the address that a symbol and an offset stand for
 * @symbol: "SYM" or "MOD:SYM"
 * @offset: bytes from there; less than the symbol's size
 * @addr: the address
 * @refusal: why not
 *
 * Context: may sleep.
 * Return: 0, or the negative errno of @refusal's reason.
 */
int djp_resolve(const char *symbol, unsigned long offset, unsigned long *addr,
		struct djp_refusal *refusal)
{
	struct djp_lookup lookup = { .symbol = symbol, .offset = offset };

	djp_resolve_all(&lookup, 1);
	if (lookup.refusal.reason != DJP_OK)
		return djp_refuse(refusal, lookup.refusal.reason,
				  lookup.refusal.offending);
	*addr = lookup.addr;
	return 0;
}

/**
 * djp_symbolize() - an address as users write it
 * @addr: the address
 * @buf: "[MOD:]SYM+0xOFF", or "0xADDR" if it is in no symbol
 * @len: of @buf; KSYM_SYMBOL_LEN is enough for every symbol
 */
void djp_symbolize(unsigned long addr, char *buf, size_t len)
{
	char *symbol, *slash, *mod;

	symbol = kmalloc(KSYM_SYMBOL_LEN, GFP_KERNEL);
	if (!symbol) {
		snprintf(buf, len, "0x%lx", addr);
		return;
	}
	/* "SYM+0xOFF/0xSIZE", and " [MOD]" or " [MOD BUILDID]" behind it */
	sprint_symbol(symbol, addr);
	slash = strchr(symbol, '/');
	mod = strchr(symbol, '[');
	if (!slash) {
		snprintf(buf, len, "0x%lx", addr);
	} else {
		*slash = '\0';
		if (mod)
			mod[strcspn(mod, " ]")] = '\0';
		snprintf(buf, len, "%s%s%s", mod ? mod + 1 : "",
			 mod ? ":" : "", symbol);
	}
	kfree(symbol);
}
