"""The life of a probe on functions whose displaced instructions are known."""

from __future__ import annotations

import pytest

from pyctl import ControlError, Guest, Probes, Reason, RefusedError
from pyctl.verify.livetext import peek

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

CALL = "/sys/kernel/debug/djp_test/call"
#: Functions of kmod/test/targets.S that take a jump.
JUMPABLE = (
    "djp_test_plain", "djp_test_rip", "djp_test_state_probe", "djp_test_victim",
    "djp_test_jcc_probe", "djp_test_jmp_probe", "djp_test_loop_probe", "djp_test_call_probe",
    "djp_test_icall_probe", "djp_test_ijmp_probe", "djp_test_ret_probe",
)  # fmt: skip
#: How often one call of a function reaches its probe point, where that is not once.
PASSES = {"djp_test_jcc_probe": 2, "djp_test_loop_probe": 5}
#: What explain says of each that is more than a copy.
RELOCATIONS = {
    "djp_test_rip": [(0, "rip")],
    "djp_test_jcc_probe": [(3, "jcc")],
    "djp_test_jmp_probe": [(2, "jmp")],
    "djp_test_loop_probe": [(3, "loop")],
    "djp_test_call_probe": [(0, "call")],
    "djp_test_icall_probe": [(3, "call")],
    "djp_test_ijmp_probe": [(0, "rip")],
}


def call(guest: Guest, times: int) -> dict[str, tuple[int, int]]:
    """Call each target; name to how often it was called and was wrong, ever."""
    guest.transport.write(CALL, str(times).encode())
    rows = (line.split() for line in guest.transport.read(CALL).decode().splitlines())
    return {name: (int(calls), int(wrong)) for name, calls, wrong in rows}


def calls_of(counts: dict[str, tuple[int, int]], target: str) -> int:
    return counts[target.removesuffix("_probe")][0]


def no_wrong(counts: dict[str, tuple[int, int]]) -> bool:
    return all(wrong == 0 for _, wrong in counts.values())


def test_each_state_fires_and_changes_nothing(watched: Guest, probes: Probes) -> None:
    """Rule 1, and exact counts, in bypass, as a jump, disabled, and afterwards."""
    before = call(watched, 10)
    added = {target: probes.add(f"djp_test:{target}") for target in JUMPABLE}

    in_bypass = call(watched, 100)
    assert no_wrong(in_bypass)
    for target, probe in added.items():
        assert probe.state == "bypass"
        calls = calls_of(in_bypass, target) - calls_of(before, target)
        assert (calls, probe.hits) == (100, 100 * PASSES.get(target, 1)), target

    result = probes.commit()
    assert result.complete
    assert result.patched == len(JUMPABLE)
    as_jump = call(watched, 1000)
    assert no_wrong(as_jump)
    for target, probe in added.items():
        assert probe.state == "jump"
        calls = calls_of(as_jump, target) - calls_of(before, target)
        assert (calls, probe.hits) == (1100, 1100 * PASSES.get(target, 1)), target

    probes.disable(*added.values())
    assert no_wrong(call(watched, 50))
    assert {probe.state for probe in added.values()} == {"disabled"}
    assert all(probe.hits == 1100 * PASSES.get(name, 1) for name, probe in added.items())

    probes.enable(*added.values())
    assert no_wrong(call(watched, 5))
    assert all(probe.hits == 1105 * PASSES.get(name, 1) for name, probe in added.items())

    probes.remove(*added.values())
    assert probes.list() == []
    assert no_wrong(call(watched, 50))


def test_only_the_jumps_change_the_text_and_all_is_put_back(watched: Guest, probes: Probes) -> None:
    """Byte for byte, for the module that is probed; test_demo does it for the kernel."""
    lines = watched.transport.run(["grep", "-F", "[djp_test]", "/proc/kallsyms"]).text
    symbols = [int(line.split()[0], 16) for line in lines.splitlines() if line.split()[1] in "tT"]
    start, length = min(symbols), max(symbols) - min(symbols) + 64

    def text() -> bytes:
        return peek(watched.transport, [start], length)[0]

    before = text()
    added = probes.add_many([f"djp_test:{target}" for target in JUMPABLE])
    in_bypass = text()
    sites = [probe.address - start for probe in added]
    regions = {
        site + i
        for site, probe in zip(sites, added, strict=True)
        for i in range(len(probes.explain(probe.target).dcr))
    }
    assert changed(before, in_bypass) <= regions
    assert {in_bypass[site] for site in sites} == {0xCC}
    # The rest of the first instruction, so that others who decode the function keep step.
    rest = changed(before, in_bypass) - set(sites)
    assert {in_bypass[at] for at in rest} == {0x90}
    probes.commit()
    as_jump = text()
    assert {as_jump[site] for site in sites} == {0xE9}
    assert changed(before, as_jump) <= regions
    probes.remove_all()
    assert text() == before


def changed(before: bytes, after: bytes) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


def test_probes_share_an_address(watched: Guest, probes: Probes) -> None:
    first = probes.add("djp_test:djp_test_plain", name="first")
    call(watched, 3)
    second = probes.add("djp_test:djp_test_plain", name="second")
    probes.commit()
    call(watched, 4)
    third = probes.add("djp_test:djp_test_plain", name="third")
    assert third.state == "jump", "a site that is a jump stays one when its detour changes"
    call(watched, 5)
    assert (first.hits, second.hits, third.hits) == (12, 9, 5)
    assert probes.stats().sites == 1

    probes.remove(first)
    call(watched, 6)
    assert (second.hits, third.hits) == (15, 11)
    assert first.hits == 12


def test_a_bad_line_changes_nothing(watched: Guest, probes: Probes) -> None:
    kept = probes.add("djp_test:djp_test_plain", name="kept")
    probes.commit()
    before = (probes.list(), probes.stats())
    batch = [
        "p:one djp_test:djp_test_rip",
        "-:kept",
        "# a comment",
        "",
        "p:two djp_test:djp_test_branch method=jump",
        "commit",
    ]
    with pytest.raises(ControlError) as caught:
        probes.control.submit(batch)
    error = caught.value
    assert (error.line, error.token, error.reason) == (
        5, "djp_test:djp_test_branch", Reason.BRANCH_TARGET,
    )  # fmt: skip
    assert error.column == 7
    assert error.offending is not None
    assert "djp_test_branch+0x2" in error.offending
    assert (probes.list(), probes.stats()) == before
    call(watched, 7)
    assert kept.hits == 7


@pytest.mark.parametrize(
    ("line", "token", "reason"),
    [
        ("x:bad vfs_read", "x:bad", Reason.SYNTAX),
        ("p:one", "p:one", Reason.SYNTAX),
        ("p:9one vfs_read", "p:9one", Reason.BAD_NAME),
        ("p:" + "n" * 64 + " vfs_read", "p:" + "n" * 64, Reason.BAD_NAME),
        ("p:one no_such_function", "no_such_function", Reason.SYMBOL_NOT_FOUND),
        ("p:one vfs_read+zz", "vfs_read+zz", Reason.BAD_OFFSET),
        ("p:one vfs_read+0x100000", "vfs_read+0x100000", Reason.OUTSIDE_SYMBOL),
        ("p:one 0x1000", "0x1000", Reason.NOT_TEXT),
        ("p:one jiffies", "jiffies", Reason.NOT_TEXT),
        ("p:one vfs_read trace", "trace", Reason.NOT_SUPPORTED),
        ("p:one vfs_read count %di", "%di", Reason.NOT_SUPPORTED),
        ("p:one vfs_read+6", "vfs_read+6", Reason.NOT_BOUNDARY),
        ("p:one exc_int3", "exc_int3", Reason.BLACKLIST),
        ("p:one __rcu_read_lock", "__rcu_read_lock", Reason.INT3_PATH),
        ("p:one djprobes:djp_update_locked", "djprobes:djp_update_locked", Reason.OWN_TEXT),
        ("p:one vfs_read method=best", "method=best", Reason.NOT_SUPPORTED),
        ("p:one vfs_read method=int3 method=jump", "method=jump", Reason.NOT_SUPPORTED),
        ("p:one vfs_read method=jump+int3", "vfs_read", Reason.OTHER_METHOD),
        (
            "p:one djp_test:djp_test_plain method=int3",
            "djp_test:djp_test_plain",
            Reason.OTHER_METHOD,
        ),
        (
            "p:one djp_test:djp_test_branch method=jump",
            "djp_test:djp_test_branch",
            Reason.BRANCH_TARGET,
        ),
        (
            "p:one djp_test:djp_test_no_insn_return method=jump",
            "djp_test:djp_test_no_insn_return",
            Reason.INSN_RETURN,
        ),
        (
            "p:one djp_test:djp_test_no_insn_privileged method=int3",
            "djp_test:djp_test_no_insn_privileged",
            Reason.INSN_PRIVILEGED,
        ),
        (
            "p:one djp_test:djp_test_no_insn_trap method=kprobe",
            "djp_test:djp_test_no_insn_trap",
            Reason.INSN_TRAP,
        ),
        ("-:nobody", "-:nobody", Reason.NO_SUCH_PROBE),
        ("enable nobody", "nobody", Reason.NO_SUCH_PROBE),
        ("commit now", "now", Reason.SYNTAX),
    ],
)
def test_refusals_say_why(probes: Probes, line: str, token: str, reason: Reason) -> None:
    with pytest.raises(ControlError) as caught:
        probes.control.submit(["p:good djp_test:djp_test_plain", line])
    error = caught.value
    assert (error.line, error.token, error.reason) == (2, token, reason)
    assert error.message
    assert error.hint
    assert probes.list() == []


def test_a_name_is_taken_once(probes: Probes) -> None:
    probes.add("djp_test:djp_test_plain", name="taken")
    with pytest.raises((ControlError, RefusedError)) as caught:
        probes.control.submit(["p:taken djp_test:djp_test_rip"])
    assert caught.value.reason is Reason.DUPLICATE_NAME
    probes.control.submit(["-:taken", "p:taken djp_test:djp_test_rip"])
    (status,) = probes.list()
    assert status.target == "djp_test:djp_test_rip+0x0"


def test_overlapping_sites_are_refused(probes: Probes) -> None:
    probes.add("djp_test:djp_test_plain", name="at_0")
    with pytest.raises(ControlError) as caught:
        probes.control.submit(["p:at_4 djp_test:djp_test_plain+4"])
    assert caught.value.reason is Reason.OVERLAP


def test_a_kprobe_in_the_way_is_seen(watched: Guest, probes: Probes) -> None:
    with watched.tracefs() as oracle:
        oracle.attach(["vfs_read+5"])
        with pytest.raises(ControlError) as caught:
            probes.control.submit(["p:one vfs_read method=jump"])
        answer = probes.explain("vfs_read")
    assert caught.value.reason is Reason.KPROBE
    assert (answer.method, answer.reason) == ("kprobe", Reason.KPROBE)


def test_explain(probes: Probes) -> None:
    good = probes.explain("djp_test:djp_test_rip")
    assert (good.verdict, good.method, good.reason) == ("jump", "jump", Reason.OK)
    assert good.dcr[:3] == bytes.fromhex("48ff05")
    for target, relocations in RELOCATIONS.items():
        explained = probes.explain(f"djp_test:{target}")
        assert [(it.offset, it.kind) for it in explained.relocations] == relocations
    stray = probes.explain("djp_test:djp_test_branch")
    assert (stray.method, stray.reason) == ("jump+int3", Reason.BRANCH_TARGET)
    bad = probes.explain("djp_test:djp_test_no_insn_trap")
    assert (bad.verdict, bad.reason) == ("refused", Reason.INSN_TRAP)
    probes.add("djp_test:djp_test_rip")
    assert probes.explain("djp_test:djp_test_rip").dcr == good.dcr, "the original bytes"


@pytest.mark.parametrize(
    ("reason", "method"),
    [
        (Reason.INSN_BRANCH, "kprobe"),
        (Reason.INSN_CALL, "jump+int3"),
        (Reason.INSN_TRAP, None),
        (Reason.INSN_PRIVILEGED, "kprobe"),
        (Reason.INSN_RETURN, "jump+int3"),
        (Reason.TOO_NEAR_END, "int3"),
        (Reason.EXTABLE, None),
        (Reason.UNDECODABLE, None),
    ],
)
def test_what_takes_no_plain_jump_says_why(
    probes: Probes, reason: Reason, method: str | None
) -> None:
    """kmod/test/targets.S has a function for each."""
    target = f"djp_test:djp_test_no_{reason.value.replace('-', '_')}"
    answer = probes.explain(target)
    assert (answer.method, answer.reason) == (method, reason)


def test_text_that_the_kernel_patches_is_refused(probes: Probes) -> None:
    """djp_test_patched: an ftrace site, a jump label that is off, a static call to nothing."""
    entry = probes.explain("djp_test:djp_test_patched")
    assert entry.ftrace is not None
    assert entry.address == entry.ftrace + 5, "behind the ftrace site"
    start = entry.ftrace
    # Reasons by offset, for the jump label at +5 and for what follows it.
    reasons = {off: probes.explain(f"{start + off:#x}").reason for off in range(1, 24)}
    assert reasons[1] is Reason.NOT_BOUNDARY, "not moved: it is in the middle of the site"
    assert reasons[5] is Reason.JUMP_LABEL
    assert Reason.STATIC_CALL in reasons.values()
