"""Properties of parsers, with inputs that nobody thought of."""

from __future__ import annotations

import contextlib

import pytest

from pyctl import control
from pyctl.control import ProbeStatus
from pyctl.errors import DjprobesError
from pyctl.probes import default_name

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

WORD = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="_+:."), min_size=1
)
NUMBER = st.integers(0, 2**64 - 1)


@given(st.lists(st.builds(ProbeStatus, WORD, WORD, NUMBER, WORD, WORD, WORD, NUMBER, NUMBER)))
def test_probes_round_trip(table: list[ProbeStatus]) -> None:
    text = "".join(
        f"{s.name} {s.target} {s.address:#018x} {s.state} {s.method} {s.action} "
        f"{s.hits} {s.missed} later\n"
        for s in table
    )
    assert control.parse_probes(text) == table


@given(st.text())
def test_parsers_raise_only_our_errors(text: str) -> None:
    for parse in (
        control.parse_probes,
        control.parse_explanation,
        control.parse_stats,
        control.parse_features,
        control.parse_strategies,
        control.parse_location,
    ):
        with contextlib.suppress(DjprobesError):
            parse(text)
    control.parse_last_error(text, errno=22, written="x")


@given(st.text(min_size=1))
def test_default_names_are_names(target: str) -> None:
    assert control.NAME.fullmatch(default_name(target))
