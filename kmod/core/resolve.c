// SPDX-License-Identifier: GPL-2.0
/*
 * From a symbol to an address.
 */
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core/internal.h"

/**
 * struct djp_match - what a search through the symbols has found
 * @name: what is looked for
 * @addr: the last address that it was found at
 * @nr: at how many different addresses
 */
struct djp_match {
	const char	*name;
	unsigned long	addr;
	unsigned int	nr;
};

static int djp_matched(void *data, unsigned long addr)
{
	struct djp_match *match = data;

	/* Only text can be probed; an alias of the same address is no other. */
	if (addr < (unsigned long)djp_k._stext ||
	    addr >= (unsigned long)djp_k._etext)
		return 0;
	if (match->nr && match->addr == addr)
		return 0;
	match->addr = addr;
	match->nr++;
	return 0;
}

static int djp_matches(void *data, const char *name, struct module *mod,
		       unsigned long addr)
{
	struct djp_match *match = data;

	return strcmp(name, match->name) ? 0 : djp_matched(data, addr);
}

static unsigned long djp_lookup(const char *symbol, struct djp_refusal *refusal)
{
	struct djp_match match = { .name = symbol };

	if (!strchr(symbol, ':')) {
		/* 4dc533e0f2c0, v6.2, finds a name without reading all. */
		if (djp_k.kallsyms_on_each_match_symbol)
			djp_k.kallsyms_on_each_match_symbol(djp_matched, symbol,
							    &match);
		else
			djp_k.kallsyms_on_each_symbol(djp_matches, &match);
	}
	/* A module's, "MOD:SYM" or "SYM" alone; or an init or data symbol. */
	if (!match.nr)
		match.addr = djp_k.lookup_name(symbol);
	if (!match.addr)
		djp_refuse(refusal, DJP_SYMBOL_NOT_FOUND, 0);
	else if (match.nr > 1)
		djp_refuse(refusal, DJP_SYMBOL_AMBIGUOUS, match.addr);
	return match.nr > 1 ? 0 : match.addr;
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
	unsigned long size, before;
	unsigned long start = djp_lookup(symbol, refusal);

	if (!start)
		return djp_reason_errno(refusal->reason);
	if (!djp_k.kallsyms_lookup_size_offset(start, &size, &before))
		return djp_refuse(refusal, DJP_NOT_TEXT, start);
	if (offset >= size - before)
		return djp_refuse(refusal, DJP_OUTSIDE_SYMBOL,
				  start + size - before);
	*addr = start + offset;
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
