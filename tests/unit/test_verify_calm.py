"""Where AC and DF are clear: in compiled functions without an instruction that sets them."""

from __future__ import annotations

from pyctl.verify.calm import Calm
from pyctl.verify.flow import ENDBR64, NOP5, Function, KernelFlow
from pyctl.verify.livetext import Text

START = 0xFFFFFFFF81000000
RET = b"\xc3"
#: Functions one behind the other, and whether each is calm.
FUNCTIONS: dict[str, tuple[bytes, bool]] = {
    "plain": (NOP5 + RET, True),
    "endbr": (ENDBR64 + NOP5 + b"\xfc\x9c\x58" + RET, True),  # cld; pushfq; pop %rax
    "no_site": (b"\x55" + RET, False),
    "stac": (NOP5 + b"\x0f\x01\xcb" + b"\x0f\x01\xca" + RET, False),
    "std": (NOP5 + b"\xfd\xf3\xa4\xfc" + RET, False),
    "popf": (NOP5 + b"\x9c\x9d" + RET, False),
    "immediate": (NOP5 + b"\xb8\xfd\x9d\xfd\x9d" + RET, True),  # mov $0x9dfd9dfd,%eax
    "unknown": (NOP5 + b"\x06" + RET, False),
    "before_cold": (NOP5 + RET + b"\xcc" * 10, True),
    "before_cold.cold": (b"\x90" + RET, False),
    "traced_now": (b"\xe8\0\0\0\0" + RET, True),
    "last": (NOP5 + b"\x90", True),
}


def calm_of(functions: dict[str, tuple[bytes, bool]]) -> tuple[Calm, dict[str, range]]:
    data, places = b"", {}
    for name, (code, _) in functions.items():
        places[name] = range(START + len(data), START + len(data) + len(code))
        data += code
    symbols = tuple((place.start, name) for name, place in places.items())
    flow = KernelFlow(
        traced=frozenset((name, "") for name in places if "." not in name),
        functions=[Function(at, name) for at, name in symbols],
    )
    return Calm([Text(START, data, symbols)], flow), places


def test_what_is_calm() -> None:
    oracle, places = calm_of(FUNCTIONS)
    for name, (_, is_calm) in FUNCTIONS.items():
        assert [oracle.at(at) for at in places[name]] == [is_calm] * len(places[name]), name


def test_outside_of_all_functions() -> None:
    oracle, places = calm_of(FUNCTIONS)
    assert not oracle.at(START - 1)
    assert not oracle.at(places["last"].stop)
    nameless = Calm([Text(START, NOP5 + RET, ())], KernelFlow())
    assert not nameless.at(START)
