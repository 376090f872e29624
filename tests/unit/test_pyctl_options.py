"""What a probe does besides counting every hit: the grammar, its limits, and what it means."""

from __future__ import annotations

import pytest

from pyctl.options import (
    REGISTERS,
    TYPES,
    By,
    Condition,
    Field,
    Operator,
    OptionError,
    Options,
    parse_options,
)
from pyctl.reasons import Reason

ZERO = dict.fromkeys(REGISTERS, 0)


def nothing(_address: int, _size: int) -> bytes | None:
    """Memory of which nothing can be read."""
    return None


@pytest.mark.parametrize(
    ("text", "field", "shown"),
    [
        ("%di", Field("di"), "%di"),
        ("%r15:u64", Field("r15"), "%r15"),
        ("%si:s8", Field("si", None, "s8"), "%si:s8"),
        ("+8(%di)", Field("di", 8), "+8(%di)"),
        ("8(%di)", Field("di", 8), "+8(%di)"),
        ("-0x10(%bp):u16", Field("bp", -16, "u16"), "-16(%bp):u16"),
        ("0(%ax)", Field("ax", 0), "+0(%ax)"),
        ("+2147483647(%ax)", Field("ax", 2**31 - 1), "+2147483647(%ax)"),
        ("-0x7fffffff(%ax)", Field("ax", 1 - 2**31), "-2147483647(%ax)"),
    ],
)
def test_fields(text: str, field: Field, shown: str) -> None:
    assert Field.parse(text) == field
    assert str(field) == shown
    assert Field.parse(shown) == field


@pytest.mark.parametrize(
    "text",
    [
        *("", "di", "%", "%rdi", "%edi", "%DI", "%r16", "%sp:u128", "%di:", "%di:u8:u8"),
        *("(%di)", "+(%di)", "8(di)", "8(%di", "8%di", "+8(%di)u16", "+-8(%di)", "8(%di):x8"),
        *("010(%di)", "0b1(%di)", "1_0(%di)", "2147483648(%di)", "-2147483648(%di)", "%di\n"),
        *("%ä", "8(8(%di))", "\u0663(%di)"),
    ],
)
def test_what_is_no_field(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Field.parse(text)
    assert caught.value.reason is Reason.BAD_FIELD
    assert "+8(%di):u16" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("%di >= 5", Condition(Field("di"), Operator.AT_LEAST, 5)),
        ("%di>=5", Condition(Field("di"), Operator.AT_LEAST, 5)),
        (" %di >5 ", Condition(Field("di"), Operator.GREATER, 5)),
        ("+8(%di):u16&0xF0", Condition(Field("di", 8, "u16"), Operator.AND, 0xF0)),
        ("%ax:s32 == -0x5", Condition(Field("ax", None, "s32"), Operator.EQUAL, -5)),
        ("%ax != 18446744073709551615", Condition(Field("ax"), Operator.UNEQUAL, 2**64 - 1)),
    ],
)
def test_conditions(text: str, condition: Condition) -> None:
    assert Condition.parse(text) == condition
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "reason", "token"),
    [
        ("%di", Reason.SYNTAX, "%di"),
        ("%di => 5", Reason.SYNTAX, "%di => 5"),
        ("%di >= 5 6", Reason.SYNTAX, "%di >= 5 6"),
        ("", Reason.SYNTAX, ""),
        ("%rdi == 5", Reason.BAD_FIELD, "%rdi"),
        ("%di == five", Reason.BAD_VALUE, "five"),
        ("%di == -1", Reason.BAD_VALUE, "-1"),
        ("%di == 010", Reason.BAD_VALUE, "010"),
        ("%di == 1_0", Reason.BAD_VALUE, "1_0"),
        ("%di == +1", Reason.BAD_VALUE, "+1"),
        ("%di == 0x", Reason.BAD_VALUE, "0x"),
        ("%di == 18446744073709551616", Reason.BAD_VALUE, "18446744073709551616"),
        ("%di:u8 == 256", Reason.BAD_VALUE, "256"),
        ("%di:s8 == 128", Reason.BAD_VALUE, "128"),
        ("%di:s8 == -129", Reason.BAD_VALUE, "-129"),
        ("%di:s32 == 0xffffffff", Reason.BAD_VALUE, "4294967295"),
    ],
)
def test_what_is_no_condition(text: str, reason: Reason, token: str) -> None:
    with pytest.raises(OptionError) as caught:
        Condition.parse(text)
    assert (caught.value.reason, caught.value.token) == (reason, token)
    assert caught.value.hint


@pytest.mark.parametrize("kind", TYPES)
def test_a_value_has_to_fit_its_type(kind: str) -> None:
    field = Field("ax", None, kind)
    for value in (field.values[0], field.values[-1]):
        assert Condition(field, Operator.EQUAL, value).value == value
    for value in (field.values[0] - 1, field.values[-1] + 1):
        with pytest.raises(OptionError, match=kind):
            Condition(field, Operator.EQUAL, value)


@pytest.mark.parametrize(
    ("text", "register", "holds"),
    [
        ("%di == 5", 5, True),
        ("%di == 5", 2**32 + 5, False),
        ("%di:u32 == 5", 2**32 + 5, True),
        ("%di:s32 < 0", 2**32 - 1, True),
        ("%di:u32 < 1", 2**32 - 1, False),
        ("%di:s64 >= -1", 2**64 - 1, True),
        ("%di:s64 >= -1", 2**64 - 2, False),
        ("%di > 5", 5, False),
        ("%di >= 5", 5, True),
        ("%di <= 5", 6, False),
        ("%di != 5", 6, True),
        ("%di & 6", 1, False),
        ("%di & 6", 2, True),
        ("%di:s8 & -128", 0x80, True),
        ("%di:s8 & -128", 0x7F, False),
    ],
)
def test_a_register_against_a_value(text: str, register: int, holds: bool) -> None:
    assert Condition.parse(text).holds({**ZERO, "di": register}, nothing) is holds


def test_memory_against_a_value() -> None:
    asked: list[tuple[int, int]] = []

    def memory(address: int, size: int) -> bytes | None:
        asked.append((address, size))
        return bytes.fromhex("fe ff 34 12")[:size] if address == 0x1008 else None

    registers = {**ZERO, "di": 0x1000, "si": 2**64 - 8}
    assert Condition.parse("+8(%di):s16 == -2").holds(registers, memory) is True
    assert Condition.parse("+8(%di):u16 == 0xfffe").holds(registers, memory) is True
    assert Condition.parse("+8(%di):u32 > 0x1234fffe").holds(registers, memory) is False
    assert Condition.parse("+9(%di):u8 == 0xff").holds(registers, memory) is None
    assert Condition.parse("+0x1010(%si):u8 != 0xfe").holds(registers, memory) is False
    assert asked == [(0x1008, 2), (0x1008, 2), (0x1008, 4), (0x1009, 1), (0x1008, 1)]


def test_options_as_words_and_as_a_column() -> None:
    options = Options(
        condition="%di >= 0x5", sample=16, hist="%si:u32", soft=True, by=None, once=False
    )
    assert options.words() == ("soft", "if", "%di", ">=", "5", "sample=16", "hist=%si:u32")
    assert str(options) == "soft,if:%di>=5,sample=16,hist=%si:u32"
    assert Options.parse(str(options)) == options
    assert Options.from_words(options.words()) == options
    assert Options.from_words(reversed_words := ["hist=%si:u32", "sample=16", *options.words()[:5]])
    assert Options.from_words(reversed_words) == options
    assert options.condition == Condition(Field("di"), Operator.AT_LEAST, 5)
    assert (options.hist, options.by) == (Field("si", None, "u32"), None)
    assert Options(by="comm").by is By.COMM
    assert str(Options(once=True, soft=True)) == "soft,once"
    assert (str(Options()), Options().words(), bool(Options())) == ("-", (), False)
    assert Options.parse("-") == Options()
    assert bool(Options(once=True))
    assert len({options, Options.parse(str(options))}) == 1


@pytest.mark.parametrize(
    ("words", "reason", "token"),
    [
        ("if", Reason.SYNTAX, "if"),
        ("if %di ==", Reason.SYNTAX, "if"),
        ("if %di", Reason.SYNTAX, "if"),
        ("if %di =", Reason.SYNTAX, "="),
        ("if once", Reason.BAD_FIELD, "once"),
        ("if %di == once", Reason.BAD_VALUE, "once"),
        ("if %di = 5", Reason.SYNTAX, "="),
        ("if %di == 5 if %di == 6", Reason.NOT_SUPPORTED, "if"),
        ("sample=2 sample=2", Reason.NOT_SUPPORTED, "sample=2"),
        ("once once", Reason.NOT_SUPPORTED, "once"),
        ("twice", Reason.NOT_SUPPORTED, "twice"),
        ("once=1", Reason.NOT_SUPPORTED, "once=1"),
        ("hist", Reason.NOT_SUPPORTED, "hist"),
        ("hist=", Reason.BAD_FIELD, "hist="),
        ("hist=%rsi", Reason.BAD_FIELD, "hist=%rsi"),
        ("hist=%si:s32", Reason.NOT_SUPPORTED, "hist=%si:s32"),
        ("by=tid", Reason.BAD_VALUE, "by=tid"),
        ("by=", Reason.BAD_VALUE, "by="),
        ("sample=1", Reason.BAD_VALUE, "sample=1"),
        ("sample=32769", Reason.BAD_VALUE, "sample=32769"),
        ("sample=", Reason.BAD_VALUE, "sample="),
        ("sample=1e3", Reason.BAD_VALUE, "sample=1e3"),
        ("hist=%di by=cpu", Reason.NOT_SUPPORTED, "by=cpu"),
        ("by=cpu hist=%di", Reason.NOT_SUPPORTED, "hist=%di"),
        ("once sample=2", Reason.NOT_SUPPORTED, "sample=2"),
        ("once soft hist=%di twice", Reason.NOT_SUPPORTED, "hist=%di"),
        ("by=pid once", Reason.NOT_SUPPORTED, "once"),
    ],
)
def test_what_is_not_offered(words: str, reason: Reason, token: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options.from_words(words.split())
    assert (caught.value.reason, caught.value.token) == (reason, token)
    assert caught.value.as_dict()["reason"] == reason


@pytest.mark.parametrize(
    "values",
    [
        {"once": True, "sample": 2},
        {"once": True, "hist": "%di"},
        {"once": True, "by": "cpu"},
        {"hist": "%di", "by": "cpu"},
        {"hist": "%di:s8"},
    ],
)
def test_what_is_not_offered_as_values(values: dict) -> None:
    with pytest.raises(OptionError) as caught:
        Options(**values)
    assert caught.value.reason is Reason.NOT_SUPPORTED


@pytest.mark.parametrize("sample", [2, 32768])
def test_samples(sample: int) -> None:
    assert Options(sample=sample).words() == (f"sample={sample}",)


@pytest.mark.parametrize("sample", [-2, 0, 1, 32769])
def test_no_samples(sample: int) -> None:
    with pytest.raises(OptionError, match="32768"):
        Options(sample=sample)
    with pytest.raises(OptionError, match="32768"):
        Options(sample=sample, once=True)


def test_options_of_a_newer_module_are_kept_as_text() -> None:
    assert parse_options("if:%di>=5,twice") == "if:%di>=5,twice"
    assert parse_options("by=cpu") == Options(by=By.CPU)
