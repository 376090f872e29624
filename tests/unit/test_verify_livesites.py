"""How the emulator's sites are read from a host: explanations and memory, each in one go."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from pathlib import Path

import pytest

from pyctl.errors import OracleError, ProtocolError
from pyctl.transport import RecordingTransport, bootstrap
from pyctl.verify.livesites import explain_many, read_sites
from pyctl.verify.livetext import Text
from pyctl.verify.remote import explain
from pyctl.verify.remote.kerneltext import Kcore
from pyctl.verify.remote.livetext import PageTables

IA = 0xFFFFFFFF81000010
DETOUR = 0xFFFFFFFFC0400000
ANSWER = f"""target: {IA:#x}
address: {IA:#x}
symbol: function+0x10
verdict: jump
method: jump+int3
reason: branch-target
dcr: 48 89 c3 48 11 c8
relocations: none
ftrace: -
state: jump
traps: +3
text: e9 xx xx cc xx
detour: {DETOUR:#x} 9c 9d 90
entries: +0:{DETOUR + 2:#x} +3:{DETOUR + 5:#x}
"""
TEXT = Text(IA - 16, bytes(16) + bytes.fromhex("4889c34811c8"), ())
LIVE, CODE = bytes.fromhex("e91122cc33c8"), bytes.fromhex("9c9d91")


def host(answers: list[str | None], memory: bytes = LIVE + CODE) -> RecordingTransport:
    """Gives these answers, and this memory."""
    explained = zlib.compress(json.dumps(answers).encode())
    return RecordingTransport(
        results={
            tuple(bootstrap.command("djp-explain")): (0, explained),
            tuple(bootstrap.command("djp-livetext")): (0, zlib.compress(b"[]\n" + memory)),
        }
    )


def test_a_site_is_what_memory_says() -> None:
    there = host([ANSWER])
    (live,) = read_sites(there, [hex(IA)], [TEXT])
    assert len(there.asked("run")) == 2
    site = live.site
    assert (site.address, site.original, site.live) == (IA, TEXT.data[16:], LIVE)
    assert (site.detour, site.code) == (DETOUR, CODE)
    assert site.entries == {0: DETOUR + 2, 3: DETOUR + 5}
    assert site.traps == (3,)
    assert live.explanation.detour is not None
    assert live.explanation.detour.code != CODE, "that is only what was said"


def test_what_is_no_site() -> None:
    with pytest.raises(OracleError, match="not known"):
        explain_many(host([None]), ["nothing"])
    with pytest.raises(OracleError, match="no detour"):
        read_sites(host([ANSWER.replace("state: jump", "state: -")]), [hex(IA)], [TEXT])
    with pytest.raises(OracleError, match="in none of the texts"):
        read_sites(host([ANSWER]), [hex(IA)], [])
    with pytest.raises(ProtocolError):
        explain_many(RecordingTransport(results={("python3",): (0, b"?")}), ["it"])
    with pytest.raises(OracleError):
        explain_many(RecordingTransport(results={("python3",): (1, b"")}), ["it"])


def test_a_target_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explain").write_text("verdict: jump\n")
    file = os.open(tmp_path / "explain", os.O_RDWR)
    assert explain.explain(file, "x") == "x\nrdict: jump\n"

    def write(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOENT, "")

    monkeypatch.setattr(os, "write", write)
    assert explain.explain(file, "x") is None
    os.close(file)


@pytest.mark.parametrize("five", [False, True])
def test_memory_through_the_page_tables(five: bool, tmp_path: Path) -> None:
    """Two neighbouring pages that are apart in physical memory, and one big page."""
    base = 0xFFFF888000000000
    memory = bytearray(16 * 4096)

    def entry(table: int, index: int, value: int) -> None:
        struct.pack_into("<Q", memory, table * 4096 + 8 * index, value)

    virtual = 0xFFFFFFFF01203FFE
    levels = [virtual >> shift & 511 for shift in ((48,) if five else ()) + (39, 30, 21, 12)]
    for table, index in enumerate(levels[:-1]):
        entry(table, index, (table + 1) * 4096 | 0x63)
    last = len(levels) - 1
    entry(last, levels[-1], 1 << 63 | 9 * 4096 | 0x61)
    entry(last, levels[-1] + 1, 1 << 63 | 7 * 4096 | 0x61)
    entry(last - 1, levels[-2] + 1, 1 << 63 | 0xE1)  # 2 MiB from physical address 0 on
    memory[10 * 4096 - 2 : 10 * 4096] = b"ab"
    memory[7 * 4096 : 7 * 4096 + 2] = b"cd"
    struct.pack_into("<Q", memory, 15 * 4096, base)
    struct.pack_into("<I", memory, 15 * 4096 + 8, five)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, base, 0, len(memory), len(memory), 0)
    (tmp_path / "kcore").write_bytes((head + load).ljust(0x1000, b"\0") + memory)
    symbols = [
        f"{base:x} D init_top_pgt",
        f"{base + 15 * 4096:x} D page_offset_base",
        f"{base + 15 * 4096 + 8:x} D __pgtable_l5_enabled",
        "1 t init_top_pgt [mod]",
    ]
    tables = PageTables(Kcore(str(tmp_path / "kcore")), symbols)
    assert tables.read(virtual, virtual + 4) == b"abcd"
    big = (virtual & -(1 << 21)) + (1 << 21)
    assert tables.read(big + 7 * 4096, big + 7 * 4096 + 2) == b"cd"
    with pytest.raises(RuntimeError, match="nothing is mapped"):
        tables.read(virtual + 8192, virtual + 8193)
