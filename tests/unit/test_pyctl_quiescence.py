"""Strategies, blockers, reclaim, tunables and unload, against a fake kernel."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner, Result

from pyctl import control, module
from pyctl.cli import main
from pyctl.errors import (
    BusyError,
    ControlError,
    ModuleError,
    NotLoadedError,
    ProtocolError,
    RefusedError,
    UnsupportedError,
    UsageError,
)
from pyctl.guest import Guest
from pyctl.probes import Probes
from pyctl.quiescence import Blocker, BlockerKind, Strategies, Tunables, parse_blockers
from pyctl.reasons import Reason
from pyctl.testing import HOLDER, STRATEGIES, FakeDjprobes
from pyctl.transport import RecordingTransport

READ = 0xFFFFFFFF81000000
LINE = "jump 0xffffffff81000005 vfs_read+0x5 12 0xffffffff81000007 vfs_read+0x7 "


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    fake = FakeDjprobes({"vfs_read": READ, "vfs_write": READ + 0x100})
    monkeypatch.setattr(Guest, "local", lambda: Guest("fake", fake))
    monkeypatch.delenv("DJP_ON", raising=False)
    return fake


def djp(*argv: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main.app, list(argv))
    assert result.exit_code == status, result.output
    return result


def document(*argv: str, status: int = 0) -> dict:
    return json.loads(djp(*argv, "--json", status=status).stdout)


def test_strategies(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    assert (probes.strategy, probes.auto_strategy) == ("auto", "rendezvous")
    assert probes.strategies == STRATEGIES
    probes.strategy = "freezer"
    assert probes.strategy == "freezer"
    probes.strategy = "auto"
    assert probes.strategy == "auto"
    with pytest.raises(UsageError, match=r"'prayer'\n.*it has auto, rendezvous, fixup"):
        probes.strategy = "prayer"
    assert control.parse_strategies("a [b] c\n") == Strategies("b", ("a", "b", "c"))
    for wrong in ("a b", "[a] [b]", ""):
        with pytest.raises(ProtocolError):
            control.parse_strategies(wrong)


def test_a_module_without_auto(kernel: FakeDjprobes) -> None:
    kernel.files[f"{control.DEBUGFS}/features"] = "strategy_freezer yes\n"
    with pytest.raises(UnsupportedError, match="older"):
        _ = Probes(kernel).auto_strategy


@pytest.mark.parametrize(
    "comm", ["bash", "kworker/1:2 busy", "a b  c ", "-", "x\x0by\x1cz", "\u2028", "ends\r"]
)
def test_blockers_keep_any_name_of_a_task(comm: str) -> None:
    first, second = parse_blockers(f"{LINE}{comm}\nreclaim 0x10 f+0x5 0 0x20 - -\n")
    assert first == Blocker(
        BlockerKind.JUMP, READ + 5, "vfs_read+0x5", 12, READ + 7, "vfs_read+0x7", comm
    )
    assert (second.kind, second.task) == (BlockerKind.RECLAIM, "an unknown task")


def test_blockers_of_a_newer_kind_and_broken_ones() -> None:
    (one,) = parse_blockers(LINE.replace("jump", "nap") + "bash\n")
    assert one.kind == "nap"
    assert parse_blockers("") == ()
    for wrong in ("jump 0x1 f 1 0x2 g\n", LINE.replace("12", "twelve") + "bash\n", "\n"):
        with pytest.raises(ProtocolError, match="blockers"):
            parse_blockers(wrong)


def test_a_partial_commit_names_who_is_in_the_way(kernel: FakeDjprobes) -> None:
    kernel.deferring.add("late")
    probes = Probes(kernel)
    probes.add("vfs_read", name="late")
    probes.add("vfs_write")
    done = probes.commit()
    assert (done.patched, done.deferred) == (1, 1)
    (blocker,) = done.blockers
    assert (blocker.kind, blocker.site) == (BlockerKind.JUMP, READ + 5)
    assert blocker.task == "kworker/1:2 busy[4711]"
    assert str(blocker) == (
        "the jump at vfs_read+0x5 waits: kworker/1:2 busy[4711] is at vfs_write+0x7 "
        "(0xffffffff81000107)"
    )
    assert probes.blockers() == done.blockers
    kernel.deferring.clear()
    assert probes.commit().blockers == probes.blockers() == ()


def test_reclaim(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    kernel.stuck.add("used")
    probes.add("vfs_read", name="used")
    probes.add("vfs_write", name="free")
    probes.commit()
    probes.remove_all()
    assert probes.stats().detours_retired == 2
    with pytest.raises(ControlError) as caught:
        probes.reclaim()
    error = caught.value
    assert not isinstance(error, RefusedError)
    assert (error.errno, error.reason) == (errno.EBUSY, Reason.DETOURS_BUSY)
    assert error.owner == HOLDER.task
    assert "in the way: kworker/1:2 busy[4711] at 0xffffffff81000107 vfs_write" in str(error)
    (blocker,) = probes.blockers()
    assert blocker.kind is BlockerKind.RECLAIM
    assert str(blocker).startswith("the detour of vfs_read+0x5 waits: kworker")
    assert (probes.stats().detours_retired, probes.stats().detours_reclaimed) == (1, 1)
    kernel.stuck.clear()
    probes.reclaim()
    assert (probes.stats().detours_retired, probes.stats().detours_reclaimed) == (0, 2)


def test_tunables(kernel: FakeDjprobes) -> None:
    probes = Probes(kernel)
    assert probes.tunables == Tunables(2000, 1000, 10000)
    probes.tunables = replace(probes.tunables, reclaim_age_ms=5)
    assert [(asked.what, asked.data) for asked in kernel.asked("write")] == [
        (f"{control.PARAMETERS}/reclaim_age_ms", b"5\n")
    ]
    assert probes.tunables == Tunables(reclaim_age_ms=5)


@pytest.mark.parametrize("value", [0, -1, 1 << 32, 1.5, "2000", None, True])
def test_values_that_no_tunable_can_have(value: object) -> None:
    for name in ("deadline_ms", "reclaim_batch", "reclaim_age_ms"):
        with pytest.raises(UsageError, match=f"{name} can't be"):
            Tunables(**{name: value})


def rmmod(kernel: FakeDjprobes) -> list[tuple[str, ...]]:
    return [entry.what for entry in kernel.asked("run") if entry.what[0] == "rmmod"]


def test_unload_reclaims_first(kernel: FakeDjprobes) -> None:
    kernel.results = {("rmmod",): (0, b"")}
    with Probes(kernel) as probes:
        probes.add("vfs_read")
        probes.commit()
    assert probes.stats().detours_retired == 1
    module.unload(kernel)
    assert kernel.retired == {}
    assert rmmod(kernel) == [("rmmod", "djprobes")]


def test_unload_names_who_is_in_the_way(kernel: FakeDjprobes) -> None:
    kernel.stuck.add("used")
    with Probes(kernel) as probes:
        probes.add("vfs_read", name="used")
        probes.commit()
    with pytest.raises(BusyError) as caught:
        module.unload(kernel)
    error = caught.value
    assert isinstance(error, ModuleError)
    assert error.owner == HOLDER.task
    assert "kworker/1:2 busy[4711] has yet to leave" in str(error)
    assert "vfs_write+0x7" in str(error)
    assert rmmod(kernel) == []
    told = json.loads(json.dumps(error.as_dict()))
    assert told["blockers"][0]["comm"] == "kworker/1:2 busy"
    assert document("unload", status=1)["error"]["owner"] == HOLDER.task


def test_unload_when_something_was_retired_meanwhile(kernel: FakeDjprobes) -> None:
    """Between our reclaim and rmmod somebody removes a probe: still no bare errno."""
    status = FakeDjprobes({"vfs_read": READ})
    Probes(status).add("vfs_read", name="used")

    def refuse(argv: list[str], **_options: object) -> object:
        kernel.stuck.add("used")
        kernel.retired |= status.table
        kernel._reclaim()
        return plain(argv, check=False)

    plain, kernel.run = kernel.run, refuse
    with pytest.raises(BusyError, match="4711"):
        module.unload(kernel)


def test_unload_of_a_module_with_probes(kernel: FakeDjprobes) -> None:
    Probes(kernel).add("vfs_read")
    with pytest.raises(ModuleError, match=r"rmmod djprobes.*\n.*1 probes hold it") as caught:
        module.unload(kernel)
    assert not isinstance(caught.value, BusyError)


def test_unload_without_the_files(kernel: FakeDjprobes) -> None:
    kernel.unload()
    with pytest.raises(ModuleError, match="rmmod djprobes"):
        module.unload(kernel)
    kernel.results = {("rmmod",): (0, b"")}
    module.unload(kernel)


def test_another_module_is_not_asked(kernel: FakeDjprobes) -> None:
    kernel.results = {("rmmod",): (0, b"")}
    module.unload(kernel, "djp_test")
    assert kernel.asked("write") == []


def test_strategy_command(kernel: FakeDjprobes) -> None:
    told = document("strategy")
    assert told == {
        "strategy": "auto",
        "available": list(STRATEGIES),
        "auto_strategy": "rendezvous",
    }
    assert djp("strategy").stdout.startswith("[auto] rendezvous fixup")
    assert "auto is rendezvous" in djp("strategy").stdout
    assert document("strategy", "stackscan")["strategy"] == "stackscan"
    assert "[stackscan]" in djp("strategy").stdout
    assert "it has auto" in djp("strategy", "prayer", status=1).stderr


def test_blockers_and_reclaim_commands(kernel: FakeDjprobes) -> None:
    assert document("blockers") == {"blockers": []}
    assert djp("blockers").stdout.strip() == "nothing is held up"
    kernel.deferring |= {"p_vfs_read_0", "p_vfs_write_0"}
    for number in range(3):
        kernel.deferring.add(f"n{number}")
        djp("add", f"vfs_read+{number + 20}", "--name", f"n{number}")
    shown = djp("add", "vfs_read", "vfs_write", "--commit").stderr
    assert "the jump at vfs_read+0x5 waits" not in shown  # the fourth of five
    assert "and 2 more: `djp blockers`" in shown
    told = document("blockers")["blockers"]
    assert len(told) == 5
    assert (told[0]["pid"], told[0]["task"]) == (4711, HOLDER.task)
    assert "kworker/1:2 busy[4711]" in djp("blockers").stdout
    kernel.stuck.add("n0")
    djp("rm", "--all")
    error = document("reclaim", status=1)["error"]
    assert (error["reason"], error["owner"]) == ("detours-busy", HOLDER.task)
    kernel.stuck.clear()
    assert document("reclaim") == {"reclaimed": 1}
    assert djp("reclaim").stdout.startswith("0 detours freed")


def test_tune_command(kernel: FakeDjprobes) -> None:
    assert document("tune")["deadline_ms"] == 2000
    told = document("tune", "--deadline-ms", "750", "--reclaim-batch", "10")
    assert told == {"deadline_ms": 750, "reclaim_batch": 10, "reclaim_age_ms": 10000}
    assert "750" in djp("tune").stdout
    assert "can't be 0" in djp("tune", "--deadline-ms", "0", status=1).stderr


def test_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "local", lambda: Guest("x", RecordingTransport()))
    for command in ("strategy", "blockers", "reclaim", "tune"):
        assert document(command, status=1)["error"]["type"] == "NotLoadedError"
    with pytest.raises(NotLoadedError):
        Probes(RecordingTransport()).blockers()
