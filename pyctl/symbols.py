"""Names of kernel addresses."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from pyctl.transport import Transport, bootstrap

SCRIPT = "pyctl.remote.symbols"
LABEL = "djp-symbols"
TEXT = "$2 ~ /^[tTwW]$/ {print $1}"


@dataclass(frozen=True)
class Symbol:
    """The symbol at or below an address, and how many bytes below."""

    name: str
    offset: int = 0
    module: str | None = None

    def __str__(self) -> str:
        base = f"{self.module}:{self.name}" if self.module else self.name
        return f"{base}+{self.offset:#x}" if self.offset else base


def symbolize(transport: Transport, addresses: Collection[int]) -> dict[int, Symbol]:
    """The symbols of these addresses on a host, in one round trip; those that no symbol is
    near are left out. Needs root, or the kernel shows no addresses."""
    wanted = sorted(set(addresses))
    if not wanted:
        return {}
    argv = bootstrap.command(LABEL, json.dumps(wanted))
    done = transport.run(argv, input=bootstrap.bundle(SCRIPT))
    answers = json.loads(done.stdout)
    return {
        address: Symbol(*answer)
        for address, answer in zip(wanted, answers, strict=True)
        if answer is not None
    }


def text_symbols(transport: Transport) -> frozenset[int]:
    """The addresses of all text symbols on a host, those of its modules too. Needs root."""
    done = transport.run(["awk", TEXT, "/proc/kallsyms"])
    return frozenset(int(word, 16) for word in done.text.split())
