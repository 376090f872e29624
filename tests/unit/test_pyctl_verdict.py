"""Verdicts of the bench: what a guest that dies, and one that does not, make of them."""

from __future__ import annotations

import pytest

from pyctl.bench import verdict
from pyctl.bench.rows import Verdict
from pyctl.bench.verdict import judge
from pyctl.errors import TransportError
from pyctl.guest import Guest
from pyctl.testing import FakeDjprobes
from pyctl.verify.adversaries import Way
from pyctl.verify.preemption import Preemption


class Mortal(Guest):
    """A guest whose death is known after a while, or never."""

    def __init__(self, looks: int | None) -> None:
        super().__init__("fake", FakeDjprobes({}))
        self.looks = looks

    def crashed(self) -> bool:
        if self.looks is None:
            return False
        self.looks -= 1
        return self.looks < 0


def attack(results: dict[Way, bool | Exception]) -> object:
    def run(_guest: Guest, way: Way, _strategy: str) -> bool:
        result = results[way]
        if isinstance(result, Exception):
            raise result
        return result

    return run


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({Way.PREEMPT: True, Way.INTERRUPT: True}, Verdict.SOUND),
        ({Way.PREEMPT: True, Way.INTERRUPT: False}, Verdict.UNSOUND),
        ({Way.PREEMPT: False, Way.INTERRUPT: True}, Verdict.UNSOUND),
        ({Way.PREEMPT: TransportError("gone")}, Verdict.UNSOUND),
    ],
)
def test_every_way_has_to_be_survived(
    monkeypatch: pytest.MonkeyPatch, results: dict[Way, bool | Exception], expected: Verdict
) -> None:
    monkeypatch.setattr(verdict, "_attack_djprobes", attack(results))
    assert judge(Mortal(3), "freezer", Preemption.FULL) is expected


def test_mainline_is_attacked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "_attack_kprobes", attack({Way.INTERRUPT: True}))
    assert judge(Mortal(None), "kprobes", Preemption.NONE) is Verdict.SOUND


def test_an_error_of_a_living_guest_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "CRASH_SECONDS", 0.01)
    results: dict[Way, bool | Exception] = {Way.PREEMPT: TransportError("slow")}
    monkeypatch.setattr(verdict, "_attack_djprobes", attack(results))
    with pytest.raises(TransportError, match="slow"):
        judge(Mortal(None), "freezer", Preemption.FULL)
