"""The command line, over a fake kernel and over this machine."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from pyctl.cli import main
from pyctl.guest import Guest
from pyctl.methods import Method
from pyctl.reasons import Reason
from pyctl.testing import FakeDjprobes
from pyctl.transport import RecordingTransport


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeDjprobes:
    fake = FakeDjprobes(
        {"vfs_read": 0xFFFFFFFF81000000, "bad": 0xFFFFFFFF81000100, "slow": 0xFFFFFFFF81000200},
        refused={"bad": Reason.BRANCH_TARGET},
        methods={"slow": (Method.INT3, Reason.EXTABLE)},
    )
    monkeypatch.setattr(Guest, "local", lambda: Guest("fake", fake))
    monkeypatch.delenv("DJP_ON", raising=False)
    return fake


def djp(*argv: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main.app, list(argv))
    assert result.exit_code == status, result.output
    return result


def document(*argv: str, status: int = 0) -> dict:
    """stdout has to be exactly one JSON document."""
    return json.loads(djp(*argv, "--json", status=status).stdout)


def test_life_of_a_probe(kernel: FakeDjprobes) -> None:
    added = document("add", "vfs_read", "vfs_read+0x9", "--name", "one", "--name", "two")
    assert [probe["name"] for probe in added["probes"]] == ["one", "two"]
    assert added["probes"][0]["state"] == "bypass"
    assert added["commit"] is None
    assert document("commit")["patched"] == 2
    kernel.hit("one", 1234)
    shown = document("ls")["probes"]
    assert (shown[0]["hits"], shown[0]["state"]) == (1234, "jump")
    assert "1,234" in djp("ls").stdout
    assert document("disable", "one")["probes"][0]["state"] == "disabled"
    assert document("enable", "one")["probes"][0]["state"] == "bypass"
    assert document("rm", "one") == {"removed": ["one"]}
    assert document("rm", "--all") == {"removed": ["two"]}
    assert document("ls") == {"probes": []}
    assert djp("ls").stdout.strip() == "no probes"


def test_add_and_commit(kernel: FakeDjprobes) -> None:
    answer = document("add", "vfs_read", "--commit")
    assert answer["commit"]["patched"] == 1
    assert answer["probes"][0]["state"] == "jump"


def test_methods_are_shown_and_can_be_asked_for(kernel: FakeDjprobes) -> None:
    added = document("add", "vfs_read", "slow")["probes"]
    assert [(p["method"], p["state"], p["reason"]) for p in added] == [
        ("jump", "bypass", "ok"),
        ("int3", "int3", "extable"),
    ]
    rows = [" ".join(line.split()) for line in djp("ls").stdout.splitlines()]
    assert rows[0] == "name target address state method action hits missed reason"
    assert rows[1].endswith("bypass jump count 0 0 -")
    assert rows[2].endswith("int3 int3 count 0 0 extable")
    assert "`djp commit`" in djp("add", "vfs_read+9").stderr
    asked = djp("add", "vfs_read+9", "--method", "kprobe")
    assert "kprobe kprobe" in " ".join(asked.stdout.split())
    assert "commit" not in asked.stderr  # there is nothing to wait for
    assert document("add", "slow", "--method", "jump", status=1)["error"]["reason"] == "extable"
    assert "there is no method" in djp("add", "slow", "--method", "hope", status=1).stderr


def test_nothing_is_cut_off_in_a_pipe(kernel: FakeDjprobes) -> None:
    long = "a_rather_long_name_of_a_function_in_the_kernel_that_goes_on"
    kernel.symbols[long] = 0xFFFFFFFF81000300
    djp("add", long)
    assert f"p_{long}_0"[:63] in djp("ls").stdout
    assert f"{long}+0x5" in djp("ls").stdout


def test_a_refusal_teaches(kernel: FakeDjprobes) -> None:
    result = djp("add", "vfs_read", "bad", status=1)
    assert result.stdout == ""
    assert "p:p_bad_0 bad count" in result.stderr
    assert "^~~" in result.stderr
    error = document("add", "vfs_read", "bad", status=1)["error"]
    assert (error["reason"], error["line"], error["errno"]) == ("branch-target", 2, 16)
    assert kernel.table == {}


def test_explain(kernel: FakeDjprobes) -> None:
    answer = document("explain", "bad")
    assert (answer["verdict"], answer["reason"], answer["method"]) == (
        "refused",
        "branch-target",
        None,
    )
    assert answer["address"] == "0xffffffff81000105"
    assert answer["offending"].startswith("0xffffffff8100010")
    assert answer["dcr"]["bytes"] == "41 57 41 56 41 55"
    assert answer["relocations"] == []
    assert "branch-target" in djp("explain", "bad").stdout
    assert document("explain", "no_such", status=1)["error"]["reason"] == "symbol-not-found"


def test_stats_and_features(kernel: FakeDjprobes) -> None:
    assert document("stats")["probes"] == 0
    assert "last_stop_ns" in djp("stats").stdout
    assert document("features")["symbols"]["execmem_alloc"] is False
    assert "symbol execmem_alloc" in djp("features").stdout


def test_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "local", lambda: Guest("x", RecordingTransport()))
    for command in (["ls"], ["commit"], ["stats"], ["features"], ["add", "f"], ["rm", "--all"]):
        error = document(*command, status=1)["error"]
        assert error["type"] == "NotLoadedError"
        assert "djp load" in error["hint"]
        assert "djp load" in djp(*command, status=1).stderr


def test_load_and_unload(kernel: FakeDjprobes) -> None:
    assert document("load")["how"] == "already"
    kernel.results = {("rmmod",): (0, b"")}
    assert document("unload") == {"unloaded": True}
    assert document("load", "--param", "nonsense", status=1)["error"]["type"] == "UsageError"


def test_rm_needs_to_know_what(kernel: FakeDjprobes) -> None:
    assert "--all" in djp("rm", status=1).stderr
    assert "no probe 'x'" in djp("rm", "x", status=1).stderr


def test_where(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(where: str) -> Guest:
        asked.append(where)
        return Guest(where, FakeDjprobes({}))

    monkeypatch.setattr(Guest, "ssh", lambda where: note(f"ssh {where}"))
    monkeypatch.setattr(Guest, "running", lambda where: note(f"guest {where}"))
    monkeypatch.setattr(Guest, "local", lambda: note("local"))
    monkeypatch.delenv("DJP_ON", raising=False)
    djp("ls")
    djp("--on", "root@h:22", "ls")
    djp("--on", "root@h", "ls", "--on", "bookworm-cloud")
    monkeypatch.setenv("DJP_ON", "other")
    djp("ls")
    djp("ls", "--on", "local")
    assert asked == ["local", "ssh root@h:22", "guest bookworm-cloud", "guest other", "local"]


def test_workload() -> None:
    answer = document("workload", "fileio", "--operations", "20", "-p", "fsync_every=5")
    assert answer["operations"]["fsync"] == 4
    assert answer["name"] == "fileio"
    assert "pread" in djp("workload", "fileio", "--operations", "1").stdout
    assert "there are fileio" in djp("workload", "nothing", status=1).stderr
    assert "is no int" in djp("workload", "fileio", "-p", "size=big", status=1).stderr


def test_errors_of_vm_are_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    error = document("--on", "no-such-guest", "ls", status=1)["error"]
    assert error["type"]
    assert "no-such-guest" in error["message"]


def test_bugs_are_not_hidden(kernel: FakeDjprobes) -> None:
    kernel.files["/sys/kernel/debug/djprobes/probes"] = lambda: 1 / 0
    result = CliRunner().invoke(main.app, ["ls"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_vm_commands_are_there() -> None:
    assert "up" in djp("vm", "--help").stdout
