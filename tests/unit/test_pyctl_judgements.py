"""The reader of the kernel's judgements, without a kernel."""

from __future__ import annotations

import base64
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from pyctl.errors import OracleError, ProtocolError
from pyctl.methods import Method
from pyctl.reasons import Reason
from pyctl.transport import LocalTransport, RecordingTransport, ScriptedProcess, bootstrap
from pyctl.verify.judgements import (
    REASONS,
    MethodCode,
    RelocationCode,
    SiteFlag,
    parse_judgements,
    read_judgements,
)

KERNEL, MODULE = 0xFFFFFFFF81000000, 0xFFFFFFFFC0200000
Row = tuple[int, int, int, int, int, int, int, int, int, int]
SITES: list[Row] = [
    (0, 1, 0, 0, 0, 6, 3, 0, 0, 0),
    (1, 2, 2, 1, 19, 7, 3, 2 | 4 | 32 | 64, 0b100, -130),
    (3, 7, 1, 4, 14, 0, 0, 1 | 8, 0, 0x7FFFFFFF),
]


def part(start: int, size: int, rows: list[Row]) -> bytes:
    head = struct.pack("<IIQ", 0xFFFFFFFF, size, start)
    return head + b"".join(struct.pack("<IBBBBBBBBi", *row) for row in rows)


def test_columns() -> None:
    judgements = parse_judgements(part(KERNEL, 10, SITES) + part(MODULE, 64, [SITES[0]]))
    kernel, module = judgements.parts
    assert (kernel.start, kernel.size, len(kernel)) == (KERNEL, 10, 3)
    assert (module.start, module.size, len(module)) == (MODULE, 64, 1)
    assert len(judgements) == 4
    assert kernel.address.tolist() == [KERNEL, KERNEL + 1, KERNEL + 3]
    names = (
        *("offset", "length", "relocation", "method", "reason"),
        *("dcr_len", "nr_insns", "flags", "traps", "disp"),
    )
    for index, row in enumerate(SITES):
        assert tuple(int(getattr(kernel, name)[index]) for name in names) == row
    assert kernel.disp[kernel.method == MethodCode.JUMP_INT3].tolist() == [-130]
    assert np.flatnonzero(kernel.flags & SiteFlag.PADDING).tolist() == [2]
    assert np.flatnonzero(kernel.flags & SiteFlag.FLAGS_DEAD_BUT_CARRY).tolist() == [1]
    assert np.flatnonzero(kernel.flags & SiteFlag.CARRY_DEAD).tolist() == [1]
    assert RelocationCode(int(kernel.relocation[1])) is RelocationCode.JCC


def test_codes_are_words() -> None:
    assert [code.word for code in MethodCode] == list(Method)
    assert REASONS[21] is Reason.BRANCH_TARGET


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (part(KERNEL, 10, SITES)[:-1], "not records of 16"),
        (b"", "not the beginning of a part"),
        (part(KERNEL, 10, SITES)[16:], "not the beginning of a part"),
        (part(KERNEL, 3, SITES), "do not ascend within its 3 bytes"),
        (part(KERNEL, 10, [SITES[1], SITES[0]]), "do not ascend"),
        (part(KERNEL, 10, [SITES[1], SITES[1]]), "do not ascend"),
    ],
)
def test_what_can_not_be(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        parse_judgements(data)


def test_a_part_without_sites() -> None:
    first, second = parse_judgements(part(KERNEL, 10, []) + part(MODULE, 64, SITES)).parts
    assert (len(first), len(second)) == (0, 3)


def said(lines: list[str], status: int = 0) -> RecordingTransport:
    """A host whose script says this."""
    process = ScriptedProcess(first=lines, status=status)
    process.ended = True
    return RecordingTransport(processes={("python3",): lambda: process})


def test_it_comes_compressed(tmp_path: Path) -> None:
    """The script that runs on the host, run here over a plain file."""
    file = tmp_path / "judgements"
    rows: list[Row] = [(4 * n, 4, 0, 0, 0, 8, 2, 0, 0, 0) for n in range(50_000)]
    file.write_bytes(part(KERNEL, 200_000, rows))
    with LocalTransport() as here:
        (read,) = read_judgements(here, str(tmp_path)).parts
    assert len(read) == 50_000
    assert read.offset.tolist() == [row[0] for row in rows]
    packed = subprocess.run(
        bootstrap.command("x", str(file)),
        input=bootstrap.bundle("pyctl.verify.remote.pack"),
        capture_output=True,
        check=True,
    ).stdout
    assert len(packed) < file.stat().st_size / 3
    assert packed.count(b"\n") > 1  # as it comes


def test_what_goes_wrong_on_the_way(tmp_path: Path) -> None:
    with (
        LocalTransport() as here,
        pytest.raises(OracleError, match=r"can't read the judgements[^$]*FileNotFoundError"),
    ):
        read_judgements(here, str(tmp_path))
    packed = zlib.compress(part(KERNEL, 10, SITES))
    whole = base64.b64encode(packed).decode()
    assert len(read_judgements(said([whole]))) == 3
    for lines, words in (
        ([base64.b64encode(packed[:-6]).decode()], "did not arrive whole"),
        ([], "did not arrive whole"),
        (["Traceback"], "said 'Traceback'"),
        ([base64.b64encode(b"12345678").decode()], "arrived broken"),
    ):
        with pytest.raises(ProtocolError, match=words):
            read_judgements(said(lines))
    with pytest.raises(OracleError):
        read_judgements(said([whole], status=1))
