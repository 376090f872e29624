"""Control files and probes, against a fake kernel that keeps to docs/debugfs.md."""

from __future__ import annotations

import errno
import json

import pytest

from pyctl import control
from pyctl.control import Extent
from pyctl.errors import (
    ControlError,
    DjprobesError,
    NotLoadedError,
    ProtocolError,
    RefusedError,
    RemoteOSError,
    TransportError,
    UnsupportedError,
    UsageError,
)
from pyctl.explanation import Detour, Entry, Relocation, Source, parse_explanation
from pyctl.methods import Method, State
from pyctl.parsing import Location
from pyctl.probes import Probes, default_name
from pyctl.reasons import Reason
from pyctl.testing import FakeDjprobes

CONTROL = f"{control.DEBUGFS}/control"
BASE = 0xFFFFFFFF81000000
EXPLAIN = """\
target: vfs_read
address: 0xffffffff812c4d65
symbol: vfs_read+0x5
verdict: refused
method: -
reason: branch-target
message: something branches into: the bytes
hint: probe another
offending: 0xffffffff812c4d67 vfs_read+0x7
dcr: 41 57 41 56 41 55
relocations: +0:rip +4:rip
ftrace: 0xffffffff812c4d60
source: branch 0xffffffff81999990 vfs_read.cold+0x12
state: bypass
traps: +2 +4
text: e9 xx cc xx cc
detour: 0xffffffffc0201000 9c 9d
entries: +0:0xffffffffc0201001 +2:0xffffffffc0201003
newer: 42
"""


@pytest.fixture
def kernel() -> FakeDjprobes:
    return FakeDjprobes(
        {
            "vfs_read": 0xFFFFFFFF81000000,
            "vfs_write": 0xFFFFFFFF81000100,
            "bad": 0xFFFFFFFF81000200,
            "mid": 0xFFFFFFFF81000300,
            "slow": 0xFFFFFFFF81000400,
            "slowest": 0xFFFFFFFF81000500,
        },
        refused={"bad": Reason.BRANCH_TARGET},
        methods={
            "mid": (Method.JUMP_INT3, Reason.BRANCH_TARGET),
            "slow": (Method.INT3, Reason.EXTABLE),
            "slowest": (Method.KPROBE, Reason.INSN_PRIVILEGED),
        },
    )


def writes(kernel: FakeDjprobes) -> list[str]:
    return [entry.data.decode() for entry in kernel.asked("write") if entry.what == CONTROL]


def test_life_of_a_probe(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        read = probes.add("vfs_read")
        assert (read.name, read.asked, read.target) == ("p_vfs_read_0", "vfs_read", "vfs_read+0x5")
        assert read.address == 0xFFFFFFFF81000005
        assert (read.state, read.method) == ("bypass", "jump")
        kernel.hit(read.name, 3)
        done = probes.commit()
        assert (done.patched, done.deferred, done.complete) == (1, 0, True)
        assert (done.stop_ns, done.quiescence_ns) == (1_500_000, 9_000_000)
        assert (read.state, read.hits) == ("jump", 3)
        read.disable()
        kernel.hit(read.name)
        assert (read.state, read.hits) == ("disabled", 3)
        read.enable()
        kernel.hit(read.name)
        assert probes.hits() == {"p_vfs_read_0": 4}
    assert kernel.table == {}
    assert read.removed
    assert (read.hits, read.missed, read.state) == (4, 0, "disabled")


def test_methods_and_reasons(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        made = probes.add_many(["vfs_read", "mid", "slow", "slowest"])
        assert [probe.state for probe in made] == ["bypass", "bypass", "int3", "kprobe"]
        assert [probe.method for probe in made] == list(Method)[:4]
        assert [probe.reason for probe in made] == [
            Reason.OK,
            Reason.BRANCH_TARGET,
            Reason.EXTABLE,
            Reason.INSN_PRIVILEGED,
        ]
        for probe in made:
            kernel.hit(probe.name)
        assert probes.commit().patched == 2
        stats = probes.stats()
        assert (stats.sites_jump, stats.sites_int3, stats.sites_kprobe) == (2, 1, 1)
        assert [probe.state for probe in made] == ["jump", "jump", "int3", "kprobe"]
        probes.disable(*made)
        probes.enable(*made)
        assert [probe.state for probe in made] == ["bypass", "bypass", "int3", "kprobe"]
        assert made[0].status.detour == Extent(0xFFFFFFFFC0400140, 22)
        assert made[3].status.detour is None
    assert [probe.hits for probe in made] == [1, 1, 1, 1]


def test_a_method_can_be_asked_for(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        assert probes.add("vfs_read", method=Method.KPROBE).state is State.KPROBE
        probes.add_many(["vfs_write", "mid"], method="int3")
        assert {status.method for status in probes.list()} == {Method.KPROBE, Method.INT3}
        with pytest.raises(RefusedError) as caught:
            probes.add("slow", method="jump")
        assert caught.value.reason is Reason.EXTABLE
        assert caught.value.written == "p:p_slow_0 slow count method=jump\n"
        before = len(writes(kernel))
        for name in ("refused", "push", ""):
            with pytest.raises(UsageError, match=r"no method .*\n.*jump, jump\+int3, int3, kprobe"):
                probes.add("vfs_read", method=name)
        assert len(writes(kernel)) == before


@pytest.mark.parametrize(
    ("line", "fine"),
    [
        ("a f+0x5 0x10 jump jump count 1 0 ok 0x20+30", True),
        ("a f+0x5 0x10 gone - count 1 0 ok -", True),
        ("a f+0x5 0x10 jump jump count 1 0 ok 0x20+30 newer", True),
        ("a f+0x5 0x10 hover jump+int4 count 1 0 moon 0x20+30", True),
        ("a f+0x5 0x10 jump jump count 1 0 ok", False),
        ("a f+0x5 0x10 jump jump count 1 0 ok 0x20", False),
        ("a f+0x5 0x10 jump jump count x 0 ok -", False),
    ],
)
def test_lines_of_probes(line: str, fine: bool) -> None:
    if fine:
        (status,) = control.parse_probes(f"{line}\n")
        assert (status.name, status.address, status.hits) == ("a", 16, 1)
        assert (status.method is None) == (status.state is State.GONE)
    else:
        with pytest.raises(ProtocolError, match="line 1"):
            control.parse_probes(f"{line}\n")


def test_a_partial_commit_is_told(kernel: FakeDjprobes) -> None:
    kernel.deferring.add("late")
    probes = Probes(kernel)
    probes.add("vfs_read", name="late")
    probes.add("vfs_write")
    done = probes.commit()
    assert (done.patched, done.deferred, done.complete) == (1, 1, False)


def test_many_are_one_write(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        made = probes.add_many([f"vfs_read+{n}" for n in range(1, 1001)])
        assert len({probe.name for probe in made}) == 1000
        assert len(writes(kernel)) == 1
    assert len(writes(kernel)) == 3  # disable all, remove all
    assert kernel.table == {}


def test_a_bad_line_changes_nothing_and_says_where(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        with pytest.raises(RefusedError) as caught:
            probes.add_many(["vfs_read", "bad", "vfs_write"])
        assert kernel.table == {}
        assert probes.list() == []
    error = caught.value
    assert (error.errno, error.line, error.token) == (errno.EBUSY, 2, "bad")
    assert error.reason is Reason.BRANCH_TARGET
    assert error.offending.endswith("bad+0x5")
    shown = str(error).splitlines()
    assert "line 2 of 3" in shown[0]
    assert shown[1] == "    p:p_bad_0 bad count"
    assert shown[2].index("^") == shown[1].index(" bad ") + 1
    assert shown[2].strip() == "^~~"
    assert "nothing of this write was applied" in shown[-1]
    assert json.loads(json.dumps(error.as_dict()))["reason"] == "branch-target"


def test_an_unknown_symbol_is_not_an_unloaded_module(kernel: FakeDjprobes) -> None:
    with pytest.raises(ControlError) as caught:
        Probes(kernel).add("no_such_function")
    assert type(caught.value) is ControlError
    assert caught.value.reason is Reason.SYMBOL_NOT_FOUND
    assert "see kallsyms" in str(caught.value)


def test_not_loaded() -> None:
    probes = Probes(FakeDjprobes({}, loaded=False))
    for ask in (probes.list, probes.stats, probes.features, probes.commit):
        with pytest.raises(NotLoadedError, match="djp load"):
            ask()
    with pytest.raises(NotLoadedError, match="djp load"):
        probes.add("vfs_read")
    with pytest.raises(NotLoadedError, match="djp load"):
        probes.explain("vfs_read")


def test_only_own_probes_are_removed(kernel: FakeDjprobes) -> None:
    Probes(kernel).add("vfs_read", name="other")
    with Probes(kernel) as probes:
        probes.add("vfs_read")
        probes.add("vfs_read")
        assert sorted(kernel.table) == ["other", "p_vfs_read_0", "p_vfs_read_0_2"]
    assert sorted(kernel.table) == ["other"]


def test_a_taken_name_is_looked_up(kernel: FakeDjprobes) -> None:
    first, second = Probes(kernel), Probes(kernel)
    first.add("vfs_read")
    assert second.add("vfs_read").name == "p_vfs_read_0_2"
    with pytest.raises(ControlError) as caught:
        second.add("vfs_write", name="p_vfs_read_0")
    assert caught.value.reason is Reason.DUPLICATE_NAME


def test_probes_removed_by_others_are_no_error(kernel: FakeDjprobes) -> None:
    with Probes(kernel) as probes:
        probe = probes.add("vfs_read")
        probes.add("vfs_write")
        Probes(kernel).remove(probe.name)
        with pytest.raises(UsageError, match="any more"):
            _ = probe.hits
    assert kernel.table == {}


def test_remove_by_name_and_all(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    one, two = probes.add_many(["vfs_read", "vfs_write"])
    kernel.hit(two.name, 7)
    probes.remove(one.name)
    assert one.removed
    one.remove()  # a second time is fine
    with pytest.raises(UsageError, match="no probe 'nothing'"):
        probes.remove("nothing")
    probes.remove_all()
    assert (two.removed, two.hits) == (True, 7)
    assert kernel.table == {}


def test_no_hit_is_lost_at_removal(kernel: FakeDjprobes) -> None:
    """The last reading is of a probe that can't fire any more."""
    probes = Probes(kernel)
    probe = probes.add("vfs_read")
    plain = kernel.read

    def racing(path: str) -> bytes:
        if path.endswith("/probes"):
            answer = plain(path)
            kernel.hit(probe.name)  # right behind every reading
            return answer
        return plain(path)

    kernel.read = racing
    before = kernel.table[probe.name].hits
    probe.remove()
    assert probe.hits == before + 1  # what fired between the first reading and the disable


def test_the_first_error_is_not_hidden(kernel: FakeDjprobes) -> None:
    def crash() -> None:
        with Probes(kernel) as probes:
            probes.add("vfs_read")
            kernel.unload()
            raise KeyError("first")

    with pytest.raises(KeyError) as caught:
        crash()
    assert "could not be removed" in caught.value.__notes__[0]


def test_fetch_and_actions_are_not_offered_yet(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    with pytest.raises(UnsupportedError, match="'trace'"):
        probes.add("vfs_read", fetch={"count": "%dx:u64"})
    with pytest.raises(UnsupportedError, match="'trace'"):
        probes.add("vfs_read", action="trace")
    assert writes(kernel) == []


@pytest.mark.parametrize("target", ["", "a b", "a\nb", "vfs_read\n-*", "# x", "a\tb", "a\0b"])
def test_a_target_can_never_be_more_than_one_word(kernel: FakeDjprobes, target: str) -> None:
    for ask in (Probes(kernel).add, Probes(kernel).explain):
        with pytest.raises(UsageError, match="not a target"):
            ask(target)
    assert writes(kernel) == []


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "a" * 64, "a\n", "ä"])
def test_bad_names(kernel: FakeDjprobes, name: str) -> None:
    with pytest.raises(UsageError, match="can't be called"):
        Probes(kernel).add("vfs_read", name=name)


def test_explain_through_the_kernel(kernel: FakeDjprobes) -> None:
    good, bad = Probes(kernel).explain("vfs_read"), Probes(kernel).explain("bad")
    assert good.accepted
    assert good.offending is None
    assert not bad.accepted
    assert not bad.probeable
    slow = Probes(kernel).explain("slow")
    assert (slow.accepted, slow.probeable, slow.verdict) == (False, True, "fallback")
    assert (slow.method, slow.text, slow.state) == (Method.INT3, "cc", None)
    middle = Probes(kernel).explain("mid")
    assert (middle.accepted, middle.method, middle.traps) == (True, Method.JUMP_INT3, (2,))
    Probes(kernel).add("mid")
    assert Probes(kernel).explain("mid").state is State.BYPASS
    assert bad.reason is Reason.BRANCH_TARGET
    with pytest.raises(ControlError) as caught:
        Probes(kernel).explain("no_such")
    assert caught.value.file == "explain"


def test_parse_explanation() -> None:
    answer = parse_explanation(EXPLAIN)
    assert answer.offending == Location(0xFFFFFFFF812C4D67, "vfs_read+0x7")
    assert answer.dcr == bytes.fromhex("415741564155")
    assert answer.relocations == (Relocation(0, "rip"), Relocation(4, "rip"))
    assert answer.message == "something branches into: the bytes"
    assert answer.method is None
    source = Location(0xFFFFFFFF81999990, "vfs_read.cold+0x12")
    assert answer.source == Source("branch", source)
    assert str(answer.source) == "branch 0xffffffff81999990 vfs_read.cold+0x12"
    assert answer.state is State.BYPASS
    assert answer.traps == (2, 4)
    assert answer.text == "e9 xx cc xx cc"
    assert answer.detour == Detour(0xFFFFFFFFC0201000, b"\x9c\x9d")
    assert answer.entries == (Entry(0, 0xFFFFFFFFC0201001), Entry(2, 0xFFFFFFFFC0201003))
    assert answer.extra == {"newer": "42"}
    with pytest.raises(ProtocolError):
        parse_explanation("target: x\n")


def test_stats_and_features(kernel: FakeDjprobes) -> None:
    text = kernel._show_stats() + "brand_new 12\nword text\n"
    stats = control.parse_stats(text)
    assert stats.extra == {"brand_new": 12, "word": "text"}
    with pytest.raises(ProtocolError, match="patched"):
        control.parse_stats(text.replace("\npatched ", "\nunpatched "))
    features = Probes(kernel).features()
    assert features.symbols == {"text_poke": True, "execmem_alloc": False}
    assert features.values == {
        "strategy_freezer": True,
        "branch_map_targets": 812345,
        "auto_strategy": "rendezvous",
    }


def test_a_refusal_without_words() -> None:
    error = control.parse_last_error("", errno=errno.EPERM, written="p x\n")
    assert str(error).startswith("the kernel refused the write to control: Operation not perm")
    assert isinstance(control.parse_last_error("???", errno=5, written=""), ControlError)


def test_whose_the_bytes_are() -> None:
    text = "reason: foreign-text\nline: 1\noffending: 0x10 f+0x1\nowner: ftrace\n"
    error = control.parse_last_error(text, errno=errno.EBUSY, written="-:x\n")
    assert error.owner == "ftrace"
    assert "offending: 0x10 f+0x1 (it is ftrace's)" in str(error)
    assert error.as_dict()["owner"] == "ftrace"


def test_a_reason_from_a_newer_module() -> None:
    error = control.parse_last_error("reason: bad-moon\nline: 1\n", errno=5, written="p x\n")
    assert error.reason == "bad-moon"
    assert not isinstance(error.reason, Reason)
    assert isinstance(error, RefusedError)


def test_eperm_with_a_reason_is_about_the_address(kernel: FakeDjprobes) -> None:
    kernel.refused["bad"] = Reason.BLACKLIST
    with pytest.raises(RefusedError):
        Probes(kernel).add("bad")


def test_no_root(kernel: FakeDjprobes) -> None:
    def refuse(_data: bytes) -> None:
        raise OSError(errno.EACCES, "no")

    kernel.writers[CONTROL] = refuse
    with pytest.raises(NotLoadedError, match="root only"):
        Probes(kernel).add("vfs_read")


def test_every_error_is_plain_data() -> None:
    for error in (
        RemoteOSError(2, operation="read", path="/x", host="h"),
        TransportError("gone", hint="look"),
        ControlError(errno=22, written="x\n", line=1, column=9, token="tok", text="\tabc tok"),
    ):
        assert isinstance(error, DjprobesError)
        assert json.loads(json.dumps(error.as_dict()))["type"] == type(error).__name__
        assert error.message in str(error)


def test_default_names_are_the_kernels() -> None:
    assert default_name("vfs_read") == "p_vfs_read_0"
    assert default_name("vfs_read+0x1A") == "p_vfs_read_1a"
    assert default_name("ext4:ext4_sync_fs+16") == "p_ext4_sync_fs_10"
    assert default_name("foo.cold+5") == "p_foo_cold_5"
    assert default_name("0xffffffff81000000") == "p_0xffffffff81000000"
