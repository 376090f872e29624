"""Probed sites as they stand in a running kernel, for the emulator: the bytes at the site and
of its detour are read from its memory, not rebuilt and not asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pyctl.control import DEBUGFS
from pyctl.errors import OracleError, ProtocolError, RemoteCommandError
from pyctl.explanation import Explanation, parse_explanation
from pyctl.transport import Transport, bootstrap
from pyctl.verify.emulate import Site
from pyctl.verify.livetext import Text, read_memory

SCRIPT = "pyctl.verify.remote.explain"
#: Seconds, before scaling.
EXPLAIN_SECONDS = 300.0


@dataclass(frozen=True)
class LiveSite:
    """A probed site, and what ``explain`` says of it."""

    site: Site
    explanation: Explanation


def explain_many(
    transport: Transport, targets: Iterable[str], root: str = DEBUGFS
) -> list[Explanation]:
    """What the kernel says of each target, in one go. OracleError if it does not know one."""
    wanted = list(targets)
    argv = bootstrap.command("djp-explain", root)
    question = json.dumps(wanted).encode() + b"\n"
    try:
        done = transport.run(
            argv, input=bootstrap.bundle(SCRIPT) + question, timeout=EXPLAIN_SECONDS
        )
    except RemoteCommandError as error:
        raise OracleError(
            f"{transport.host}: can't ask for explanations\n"
            f"{error.stderr.decode(errors='replace').strip()}",
            hint="it needs root there, and djprobes loaded",
        ) from error
    try:
        answers = json.loads(zlib.decompress(done.stdout))
    except (zlib.error, ValueError) as error:
        raise ProtocolError(f"{transport.host}: the explanations did not arrive whole") from error
    unknown = [target for target, answer in zip(wanted, answers, strict=True) if answer is None]
    if unknown:
        raise OracleError(
            f"{transport.host}: {len(unknown)} targets are not known there: "
            f"{', '.join(unknown[:5])}"
        )
    return [parse_explanation(answer) for answer in answers]


def read_sites(
    transport: Transport,
    targets: Iterable[str],
    originals: Sequence[Text],
    root: str = DEBUGFS,
    *,
    dead: Callable[[int], int] = lambda _address: 0,
    calm: Callable[[int], bool] = lambda _address: False,
) -> list[LiveSite]:
    """The sites of these targets, which are probed; ``originals`` is text from before that.
    ``dead`` tells the flags that nobody reads from an address on, ``calm`` whether AC and DF
    are clear there.

    All memory is read in one go. OracleError if a target has no detour.
    """
    explanations = explain_many(transport, targets, root)
    ranges: list[tuple[int, int]] = []
    for each in explanations:
        if each.address is None or each.detour is None or each.state is None:
            raise OracleError(
                f"{transport.host}: {each.target} has no detour, its method is {each.method}",
                hint="only a probe that counts has one, and none of the method kprobe",
            )
        ranges.append((each.address, len(each.dcr)))
        ranges.append((each.detour.address, len(each.detour.code)))
    memory = read_memory(transport, ranges)
    found = []
    for explanation, text, code in zip(explanations, memory[::2], memory[1::2], strict=True):
        assert explanation.address is not None
        assert explanation.detour is not None
        site = Site(
            address=explanation.address,
            original=_original(originals, explanation.address, len(text)),
            live=text,
            detour=explanation.detour.address,
            code=code,
            entries={entry.offset: entry.address for entry in explanation.entries},
            traps=explanation.traps,
            dead=dead(explanation.address),
            calm=calm(explanation.address),
        )
        found.append(LiveSite(site, explanation))
    return found


def _original(texts: Sequence[Text], address: int, length: int) -> bytes:
    for text in texts:
        if text.start <= address < text.end:
            return text.at(address, length)
    raise OracleError(f"{address:#x} is in none of the texts")
