"""Properties of parsers, with inputs that nobody thought of."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from random import Random

import pytest

from pyctl import control
from pyctl.census import parse_census
from pyctl.cli.census import cells
from pyctl.control import Extent, ProbeStatus
from pyctl.errors import DjprobesError
from pyctl.explanation import Relocation, parse_explanation
from pyctl.maps import MapEntry, MapKind, parse_maps
from pyctl.methods import Method, State
from pyctl.options import (
    REGISTERS,
    TYPES,
    By,
    Condition,
    Field,
    Operator,
    OptionError,
    Options,
)
from pyctl.parsing import parse_location
from pyctl.probes import default_name
from pyctl.reasons import Reason

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

WORD = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="_+:."), min_size=1
)
NUMBER = st.integers(0, 2**64 - 1)


REGISTER = st.sampled_from(REGISTERS)
OFFSET = st.none() | st.integers(1 - 2**31, 2**31 - 1)
FIELD = st.builds(Field, REGISTER, OFFSET, st.sampled_from(TYPES))
UNSIGNED = st.builds(Field, REGISTER, OFFSET, st.sampled_from([t for t in TYPES if t[0] == "u"]))
VALUE = FIELD.flatmap(
    lambda field: st.tuples(st.just(field), st.integers(field.values[0], field.values[-1]))
)
CONDITION = st.builds(
    lambda pair, operator: Condition(pair[0], operator, pair[1]), VALUE, st.sampled_from(Operator)
)
OPTIONS = st.one_of(
    st.builds(Options, condition=st.none() | CONDITION, once=st.booleans(), soft=st.booleans()),
    st.builds(
        Options,
        condition=st.none() | CONDITION,
        sample=st.none() | st.integers(2, 32768),
        hist=st.none() | UNSIGNED,
        soft=st.booleans(),
    ),
    st.builds(Options, sample=st.none() | st.integers(2, 32768), by=st.sampled_from(By)),
)


STATUS = st.builds(
    ProbeStatus,
    name=WORD,
    target=WORD,
    address=NUMBER,
    state=st.sampled_from(State) | WORD,
    method=st.sampled_from(Method) | WORD | st.none(),
    action=WORD,
    hits=NUMBER,
    missed=NUMBER,
    reason=st.sampled_from(Reason) | WORD,
    detour=st.none() | st.builds(Extent, NUMBER, NUMBER),
    options=OPTIONS,
    unreadable=NUMBER,
)


@given(st.lists(STATUS), st.sampled_from(["", " later", " - 12 x"]))
def test_probes_round_trip(table: list[ProbeStatus], newer: str) -> None:
    text = "".join(
        f"{s.name} {s.target} {s.address:#018x} {s.state} {s.method or '-'} {s.action} "
        f"{s.hits} {s.missed} {s.reason} "
        f"{f'{s.detour.address:#018x}+{s.detour.length}' if s.detour else '-'} "
        f"{s.options} {s.unreadable}{newer}\n"
        for s in table
    )
    assert control.parse_probes(text) == table


@given(OPTIONS, st.randoms())
def test_options_round_trip(options: Options, random: Random) -> None:
    words = list(options.words())
    assert Options.from_words(words) == options
    assert Options.parse(str(options)) == options
    # In any order; the three words behind "if" stay together.
    start = words.index("if") if "if" in words else len(words)
    groups = [[word] for word in words[:start]]
    groups += [words[start : start + 4], *([word] for word in words[start + 4 :])]
    random.shuffle(groups)
    assert Options.from_words([word for group in groups for word in group]) == options


@given(CONDITION, NUMBER, st.none() | st.binary(min_size=8, max_size=8))
def test_conditions_and_their_opposites(
    condition: Condition, base: int, memory: bytes | None
) -> None:
    """Of two opposite comparisons exactly one holds, or nothing can be read."""
    opposite = {
        Operator.EQUAL: Operator.UNEQUAL,
        Operator.LESS: Operator.AT_LEAST,
        Operator.GREATER: Operator.AT_MOST,
    }
    opposite |= {other: one for one, other in opposite.items()}
    registers = dict.fromkeys(REGISTERS, base)

    def read(_address: int, size: int) -> bytes | None:
        return None if memory is None else memory[:size]

    found = condition.holds(registers, read)
    assert (found is None) == (condition.field.offset is not None and memory is None)
    if condition.operator in opposite and found is not None:
        other = replace(condition, operator=opposite[condition.operator])
        assert found is not other.holds(registers, read)


@given(st.lists(st.text(max_size=8) | st.sampled_from(["if", "once", "hist=%di", "%di", "=="])))
def test_words_are_options_or_refused(words: list[str]) -> None:
    with contextlib.suppress(OptionError):
        options = Options.from_words(words)
        assert Options.from_words(options.words()) == options


@given(st.lists(st.tuples(WORD, st.sampled_from(MapKind), NUMBER, st.text())))
def test_maps_round_trip(rows: list[tuple[str, MapKind, int, str]]) -> None:
    escape = {ord("\\"): r"\134", ord("\n"): r"\012"}
    lines = (f"{name} {kind} {count} {key.translate(escape)}\n" for name, kind, count, key in rows)
    text = "".join(lines)
    assert parse_maps(text) == tuple(MapEntry(*row) for row in rows)


@given(NUMBER, st.lists(NUMBER))
def test_hits_round_trip(generation: int, hits: list[int]) -> None:
    text = "".join(f"{line}\n" for line in [f"{generation} {len(hits)}", *hits])
    assert control.parse_hits(text) == control.HitTable(generation, tuple(hits))


@given(st.binary(min_size=1), st.lists(st.tuples(st.integers(0, 40), WORD)))
def test_explanations_round_trip(code: bytes, relocations: list[tuple[int, str]]) -> None:
    words = " ".join(f"+{offset}:{kind}" for offset, kind in relocations) or "none"
    answer = parse_explanation(
        f"target: f\nverdict: jump\nreason: ok\ndcr: {code.hex(' ')}\nrelocations: {words}\n"
    )
    assert answer.dcr == code
    assert answer.relocations == tuple(Relocation(*pair) for pair in relocations)


CELLS = st.dictionaries(
    st.tuples(st.sampled_from(Method), st.sampled_from(Reason)), st.integers(1, 10**7)
)


@given(CELLS, st.integers(0, 10**7))
def test_censuses_round_trip(table: dict[tuple[Method, Reason], int], padding: int) -> None:
    methods, reasons = dict.fromkeys(Method, 0), dict.fromkeys(Reason, 0)
    for (method, reason), count in table.items():
        methods[method] += count
        reasons[reason] += count
    sites = sum(table.values())
    lines = [
        *("progress 1 2", "kernel 6", f"sites {sites}", f"padding {padding}"),
        *(f"method {method} {count}" for method, count in methods.items()),
        *(f"reason {reason} {count}" for reason, count in reasons.items() if count),
        *(f"cell {method} {reason} {count}" for (method, reason), count in table.items()),
        *(f"peer kprobe {sites}", "peer optprobe 0"),
        f"part kernel 9 {sites} {padding} {' '.join(map(str, methods.values()))} {sites} 0",
        "ns 5",
    ]
    census = parse_census("\n".join(lines))
    assert census.cells == table
    assert census.methods == methods
    assert census.reasons == {reason: count for reason, count in reasons.items() if count}
    if table:
        with pytest.raises(DjprobesError, match="add up"):
            parse_census("\n".join([line for line in lines if not line.startswith("cell")]))


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=6), st.integers(1, 200))
def test_cells_of_a_bar_add_up(counts: list[int], width: int) -> None:
    found = cells(counts, width)
    assert sum(found) == (width if sum(counts) else 0)
    for count, got in zip(counts, found, strict=True):
        assert abs(got - count * width / (sum(counts) or 1)) < 1


@given(st.text())
def test_parsers_raise_only_our_errors(text: str) -> None:
    for parse in (
        control.parse_probes,
        parse_census,
        parse_explanation,
        control.parse_stats,
        control.parse_features,
        control.parse_strategies,
        control.parse_hits,
        parse_maps,
        Field.parse,
        Condition.parse,
        Options.parse,
        parse_location,
    ):
        with contextlib.suppress(DjprobesError):
            parse(text)
    control.parse_last_error(text, errno=22, written="x")


@given(st.text(min_size=1))
def test_default_names_are_names(target: str) -> None:
    assert control.NAME.fullmatch(default_name(target))
