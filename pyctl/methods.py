"""How a probe is reached, and how far it is: the words of ``probes``, ``explain`` and
``census``."""

from __future__ import annotations

from enum import StrEnum


class Method(StrEnum):
    """How a site is reached, or would be; from the cheapest to none at all."""

    #: A 5-byte jump over the displaced instructions.
    JUMP = "jump"
    #: The same, with int3s among the jump's bytes for those who branch there.
    JUMP_INT3 = "jump+int3"
    #: An int3 that stays, and a detour with the one instruction under it.
    INT3 = "int3"
    #: The kernel's own kprobe.
    KPROBE = "kprobe"
    #: No probe can stand here.
    REFUSED = "refused"


class State(StrEnum):
    """What stands at a probe's address now."""

    #: The int3, until a commit makes it a jump.
    BYPASS = "bypass"
    JUMP = "jump"
    INT3 = "int3"
    KPROBE = "kprobe"
    #: It does not count; the count stays. Nothing stands there, unless it is a soft probe's.
    DISABLED = "disabled"
    #: Its one hit (option ``once``) has come, and nothing stands there any more.
    SPENT = "spent"
    #: Nothing: the module that it was in has gone.
    GONE = "gone"


#: The states of a probe that waits for nothing: it is what its method makes it.
SETTLED = frozenset({State.JUMP, State.INT3, State.KPROBE})
#: The states of a probe that counts.
FIRING = SETTLED | {State.BYPASS}


def parse_method(text: str) -> Method | str:
    """The :class:`Method` of ``text``, or the text itself when a newer module sent it."""
    try:
        return Method(text)
    except ValueError:
        return text


def parse_state(text: str) -> State | str:
    """The :class:`State` of ``text``, or the text itself when a newer module sent it."""
    try:
        return State(text)
    except ValueError:
        return text
