"""Symbols of a whole write, resolved together."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pyctl import Guest, Probes, Reason
from pyctl.errors import ControlError

pytestmark = pytest.mark.vm

#: More than are looked for one by one (DJP_PASS_MIN in kmod/core/resolve.c).
MANY = 3000
FEW = 50
SEED = 5
FTRACE = "/sys/kernel/tracing/available_filter_functions"
MCOUNT_INSN_SIZE = 5


class Symbols:
    """The kernel's text symbols, by /proc/kallsyms, and those that ftrace traces."""

    def __init__(self, guest: Guest) -> None:
        rows = [
            line.split()
            for line in guest.transport.read("/proc/kallsyms").decode().splitlines()
            if "[" not in line
        ]
        start = next(int(row[0], 16) for row in rows if row[2] == "_stext")
        end = next(int(row[0], 16) for row in rows if row[2] == "_etext")
        self.places: dict[str, set[int]] = {}
        for address, kind, name in rows:
            if kind in "tTwW" and start <= int(address, 16) < end:
                self.places.setdefault(name, set()).add(int(address, 16))
        self.traced = [
            line
            for line in guest.transport.read(FTRACE).decode().splitlines()
            if len(self.places.get(line, ())) == 1
        ]

    def address(self, name: str) -> int:
        """Of a symbol that there is once."""
        (address,) = self.places[name]
        return address

    def ambiguous(self) -> str:
        """A function of which there are several."""
        return next(name for name, at in self.places.items() if len(at) > 1)


@pytest.fixture(scope="module")
def symbols(guest: Guest) -> Symbols:
    return Symbols(guest)


@pytest.fixture(scope="module")
def accepted(guest: Guest, symbols: Symbols) -> list[str]:
    """Functions that take a probe: those that ftrace traces, but for a few that it must not."""
    chosen = list(symbols.traced)
    random.Random(SEED).shuffle(chosen)
    chosen = chosen[: MANY + 500]
    with guest.probes() as probes:
        while (refused := _first_refused(probes, symbols, chosen)) is not None:
            del chosen[refused]
        probes.remove_all()
    return chosen[:MANY]


def _first_refused(probes: Probes, symbols: Symbols, names: Sequence[str]) -> int | None:
    """The index of the first that takes no probe; None if all are added."""
    try:
        probes.add_many([f"{symbols.address(name):#x}" for name in names])
    except ControlError as error:
        return (error.line or 1) - 1
    return None


@pytest.mark.parametrize("count", [FEW, MANY])
def test_addresses_are_those_of_kallsyms(
    watched: Guest, probes: Probes, symbols: Symbols, accepted: list[str], count: int
) -> None:
    names = accepted[:count]
    probes.add_many(names, names=[f"s{n}" for n in range(count)])
    rows = {row.name: row.address for row in probes.list()}
    # Each has its ftrace site where the symbol is, or behind an endbr64.
    off = {
        name: rows[f"s{n}"] - symbols.address(name) - MCOUNT_INSN_SIZE
        for n, name in enumerate(names)
    }
    assert {name: d for name, d in off.items() if d not in (0, 4)} == {}


@pytest.mark.usefixtures("targets")
@pytest.mark.parametrize("count", [FEW, MANY])
def test_offsets_modules_and_the_same_name_twice(
    watched: Guest, probes: Probes, symbols: Symbols, accepted: list[str], count: int
) -> None:
    """In one write: a symbol, the same with an offset, a symbol of a module by two names."""
    names = accepted[: count - 4]
    first = names[0]
    targets = [*names, f"{first}+5", f"{first}+0x5", "djp_test:djp_test_plain", "djp_test_plain"]
    probes.add_many(targets, names=[f"s{n}" for n in range(count)])
    rows = {row.name: row.address for row in probes.list()}
    last = [rows[f"s{n}"] for n in range(count - 4, count)]
    assert last[:2] == [symbols.address(first) + 5] * 2
    assert last[2] == last[3]


@pytest.mark.parametrize("count", [FEW, MANY])
def test_the_line_that_is_wrong_is_named(
    watched: Guest, probes: Probes, symbols: Symbols, accepted: list[str], count: int
) -> None:
    names = accepted[:count]
    for wrong, reason in (
        ("no_such_function_here", Reason.SYMBOL_NOT_FOUND),
        ("no_such_module:vfs_read", Reason.SYMBOL_NOT_FOUND),
        (symbols.ambiguous(), Reason.SYMBOL_AMBIGUOUS),
        (f"{names[0]}+0xfffff", Reason.OUTSIDE_SYMBOL),
    ):
        at = count // 2
        targets = [*names[:at], wrong, *names[at:]]
        with pytest.raises(ControlError) as caught:
            probes.add_many(targets, names=[f"s{n}" for n in range(len(targets))])
        assert (caught.value.line, caught.value.reason) == (at + 1, reason)
        assert probes.list() == []
