"""What a probe does besides counting every hit: the options of ``p`` in ``control``.

    Options(condition="%di >= 5", sample=16, hist="%si:u32")

Checked here by the kernel's rules, so that a mistake is found before anything is asked of
the host. A text that means the same is turned into the value: ``options.condition.field``
is a :class:`Field`. ``docs/debugfs.md`` has the grammar.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from pyctl.errors import UsageError
from pyctl.reasons import Reason

REGISTERS = (
    *("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
TYPES = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64")
DEFAULT_TYPE = "u64"
MAX_SAMPLE = 32_768

#: Of a displacement in an instruction.
OFFSETS = range(-(1 << 31) + 1, 1 << 31)
NUMBER = r"0[xX][0-9a-fA-F]+|0|[1-9][0-9]*"
VALUE = re.compile(rf"-?(?:{NUMBER})")
FIELD = re.compile(
    rf"(?:(?P<offset>[+-]?(?:{NUMBER}))\(%(?P<base>\w+)\)|%(?P<register>\w+))(?::(?P<type>\w+))?",
    re.ASCII,
)
CONDITION = re.compile(
    r"\s*(?P<field>[^\s=!<>&]+)\s*(?P<operator>==|!=|<=|>=|<|>|&)\s*(?P<value>\S+)\s*"
)
#: What is in memory at an address, so many bytes of it; None if it can't be read.
Memory = Callable[[int, int], bytes | None]


class OptionError(UsageError):
    """An option that the kernel would refuse, for ``reason``, because of ``token``."""

    def __init__(
        self, reason: Reason, token: str, message: str, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint or reason.hint)
        self.reason = reason
        self.token = token


class By(StrEnum):
    """What a probe's hits are split by."""

    CPU = "cpu"
    #: The task's own id, as of gettid(2).
    PID = "pid"
    COMM = "comm"


class Operator(StrEnum):
    """How a condition compares; ``&`` holds if they have a bit in common."""

    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    AND = "&"


COMPARE: dict[Operator, Callable[[int, int], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.GREATER: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.AND: lambda found, value: found & value != 0,
}


@dataclass(frozen=True)
class Field:
    """A register, or with an ``offset`` what is in memory there; ``%di``, ``+8(%di):u16``."""

    register: str
    offset: int | None = None
    type: str = DEFAULT_TYPE

    def __post_init__(self) -> None:
        if self.register not in REGISTERS:
            raise OptionError(
                Reason.BAD_FIELD, f"{self}", f"{self}: there is no register %{self.register}"
            )
        if self.type not in TYPES:
            raise OptionError(Reason.BAD_FIELD, f"{self}", f"{self}: there is no type {self.type}")
        if self.offset is not None and self.offset not in OFFSETS:
            raise OptionError(
                Reason.BAD_FIELD, f"{self}", f"{self}: the offset does not fit 32 bits"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The field that ``text`` names; OptionError if it names none."""
        match = FIELD.fullmatch(text)
        if match is None:
            raise OptionError(
                Reason.BAD_FIELD, text, f"{text!r} is not a register or a dereference of one"
            )
        offset = match["offset"]
        return cls(
            match["base"] or match["register"],
            None if offset is None else int(offset, 0),
            match["type"] or DEFAULT_TYPE,
        )

    @property
    def signed(self) -> bool:
        """Whether its type has a sign."""
        return self.type.startswith("s")

    @property
    def size(self) -> int:
        """Bytes of its type."""
        return int(self.type[1:]) // 8

    @property
    def values(self) -> range:
        """All that its type can hold."""
        half = 1 << (8 * self.size - 1)
        return range(-half, half) if self.signed else range(2 * half)

    def value(self, registers: Mapping[str, int], memory: Memory) -> int | None:
        """What it is, with these registers and this memory; None if it can't be read."""
        base = registers[self.register]
        if self.offset is None:
            data: bytes | None = (base % (1 << 64)).to_bytes(8, "little")[: self.size]
        else:
            data = memory((base + self.offset) % (1 << 64), self.size)
        return None if data is None else int.from_bytes(data, "little", signed=self.signed)

    def __str__(self) -> str:
        where = f"%{self.register}"
        if self.offset is not None:
            where = f"{self.offset:+d}({where})"
        return where if self.type == DEFAULT_TYPE else f"{where}:{self.type}"


@dataclass(frozen=True)
class Condition:
    """What a hit has to fulfil to be counted."""

    field: Field
    operator: Operator
    value: int

    def __post_init__(self) -> None:
        if self.value not in self.field.values:
            lowest, highest = self.field.values[0], self.field.values[-1]
            raise OptionError(
                Reason.BAD_VALUE,
                f"{self.value}",
                f"{self.value} does not fit {self.field.type}: {lowest} to {highest}",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """``FIELD OP VALUE``, with or without spaces; OptionError if it is not that."""
        match = CONDITION.fullmatch(text)
        if match is None:
            raise OptionError(
                Reason.SYNTAX,
                text,
                f"{text!r} is not a condition",
                hint=f"a field, one of {' '.join(Operator)}, and a value, say '%di >= 5'",
            )
        return cls.from_words(match.groups())

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """The three words behind ``if``; more are left alone."""
        field = Field.parse(_word(words, 0))
        compare = _word(words, 1)
        if compare not in set(Operator):
            raise OptionError(
                Reason.SYNTAX,
                compare,
                f"{compare!r} is no comparison",
                hint=f"one of {' '.join(Operator)}",
            )
        value = _word(words, 2)
        if not VALUE.fullmatch(value) or (value.startswith("-") and not field.signed):
            raise OptionError(Reason.BAD_VALUE, value, f"{value!r} is not a value of {field.type}")
        return cls(field, Operator(compare), int(value, 0))

    def words(self) -> tuple[str, str, str]:
        """The three words behind ``if``."""
        return f"{self.field}", f"{self.operator}", f"{self.value}"

    def holds(self, registers: Mapping[str, int], memory: Memory) -> bool | None:
        """Whether a hit with these registers and this memory fulfils it; None if the field
        can't be read: such a hit does not count either."""
        found = self.field.value(registers, memory)
        if found is None:
            return None
        return COMPARE[self.operator](found, self.value)

    def __str__(self) -> str:
        return " ".join(self.words())


@dataclass(frozen=True, init=False)
class Options:
    """Which hits count, and what is kept of them.

    They are looked at in this order: ``soft`` (a switch that the detour reads, so that
    enabling and disabling leave the text alone), ``condition``, ``sample`` (of the rest 1 in
    so many, on each CPU), ``once`` (the first, on whichever CPU; then it is spent). What
    passes them is a hit; ``hist`` counts it also by the power of two of a field, or ``by``
    by CPU, task or its name: see :meth:`pyctl.probes.Probes.maps`.
    """

    condition: Condition | None = None
    sample: int | None = None
    hist: Field | None = None
    by: By | None = None
    once: bool = False
    soft: bool = False

    def __init__(
        self,
        condition: Condition | str | None = None,
        sample: int | None = None,
        hist: Field | str | None = None,
        by: By | str | None = None,
        once: bool = False,
        soft: bool = False,
    ) -> None:
        values = {
            "condition": Condition.parse(condition) if isinstance(condition, str) else condition,
            "sample": sample,
            "hist": Field.parse(hist) if isinstance(hist, str) else hist,
            "by": None if by is None else _by(by),
            "once": once,
            "soft": soft,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The column OPTIONS of ``probes``; OptionError for what this version does not know."""
        words: list[str] = []
        for word in () if text == "-" else text.split(","):
            if word.startswith("if:"):
                words += ["if", *Condition.parse(word[3:]).words()]
            else:
                words.append(word)
        return cls.from_words(words)

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """Options as ``control`` takes them, in any order, each once."""
        rest = list(words)
        found: dict[str, Condition | Field | By | int | bool] = {}
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if name in found or (name == "if" and "condition" in found):
                raise OptionError(Reason.NOT_SUPPORTED, word, f"{name} can be given once")
            if word == "if":
                found["condition"] = Condition.from_words(rest)
                del rest[:3]
            elif word in {"once", "soft"}:
                found[word] = True
            elif equals and name in PARSE:
                found[name] = PARSE[name](value)
            else:
                raise OptionError(Reason.NOT_SUPPORTED, word, f"{word!r} is not an option")
            _check_together(found, word)
        return cls(**found)  # type: ignore[arg-type]  # each has just been made

    def words(self) -> tuple[str, ...]:
        """As ``control`` takes them, in the order in which the kernel shows them."""
        return self._joined(() if self.condition is None else ("if", *self.condition.words()))

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self != Options()

    def __str__(self) -> str:
        """As in the column OPTIONS of ``probes``."""
        condition = "" if self.condition is None else f"if:{''.join(self.condition.words())}"
        return ",".join(self._joined((condition,) if condition else ())) or "-"

    def _joined(self, condition: tuple[str, ...]) -> tuple[str, ...]:
        return (
            *(("soft",) if self.soft else ()),
            *condition,
            *(() if self.sample is None else (f"sample={self.sample}",)),
            *(("once",) if self.once else ()),
            *(() if self.hist is None else (f"hist={self.hist}",)),
            *(() if self.by is None else (f"by={self.by}",)),
        )

    def _check(self) -> None:
        if self.sample is not None:
            _sample(f"{self.sample}")
        if self.hist is not None:
            _hist(f"{self.hist}")
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        _check_together({name: value for name, value in given.items() if value}, "")


def parse_options(text: str) -> Options | str:
    """The :class:`Options` of a column of ``probes``, or the text itself when a newer module
    sent it."""
    try:
        return Options.parse(text)
    except OptionError:
        return text


def _check_together(found: Mapping[str, object], last: str) -> None:
    """Are they offered together? ``last`` is the word that has just come."""
    for one, others in (("once", ("sample", "hist", "by")), ("hist", ("by",))):
        both = [name for name in others if name in found]
        if one in found and both:
            raise OptionError(
                Reason.NOT_SUPPORTED, last or one, f"{one} is not offered with {', '.join(both)}"
            )


def _word(words: Sequence[str], index: int) -> str:
    if index < len(words):
        return words[index]
    raise OptionError(
        Reason.SYNTAX,
        "if",
        "if has not three words behind it",
        hint=f"a field, one of {' '.join(Operator)}, and a value",
    )


def _sample(text: str) -> int:
    if not re.fullmatch(NUMBER, text) or not 2 <= int(text, 0) <= MAX_SAMPLE:
        raise OptionError(
            Reason.BAD_VALUE,
            f"sample={text}",
            f"sample={text}: it is 1 in so many",
            hint=f"2 to {MAX_SAMPLE}",
        )
    return int(text, 0)


def _hist(text: str) -> Field:
    word = f"hist={text}"
    try:
        field = Field.parse(text)
    except OptionError as error:
        raise OptionError(error.reason, word, error.message) from error
    if field.signed:
        raise OptionError(
            Reason.NOT_SUPPORTED, word, f"{word}: its type has to be unsigned", hint="u8 to u64"
        )
    return field


def _by(name: str) -> By:
    if name not in set(By):
        raise OptionError(
            Reason.BAD_VALUE,
            f"by={name}",
            f"hits can't be counted by {name!r}",
            hint=f"by {', '.join(By)}",
        )
    return By(name)


#: What stands behind the name of an option and ``=``.
PARSE: dict[str, Callable[[str], Field | By | int]] = {
    "sample": _sample,
    "hist": _hist,
    "by": _by,
}
