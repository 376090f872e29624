"""Where control goes in a host's kernel beside what its instructions say: jump labels, fixups
of instructions that may fault, warnings, static calls; and which functions were compiled, by
their ftrace sites. All of it read from the kernel's own tables, nothing asked of djprobes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyctl.errors import OracleError, ProtocolError, RemoteCommandError
from pyctl.transport import Transport, bootstrap
from pyctl.verify.livetext import Text

SCRIPT = "pyctl.verify.remote.flow"
SHARED = ("pyctl.verify.remote.kerneltext", "pyctl.verify.remote.livetext")
#: Seconds, before scaling.
READ_SECONDS = 300.0

ENDBR64 = bytes.fromhex("f30f1efa")
NOP5 = bytes.fromhex("0f1f440000")
CALL = 0xE8
SITE_LEN = 5


@dataclass(frozen=True)
class Function:
    """A text symbol; ``module`` is empty for the kernel's own."""

    address: int
    name: str
    module: str = ""


@dataclass(frozen=True)
class KernelFlow:
    """``jumps`` and ``fixups`` are pairs of address and target; ``warnings`` are ud2s behind
    which control goes on, ``calls`` static calls, which may do nothing. ``traced`` are name and
    module of each function with an ftrace site, ``functions`` all text symbols."""

    jumps: Sequence[tuple[int, int]] = ()
    fixups: Sequence[tuple[int, int]] = ()
    warnings: Sequence[int] = ()
    calls: Sequence[int] = ()
    traced: frozenset[tuple[str, str]] = frozenset()
    functions: Sequence[Function] = ()

    def compiled(self, texts: Sequence[Text]) -> dict[int, int]:
        """Entry and ftrace site of each function that has one: it is in ftrace's list, and
        its bytes show it. A name that exists twice may be in the list for one of them."""
        found = {}
        for function in self.functions:
            if (function.name, function.module) in self.traced:
                site = ftrace_site(texts, function.address)
                if site is not None:
                    found[function.address] = site
        return found


def ftrace_site(texts: Sequence[Text], entry: int) -> int | None:
    """Where ftrace's 5 bytes stand at this entry, if they do."""
    for text in texts:
        if text.start <= entry < text.end:
            site = entry + (len(ENDBR64) if text.at(entry, 4) == ENDBR64 else 0)
            code = text.at(site, SITE_LEN)
            return site if code == NOP5 or code[:1] == bytes([CALL]) else None
    return None


def read_flow(transport: Transport, ranges: Iterable[tuple[int, int]]) -> KernelFlow:
    """Those that lie in these texts, given as start and size. Needs root on the host, and no
    lockdown. OracleError if a table can't be found."""
    argv = bootstrap.command("djp-flow")
    question = json.dumps(list(ranges)).encode() + b"\n"
    try:
        done = transport.run(
            argv, input=bootstrap.bundle(SCRIPT, SHARED) + question, timeout=READ_SECONDS
        )
    except RemoteCommandError as error:
        raise OracleError(
            f"{transport.host}: can't read the kernel's tables\n"
            f"{error.stderr.decode(errors='replace').strip()}",
            hint="it needs root there, /proc/kcore, and no kernel lockdown",
        ) from error
    try:
        answer = json.loads(zlib.decompress(done.stdout))
    except (zlib.error, ValueError) as error:
        raise ProtocolError(f"{transport.host}: the tables did not arrive whole") from error
    if answer["missing"]:
        raise OracleError(f"{transport.host}: no tables of {', '.join(answer['missing'])}")
    return KernelFlow(
        jumps=[(at, to) for at, to in answer["jumps"]],
        fixups=[(at, to) for at, to in answer["fixups"]],
        warnings=answer["warnings"],
        calls=answer["calls"],
        traced=frozenset((name, module) for name, module in answer["traced"]),
        functions=[Function(*each) for each in answer["functions"]],
    )
