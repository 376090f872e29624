"""What the kernel module makes of every instruction of the kernel, as arrays.

    judgements = read_judgements(guest.transport)
    for part in judgements.parts:           # the kernel, then each module
        part.start, part.size               # where its text is, in bytes
        part.length[part.method == MethodCode.JUMP]

Needs numpy, which the project's ``dev`` extra brings.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from pyctl.control import DEBUGFS
from pyctl.errors import OracleError, ProtocolError
from pyctl.methods import Method
from pyctl.reasons import Reason
from pyctl.transport import Transport
from pyctl.workloads.base import start_script

SCRIPT = "pyctl.verify.remote.pack"
LABEL = "djp-judgements"
#: Seconds, before scaling: the kernel makes a line's worth of records meanwhile.
LINE_SECONDS = 60.0
#: The offset that no site has: the record is the beginning of a part.
PART = 0xFFFFFFFF

#: One site, 16 bytes, little endian.
SITE = np.dtype(
    [
        ("offset", "<u4"),
        ("length", "u1"),
        ("relocation", "u1"),
        ("method", "u1"),
        ("reason", "u1"),
        ("dcr_len", "u1"),
        ("nr_insns", "u1"),
        ("flags", "u1"),
        ("traps", "u1"),
        ("disp", "<i4"),
    ]
)
#: The beginning of a part, of the same size.
HEAD = np.dtype([("mark", "<u4"), ("size", "<u4"), ("start", "<u8")])


class RelocationCode(IntEnum):
    """How the site's own instruction would be displaced: enum djp_relocation."""

    COPY = 0
    RIP = 1
    JCC = 2
    JMP = 3
    LOOP = 4
    CALL = 5
    CALL_INDIRECT = 6
    END = 7


class MethodCode(IntEnum):
    """Numbers of :class:`~pyctl.methods.Method`, in the kernel's order."""

    JUMP = 0
    JUMP_INT3 = 1
    INT3 = 2
    KPROBE = 3
    REFUSED = 4

    @property
    def word(self) -> Method:
        """As it is written elsewhere."""
        return Method[self.name]


class SiteFlag(IntFlag):
    """What else is known of a site."""

    #: Alignment padding made of nops; not counted as a site by the census.
    PADDING = 1
    #: Something branches here.
    TARGET = 2
    #: register_kprobe() would accept it.
    PEER_KPROBE = 4
    #: Mainline would optimise that kprobe into a jump.
    PEER_OPTPROBE = 8
    #: A probe moves behind the ftrace site here; its region is told of that address only.
    FTRACE = 16
    #: Of the status flags at most the carry flag may be read before it is written; never set
    #: without a region.
    FLAGS_DEAD_BUT_CARRY = 32
    #: Not even the carry flag.
    CARRY_DEAD = 64


#: Reason codes by their numbers.
REASONS = tuple(Reason)


@dataclass(frozen=True, eq=False)
class TextPart:
    """The kernel's text, or a module's, and its sites in the order of their addresses.

    ``start`` is an address, ``size`` in bytes; ``sites`` is an array of :data:`SITE`. The
    properties are its columns, each of shape (number of sites,).
    """

    start: int
    size: int
    sites: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def offset(self) -> NDArray[np.uint32]:
        """Of the insertion address, in bytes from ``start``."""
        return self.sites["offset"]

    @property
    def address(self) -> NDArray[np.uint64]:
        """The insertion address."""
        return self.sites["offset"] + np.uint64(self.start)

    @property
    def length(self) -> NDArray[np.uint8]:
        """Of the instruction there, in bytes."""
        return self.sites["length"]

    @property
    def relocation(self) -> NDArray[np.uint8]:
        """A :class:`RelocationCode`, of the instruction there."""
        return self.sites["relocation"]

    @property
    def method(self) -> NDArray[np.uint8]:
        """A :class:`MethodCode`."""
        return self.sites["method"]

    @property
    def reason(self) -> NDArray[np.uint8]:
        """Why not a plain jump: an index of :data:`REASONS`."""
        return self.sites["reason"]

    @property
    def dcr_len(self) -> NDArray[np.uint8]:
        """Bytes of the detoured code region; 0 if there is none."""
        return self.sites["dcr_len"]

    @property
    def nr_insns(self) -> NDArray[np.uint8]:
        """Instructions in it; padding behind the last is not counted."""
        return self.sites["nr_insns"]

    @property
    def flags(self) -> NDArray[np.uint8]:
        """:class:`SiteFlag` values."""
        return self.sites["flags"]

    @property
    def traps(self) -> NDArray[np.uint8]:
        """Bit k: an int3 at insertion address + k."""
        return self.sites["traps"]

    @property
    def disp(self) -> NDArray[np.int32]:
        """The instruction's RIP-relative or branch displacement, from its end; else 0."""
        return self.sites["disp"]


@dataclass(frozen=True, eq=False)
class Judgements:
    """All of it; the first part is the kernel itself."""

    parts: tuple[TextPart, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


def parse_judgements(data: bytes) -> Judgements:
    """Parse the file ``judgements``. Nothing is copied: the arrays are views of ``data``.

    ProtocolError if the records can't be what they should: a part first, and in each part
    sites that ascend and lie in its text.
    """
    if len(data) % SITE.itemsize:
        raise ProtocolError(f"judgements: {len(data)} bytes are not records of {SITE.itemsize}")
    return Judgements(tuple(_parts(np.frombuffer(data, SITE), np.frombuffer(data, HEAD))))


def read_judgements(transport: Transport, root: str = DEBUGFS) -> Judgements:
    """Let a host's kernel judge every instruction, and fetch the result, compressed. Takes
    tens of seconds on an emulated guest."""
    unpacker = zlib.decompressobj()
    blocks: list[bytes] = []
    with start_script(transport, LABEL, SCRIPT, (), f"{root}/judgements") as process:
        try:
            while (line := process.read_line(LINE_SECONDS)) is not None:
                blocks.append(unpacker.decompress(base64.b64decode(line, validate=True)))
        except ValueError as error:  # base64's errors are ValueErrors
            raise ProtocolError(f"{transport.host}: the judgements said {line!r}") from error
        except zlib.error as error:
            raise ProtocolError(f"{transport.host}: the judgements arrived broken") from error
        status = process.wait()
        words = process.stderr_tail()
    if status:
        raise OracleError(
            f"{transport.host}: can't read the judgements\n{words}".rstrip(),
            hint="it needs root there, and djprobes loaded",
        )
    if not unpacker.eof:
        raise ProtocolError(f"{transport.host}: the judgements did not arrive whole")
    return parse_judgements(b"".join(blocks))


def _parts(sites: NDArray[np.void], heads: NDArray[np.void]) -> Iterator[TextPart]:
    marks = np.flatnonzero(sites["offset"] == PART)
    if not len(marks) or marks[0] != 0:
        raise ProtocolError("judgements: the first record is not the beginning of a part")
    for first, end in zip(marks, [*marks[1:], len(sites)], strict=True):
        part = TextPart(
            int(heads["start"][first]), int(heads["size"][first]), sites[first + 1 : end]
        )
        offsets = part.offset
        if len(offsets) and (offsets[-1] >= part.size or np.any(offsets[1:] <= offsets[:-1])):
            raise ProtocolError(
                f"judgements: the sites of the part at {part.start:#x} do not ascend "
                f"within its {part.size} bytes"
            )
        yield part
