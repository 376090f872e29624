"""Where AC and DF are known to be clear, computed from iced-x86's knowledge of instructions,
independently of the kernel module.

    oracle = Calm(texts, read_flow(transport, ranges))
    oracle.at(address)

It is all of a compiled function in which no instruction can set them: by the ABI it begins
with DF clear, and nobody calls it with access to user memory open. Its end is where the next
text symbol is.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from iced_x86 import Decoder, Mnemonic

from pyctl.verify.flow import KernelFlow
from pyctl.verify.livetext import Text

#: They set AC or DF, or may.
STIRS = frozenset({Mnemonic.STAC, Mnemonic.STD, Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ})


class Calm:
    """The calm functions of some texts."""

    def __init__(self, texts: Sequence[Text], flow: KernelFlow) -> None:
        self._texts = sorted(texts, key=lambda text: text.start)
        self._compiled = flow.compiled(texts).keys()
        #: By the function's address; of those that were asked about.
        self._known: dict[int, bool] = {}

    def at(self, address: int) -> bool:
        """Whether AC and DF are clear at this address."""
        for text in self._texts:
            if text.start <= address < text.end:
                return self._in(text, address)
        return False

    def _in(self, text: Text, address: int) -> bool:
        index = bisect.bisect_right(text.symbols, address, key=lambda symbol: symbol[0])
        if not index:
            return False
        start = text.symbols[index - 1][0]
        if start not in self._compiled:
            return False
        end = text.symbols[index][0] if index < len(text.symbols) else text.end
        if start not in self._known:
            self._known[start] = _is_calm(text.at(start, end - start), start)
        return self._known[start]


def _is_calm(code: bytes, address: int) -> bool:
    """What can't be decoded may be anything."""
    return all(
        not insn.is_invalid and insn.mnemonic not in STIRS for insn in Decoder(64, code, ip=address)
    )
