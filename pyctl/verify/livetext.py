"""Ranges of a host's kernel memory as they are now, fetched together and compressed."""

from __future__ import annotations

import bisect
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyctl.errors import OracleError, ProtocolError, RemoteCommandError
from pyctl.transport import Transport, bootstrap

SCRIPT = "pyctl.verify.remote.livetext"
SHARED = ("pyctl.verify.remote.kerneltext",)
#: Seconds, before scaling.
READ_SECONDS = 300.0


@dataclass(frozen=True)
class Text:
    """Executable memory: ``data`` from the address ``start`` on, and the symbols in it, as
    pairs of address and name, ascending."""

    start: int
    data: bytes
    symbols: tuple[tuple[int, str], ...]

    @property
    def end(self) -> int:
        """One behind its last byte."""
        return self.start + len(self.data)

    def at(self, address: int, length: int) -> bytes:
        """Some bytes of it."""
        return self.data[address - self.start : address - self.start + length]

    def describe(self, address: int) -> str:
        """``symbol+0xOFF`` of an address in it."""
        index = bisect.bisect_right(self.symbols, address, key=lambda symbol: symbol[0]) - 1
        if index < 0:
            return hex(address)
        start, name = self.symbols[index]
        return f"{name}+{address - start:#x}"


def read_memory(transport: Transport, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range, given as address and length, in one go. Needs root on the
    host, and no lockdown."""
    return _read(transport, list(ranges), symbols=False)[1]


def peek(transport: Transport, addresses: Iterable[int], length: int = 1) -> list[bytes]:
    """``length`` bytes at each address."""
    return read_memory(transport, [(address, length) for address in addresses])


def read_text(transport: Transport, ranges: Iterable[tuple[int, int]]) -> list[Text]:
    """The same, with symbols."""
    asked = list(ranges)
    symbols, contents = _read(transport, asked, symbols=True)
    addresses = [address for address, _ in symbols]
    return [
        Text(
            start,
            data,
            symbols[
                bisect.bisect_left(addresses, start) : bisect.bisect_left(addresses, start + length)
            ],
        )
        for (start, length), data in zip(asked, contents, strict=True)
    ]


def _read(
    transport: Transport, ranges: Sequence[tuple[int, int]], *, symbols: bool
) -> tuple[tuple[tuple[int, str], ...], list[bytes]]:
    question = json.dumps({"ranges": ranges, "symbols": symbols}).encode() + b"\n"
    argv = bootstrap.command("djp-livetext")
    try:
        done = transport.run(
            argv, input=bootstrap.bundle(SCRIPT, SHARED) + question, timeout=READ_SECONDS
        )
    except RemoteCommandError as error:
        raise OracleError(
            f"{transport.host}: can't read kernel memory\n"
            f"{error.stderr.decode(errors='replace').strip()}",
            hint="it needs root there, /proc/kcore, and no kernel lockdown",
        ) from error
    try:
        line, _, data = zlib.decompress(done.stdout).partition(b"\n")
    except zlib.error as error:
        raise ProtocolError(
            f"{transport.host}: kernel memory did not arrive whole: {error}"
        ) from error
    contents, at = [], 0
    for _start, length in ranges:
        contents.append(data[at : at + length])
        at += length
    if at != len(data):
        raise ProtocolError(f"{transport.host}: {len(data)} bytes of memory, {at} were asked for")
    return tuple((address, name) for address, name in json.loads(line)), contents
