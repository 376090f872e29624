"""What several of the kernel's files are made of: pairs, numbers, addresses with symbols."""

from __future__ import annotations

from dataclasses import dataclass

from pyctl.errors import ProtocolError


@dataclass(frozen=True)
class Location:
    """An address in kernel text, and ``symbol+0xOFF`` when the kernel told it."""

    address: int
    symbol: str | None = None

    def __str__(self) -> str:
        return f"{self.address:#x} {self.symbol}" if self.symbol else f"{self.address:#x}"


def parse_pairs(text: str, file: str, separator: str = ":") -> dict[str, str]:
    """Parse ``key: value`` lines (or ``key value`` with ``separator=" "``)."""
    pairs = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, found, value = line.partition(separator)
        if not found:
            raise ProtocolError(f"{file}: line {number} is not a key and a value: {line!r}")
        pairs[key.strip()] = value.strip()
    return pairs


def parse_location(text: str) -> Location | None:
    """Parse ``0xADDR symbol+0xOFF``; None for ``-``."""
    if text in {"", "-"}:
        return None
    address, _, symbol = text.partition(" ")
    return Location(parse_number(address, "an address"), symbol.strip() or None)


def parse_number(text: str, what: str) -> int:
    """A number as C writes it; ProtocolError, which says ``what`` it should be, otherwise."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise ProtocolError(f"{what} is not a number: {text!r}") from error
