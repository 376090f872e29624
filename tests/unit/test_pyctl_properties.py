"""Properties of parsers, with inputs that nobody thought of."""

from __future__ import annotations

import contextlib

import pytest

from pyctl import control
from pyctl.census import parse_census
from pyctl.cli.census import cells
from pyctl.control import Extent, ProbeStatus
from pyctl.errors import DjprobesError
from pyctl.explanation import Relocation, parse_explanation
from pyctl.methods import Method, State
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
)


@given(st.lists(STATUS), st.sampled_from(["", " later", " - 12 x"]))
def test_probes_round_trip(table: list[ProbeStatus], newer: str) -> None:
    text = "".join(
        f"{s.name} {s.target} {s.address:#018x} {s.state} {s.method or '-'} {s.action} "
        f"{s.hits} {s.missed} {s.reason} "
        f"{f'{s.detour.address:#018x}+{s.detour.length}' if s.detour else '-'}{newer}\n"
        for s in table
    )
    assert control.parse_probes(text) == table


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
        parse_location,
    ):
        with contextlib.suppress(DjprobesError):
            parse(text)
    control.parse_last_error(text, errno=22, written="x")


@given(st.text(min_size=1))
def test_default_names_are_names(target: str) -> None:
    assert control.NAME.fullmatch(default_name(target))
