"""What ``djp bench hits`` puts into the functions of ``kmod/test/bench_text.S``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

#: The one that others are compared with.
OPTPROBE = "optprobe"
#: 1 hit in so many.
SAMPLE = 16


class Kind(StrEnum):
    """Whose it is."""

    OURS = "ours"
    PEER = "peer"


class Way(StrEnum):
    """Who attaches it: the file ``control`` of djprobes, the file ``peer`` of djp_bench, or
    bcc in a process of its own."""

    CONTROL = "control"
    PEER = "peer"
    BPF = "bpf"


def all_of(calls: int) -> int:
    """Each call is a hit."""
    return calls


def none_of(_calls: int) -> int:
    """None is."""
    return 0


def one_of(_calls: int) -> int:
    """Only the first is."""
    return 1


def sampled(calls: int) -> int:
    """One in 16 is."""
    return calls // SAMPLE


@dataclass(frozen=True)
class Method:
    """One row to be measured.

    ``function`` is djp_bench's, ``words`` what follows the address in ``control``, or the
    method's name in ``peer``; ``then`` is given to ``control`` after the commit. ``first``
    are the bytes that may be the first at the probe's address while it is called.
    ``expected`` makes hits of calls. ``optimise``: the kernel may make jumps of kprobes.
    """

    name: str
    what: str
    kind: Kind
    way: Way
    function: str
    words: str
    first: frozenset[int]
    then: str | None = None
    expected: Callable[[int], int] = all_of
    optimise: bool = False


JUMP, INT3, CALL = frozenset({0xE9}), frozenset({0xCC}), frozenset({0xE8})


def _count(
    name: str,
    what: str,
    words: str = "count",
    *,
    function: str = "dead",
    first: frozenset[int] = JUMP,
    then: str | None = None,
    expected: Callable[[int], int] = all_of,
) -> Method:
    return Method(
        name, what, Kind.OURS, Way.CONTROL, function, words, first, then=then, expected=expected
    )


def _handler(name: str, what: str, function: str, words: str = "djprobe") -> Method:
    return Method(name, what, Kind.OURS, Way.PEER, function, words, JUMP)


def _peer(
    name: str,
    what: str,
    words: str,
    *,
    function: str = "entry",
    first: frozenset[int] = CALL,
    optimise: bool = False,
) -> Method:
    return Method(name, what, Kind.PEER, Way.PEER, function, words, first, optimise=optimise)


#: The name of the probe in ``control``.
PROBE = "bench"

METHODS: tuple[Method, ...] = (
    _count("count", "the flags are dead"),
    _count("count-entry", "at a function's entry, behind the ftrace site", function="entry"),
    _count("count-carry", "only CF is live", function="carry"),
    _count("count-live", "the flags are live", function="live"),
    _count("count-if", "if %di >= 5, which holds", "count if %di >= 5"),
    _count("count-if-not", "if %di < 5, which does not", "count if %di < 5", expected=none_of),
    _count("count-soft", "can be switched off by a flag: on", "count soft"),
    _count(
        "count-soft-off",
        "the same, off",
        "count soft",
        then=f"disable {PROBE}",
        expected=none_of,
    ),
    _count("count-sample", f"1 hit in {SAMPLE}", f"count sample={SAMPLE}", expected=sampled),
    _count("count-hist", "a histogram of %di", "count hist=%di"),
    _count("count-by-cpu", "for each CPU", "count by=cpu"),
    _count("count-by-pid", "for each thread", "count by=pid"),
    _count("count-by-comm", "for each task name", "count by=comm"),
    _count("count-once", "one hit, then not taken out yet", "count once", expected=one_of),
    _count("count-int3", "method int3", "count method=int3", first=INT3),
    _handler("handler", "a handler in C", "calm"),
    _handler("handler-reads", "one that only reads its registers", "calm", "reader"),
    _handler("handler-entry", "a handler at a function's entry", "entry"),
    _handler("handler-asm", "in assembler: AC or DF may be set", "dead"),
    _handler("handler-live", "where the flags are live, too", "live"),
    _peer(
        "kprobe-stepped",
        "with a post_handler: single-stepped",
        "stepped",
        function="dead",
        first=INT3,
    ),
    _peer("kprobe", "without one, not optimised", "kprobe", function="dead", first=INT3),
    _peer(
        OPTPROBE,
        "the same, optimised into a jump",
        "kprobe",
        function="dead",
        first=JUMP,
        optimise=True,
    ),
    _peer("kprobe-ftrace", "a kprobe at an ftrace site", "kprobe"),
    _peer("ftrace-regs", "ftrace_ops with registers", "ftrace_regs"),
    _peer("ftrace", "ftrace_ops without", "ftrace"),
    _peer("fprobe", "what BPF's kprobe.multi is made of", "fprobe"),
    Method(
        "bpf-fentry",
        "a BPF program on a trampoline, per-CPU array",
        Kind.PEER,
        Way.BPF,
        "int_sqrt",
        "",
        CALL,
    ),
    _peer("ftrace-direct", "a direct call, one increment", "direct"),
    _peer("ftrace-direct-handler", "a direct call, and from there to C", "direct_handler"),
)
