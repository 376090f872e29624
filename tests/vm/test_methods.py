"""Each method of taking control, on functions that check themselves (kmod/test/*.S)."""

from __future__ import annotations

import pytest

from pyctl import Guest, Probes, Reason
from pyctl.errors import TransportError
from pyctl.module import SOURCE as KMOD
from pyctl.timing import Deadline, attempts
from pyctl.verify.livetext import peek
from pyctl.verify.testmodules import Peers, Targets

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

CALL = "/sys/kernel/debug/djp_test/call"
WINDOW = 8

#: Probe point: method, why not a plain jump, arrivals for each call of the function.
CHOSEN = {
    "djp_test_plain": ("jump", Reason.OK, 1),
    "djp_test_cold_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_midcall_probe": ("jump+int3", Reason.INSN_CALL, 1),
    "djp_test_shortjmp_probe": ("jump+int3", Reason.INSN_RETURN, 1),
    "djp_test_strays_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_strays_123_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_stray_1_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_stray_2_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_stray_3_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_stray_4_probe": ("jump+int3", Reason.BRANCH_TARGET, 1),
    "djp_test_extable_probe": ("int3", Reason.EXTABLE, 2),
}
#: Bytes of the jump that have to be int3s.
TRAPS = {
    "djp_test_plain": [],
    "djp_test_cold_probe": [1],
    "djp_test_midcall_probe": [2],
    "djp_test_shortjmp_probe": [2],
    "djp_test_strays_probe": [1, 2, 3, 4],
    "djp_test_strays_123_probe": [1, 2, 3],
    "djp_test_stray_1_probe": [1],
    "djp_test_stray_2_probe": [2],
    "djp_test_stray_3_probe": [3],
    "djp_test_stray_4_probe": [4],
}
#: Arrivals for each call, by relocation; each can be had by every method.
FORCED = {
    "djp_test_plain": 1, "djp_test_rip": 1, "djp_test_state_probe": 1, "djp_test_jcc_probe": 2,
    "djp_test_jmp_probe": 1, "djp_test_loop_probe": 5, "djp_test_call_probe": 1,
    "djp_test_icall_probe": 1, "djp_test_ijmp_probe": 1, "djp_test_ret_probe": 1,
    "djp_test_branch": 1,
}  # fmt: skip


def function(target: str) -> str:
    return target.partition("+")[0].removesuffix("_probe")


def call(guest: Guest, times: int) -> dict[str, int]:
    """Call each function ``times`` times; how often each was called, ever. None was wrong."""
    guest.transport.write(CALL, str(times).encode())
    rows = [line.split() for line in guest.transport.read(CALL).decode().splitlines()]
    assert {name: wrong for name, _, wrong in rows if wrong != "0"} == {}
    return {name: int(calls) for name, calls, _ in rows}


def test_each_function_gets_the_best_method(watched: Guest, probes: Probes) -> None:
    before = call(watched, 1)
    added = {target: probes.add(f"djp_test:{target}") for target in CHOSEN}
    text = peek(watched.transport, [probe.address for probe in added.values()], WINDOW)
    assert {t: (p.method, p.reason) for t, p in added.items()} == {
        target: CHOSEN[target][:2] for target in added
    }
    calls = call(watched, 100)
    for target, probe in added.items():
        number = calls[function(target)] - before[function(target)]
        assert (number, probe.hits) == (100, 100 * CHOSEN[target][2]), target

    assert probes.commit().complete
    as_jump = peek(watched.transport, [probe.address for probe in added.values()], WINDOW)
    for (target, probe), bytes_before, now in zip(added.items(), text, as_jump, strict=True):
        region = len(probes.explain(probe.target).dcr)
        assert bytes_before[region:] == now[region:], "nothing else is written"
        if target not in TRAPS:
            assert (probe.state, now[:1]) == (CHOSEN[target][0], b"\xcc")
            assert set(now[1:region]) <= {0x90}
            continue
        assert probe.state == "jump"
        assert now[0] == 0xE9
        assert [now[k] for k in TRAPS[target]] == [0xCC] * len(TRAPS[target]), target
        assert set(now[5:region]) <= {0x90}, "the rest of the last instruction"
    call(watched, 1000)
    assert {t: p.hits for t, p in added.items()} == {t: 1100 * CHOSEN[t][2] for t in added}

    probes.disable(*added.values())
    call(watched, 10)
    probes.enable(*added.values())
    call(watched, 5)
    assert {t: p.hits for t, p in added.items()} == {t: 1105 * CHOSEN[t][2] for t in added}
    probes.remove_all()
    call(watched, 10)


def test_an_instruction_that_may_fault_is_refused(probes: Probes) -> None:
    answer = probes.explain("djp_test:djp_test_extable_probe+2")
    assert (answer.method, answer.reason) == (None, Reason.EXTABLE)


def test_why_no_kprobe_is_put_on_it() -> None:
    """After a kprobe whose instruction faulted, an int3 that is not a kprobe's is fatal."""
    with Guest.boot("bookworm-cloud") as guest:
        guest.load()
        guest.load_extra("djp_test", source=KMOD)
        targets, peers = Targets(guest), Peers(guest)
        probes = guest.probes()  # not as a context: the guest is dead when it would end
        other = probes.add("djp_test:djp_test_plain")
        call(guest, 10)
        assert other.hits == 10, "an int3 of ours alone does no harm"
        peers.add_kprobe(targets.address("djp_test_extable") + 2)
        with pytest.raises(TransportError):
            call_until_it_dies(guest)
        for _ in attempts(Deadline.after(30)):
            if guest.crashed():
                break
        assert guest.crashed()


def call_until_it_dies(guest: Guest) -> None:
    """It faults on one CPU, and an int3 of ours has to be met on that one."""
    for _ in range(20):
        call(guest, 10)


def test_the_kernels_kprobe_is_armed_and_disarmed(watched: Guest, probes: Probes) -> None:
    target = "djp_test:djp_test_rip"
    first = probes.add(target, method="kprobe")
    assert "djp_test_rip" in kprobes(watched)
    call(watched, 50)
    probes.disable(first)
    assert "djp_test_rip" not in kprobes(watched)
    call(watched, 5)
    probes.enable(first)
    second = probes.add(target)
    assert second.method == "kprobe"
    call(watched, 5)
    assert (first.hits, second.hits) == (55, 5)
    probes.remove_all()
    assert "djp_test_rip" not in kprobes(watched)


def kprobes(guest: Guest) -> str:
    return guest.transport.read("/sys/kernel/debug/kprobes/list").decode()


@pytest.mark.parametrize("method", ["int3", "kprobe"])
def test_a_method_can_be_asked_for(watched: Guest, probes: Probes, method: str) -> None:
    # Kprobes take no indirect jump through memory.
    wanted = {k: v for k, v in FORCED.items() if (method, k) != ("kprobe", "djp_test_ijmp_probe")}
    lines = [f"p:{name} djp_test:{name} method={method}" for name in wanted]
    probes.control.submit(lines)
    assert probes.commit().complete
    rows = {row.name: row for row in probes.list()}
    assert {(row.state, row.method) for row in rows.values()} == {(method, method)}
    call(watched, 200)
    assert {row.name: row.hits for row in probes.list()} == {
        name: 200 * passes for name, passes in wanted.items()
    }
    stats = probes.stats()
    assert (stats.sites_jump, stats.sites_bypass, stats.deferred) == (0, 0, 0)
    probes.remove_all()
    call(watched, 10)


def test_a_detour_is_swapped_under_the_int3s(watched: Guest, probes: Probes) -> None:
    """The bytes that are branched to stay int3s while the jump gets another target."""
    first = probes.add("djp_test:djp_test_strays_123_probe")
    probes.commit()
    call(watched, 3)
    second = probes.add("djp_test:djp_test_strays_123_probe")
    assert second.state == "jump"
    call(watched, 4)
    probes.remove(first)
    call(watched, 5)
    assert (first.hits, second.hits) == (7, 9)


def test_neighbours(watched: Guest, probes: Probes) -> None:
    """Where another probe stands in the bytes of a jump, an int3 does."""
    later = probes.add("djp_test:djp_test_victim+2")
    sooner = probes.add("djp_test:djp_test_victim")
    assert (sooner.method, sooner.reason) == ("int3", Reason.OVERLAP)
    probes.commit()
    call(watched, 7)
    assert (later.hits, sooner.hits) == (7, 7)


def test_explain_shows_the_detour(watched: Guest, probes: Probes) -> None:
    target = "djp_test:djp_test_strays_123_probe"
    extra = probes.explain(target)
    assert extra.source is not None
    assert "djp_test_strays_123" in str(extra.source)
    probes.add(target)
    probes.commit()
    again = probes.explain(target)
    assert again.state == "jump"
    assert again.traps == extra.traps == (1, 2, 3)
    (live,) = peek(watched.transport, [again.address], 5)  # its DCR is five bytes
    assert again.text == live.hex(" ")
