"""The in-kernel interface, through modules that use it."""

from __future__ import annotations

import pytest

from pyctl import Guest, Probes
from pyctl.errors import DjprobesError
from pyctl.module import SOURCE as KMOD

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

CALL = "/sys/kernel/debug/djp_test/call"
HANDLERS = "/sys/kernel/debug/djp_test/handlers"


def call(guest: Guest, times: int) -> None:
    guest.transport.write(CALL, str(times).encode())


def handlers(guest: Guest, command: str | None = None) -> dict[str, int]:
    if command:
        guest.transport.write(HANDLERS, command.encode())
    rows = (line.split() for line in guest.transport.read(HANDLERS).decode().splitlines())
    return {key: int(value) for key, value in rows}


def wrong(guest: Guest) -> int:
    lines = guest.transport.read(CALL).decode().splitlines()
    return sum(int(line.split()[2]) for line in lines)


def test_handlers_nest_and_only_recursion_is_refused(watched: Guest) -> None:
    """djp_test_plain's handler calls djp_test_plain and djp_test_rip once each."""
    with watched.probes() as probes:
        handlers(watched, "register")
        call(watched, 10)
        in_bypass = handlers(watched)
        assert in_bypass == {
            "plain_handled": 10, "rip_handled": 20, "in_handler": 20, "bad_regs": 0,
            "state_handled": 10, "bad_flags": 0,
            "plain_hits": 10, "rip_hits": 20, "plain_missed": 10,
        }  # fmt: skip
        handlers(watched, "commit")
        assert {status.state for status in probes.list()} == {"jump"}
        call(watched, 10)
        as_jump = handlers(watched)
        assert as_jump == {
            "plain_handled": 20, "rip_handled": 40, "in_handler": 40, "bad_regs": 0,
            "state_handled": 20, "bad_flags": 0,
            "plain_hits": 20, "rip_hits": 40, "plain_missed": 20,
        }  # fmt: skip
        assert probes.stats().recursion_missed >= 20

        handlers(watched, "disable")
        call(watched, 10)
        off = handlers(watched)
        assert (off["plain_handled"], off["rip_handled"]) == (20, 50)
        handlers(watched, "enable")
        call(watched, 1)
        assert handlers(watched)["plain_handled"] == 21

        handlers(watched, "unregister")
        call(watched, 10)
        assert handlers(watched)["plain_handled"] == 21
        assert probes.list() == []
        assert wrong(watched) == 0


def test_handler_and_counts_share_an_address(watched: Guest, probes: Probes) -> None:
    counted = probes.add("djp_test:djp_test_rip")
    handlers(watched, "register")
    probes.commit()
    before = handlers(watched)["rip_hits"]
    call(watched, 10)
    # Ten calls by us, ten by the other handler.
    assert counted.hits == 20
    assert handlers(watched)["rip_hits"] - before == 20
    handlers(watched, "unregister")
    call(watched, 10)
    assert counted.hits == 30
    assert wrong(watched) == 0


@pytest.mark.parametrize("method", ["int3", "kprobe"])
def test_a_handler_sees_the_same_by_every_method(
    watched: Guest, probes: Probes, method: str
) -> None:
    counted = probes.add("djp_test:djp_test_plain", method=method)
    handlers(watched, "register")  # shares the address, and so the method
    assert {row.method for row in probes.list() if row.address == counted.address} == {method}
    before = handlers(watched)
    call(watched, 10)
    after = handlers(watched)
    assert after["plain_handled"] - before["plain_handled"] == 10
    # djp_test_rip is within reach of a kprobe on djp_test_plain, and gets one too; kprobes do
    # not run a handler inside a handler.
    nested = 10 if method == "int3" else 0
    assert after["rip_handled"] - before["rip_handled"] == 10 + nested
    assert after["bad_regs"] == before["bad_regs"], "regs->ip is the insertion address"
    handlers(watched, "unregister")
    assert wrong(watched) == 0


def test_a_module_is_held_while_probes_exist(watched: Guest, probes: Probes) -> None:
    probes.add("djp_test:djp_test_plain")
    with pytest.raises(DjprobesError):
        watched.unload()
    assert watched.loaded
    probes.remove_all()


def test_what_int3_and_detours_run_is_closed_to_kprobes(watched: Guest) -> None:
    """A kretprobe there would hide a return address into a detour from the scan."""
    ours = watched.transport.run(
        ["grep", "-F", "[djprobes]", "/sys/kernel/debug/kprobes/blacklist"]
    ).text
    closed = {line.split()[1] for line in ours.splitlines()}
    assert {"djp_int3_notify", "djp_trap_find", "djp_dispatch", "djp_handler_entry"} <= closed


def test_the_sample(watched: Guest) -> None:
    sample = "djprobe_example"
    watched.load_extra(sample, source=KMOD, parameters={"symbol": "__x64_sys_pwrite64"})
    result = watched.workload("fileio").run(operations=200)
    with watched.probes() as probes:
        (status,) = probes.list()
        assert status.name == "@djprobe_example:example_handler"
        assert (status.state, status.action) == ("jump", "handler")
        assert status.hits == result.operations["pwrite"]
    watched.transport.run(["rmmod", sample])


def test_a_probe_goes_with_its_module(watched: Guest, probes: Probes) -> None:
    """Last in the file: it takes djp_test away."""
    kept = probes.add("djp_test:djp_test_plain", name="kept")
    bypassed = probes.add("djp_test:djp_test_rip", name="bypassed")
    probes.commit()
    probes.add("djp_test:djp_test_state_probe", name="late")
    call(watched, 25)
    watched.transport.run(["rmmod", "djp_test"])
    assert {status.name: (status.state, status.hits) for status in probes.list()} == {
        "kept": ("gone", 25), "bypassed": ("gone", 25), "late": ("gone", 25),
    }  # fmt: skip
    with pytest.raises(DjprobesError):
        probes.enable(kept)
    probes.remove(kept, bypassed)
    # Back again, elsewhere perhaps: a new probe finds the new address.
    watched.load_extra("djp_test", source=KMOD)
    again = probes.add("djp_test:djp_test_plain", name="kept")
    probes.commit()
    call(watched, 5)
    assert again.hits == 5
