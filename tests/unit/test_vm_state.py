"""State files, settings, deadlines, error texts, the idle clock and the commands' parsing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyctl.cli.vm import _split, vm_app
from vm import keeper
from vm.deadline import Deadline
from vm.errors import (
    BootError,
    ConfigError,
    GuestCrashError,
    InfrastructureError,
    KernelConfigError,
    VmError,
)
from vm.settings import Settings
from vm.state import GuestState, SshEndpoint, guests, run_folder

STATE = GuestState(
    instance="a",
    name="bookworm-cloud",
    phase="up",
    owner="keeper",
    owner_pid=1,
    started=1.5,
    console_log=Path("/c/console.log"),
    pid=2,
    ssh=SshEndpoint("127.0.0.1", 2222, "root", Path("/c/key")),
    console_socket=Path("/t/console"),
    release="6.1.0",
    accelerator="tcg",
    boot_seconds=1.0,
)


def test_state_survives_the_round_trip_through_json() -> None:
    assert GuestState.from_dict(json.loads(json.dumps(STATE.to_dict()))) == STATE


def test_a_guest_whose_owner_lives_is_as_it_says(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    with folder.own():
        folder.write(STATE)
        assert folder.owned()
        assert guests(tmp_path) == [STATE]
    assert not folder.owned()


def test_a_guest_whose_owner_died_has_crashed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    with folder.own():
        folder.write(STATE)
    (state,) = guests(tmp_path)
    assert (state.phase, state.reason) == ("crashed", "its owner died")


def test_a_guest_has_one_owner(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    with (
        folder.own(),
        pytest.raises(InfrastructureError, match="running already"),
        run_folder(tmp_path, "a").own(),
    ):
        pass


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b", "-x"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="naming a guest"):
        run_folder(tmp_path, name)


def test_half_a_state_is_none(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    folder.path.mkdir(parents=True)
    (folder.path / "state.json").write_text('{"instance": "a"')
    assert folder.look() is None
    assert guests(tmp_path) == []


def test_lookup_says_what_runs(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    with folder.own():
        folder.write(STATE)
        assert keeper.lookup("a", Settings(tmp_path)) == STATE
        with pytest.raises(ConfigError, match="running: a"):
            keeper.lookup("b", Settings(tmp_path))
    with pytest.raises(ConfigError, match="its owner died"):
        keeper.lookup("a", Settings(tmp_path))


def test_down_of_what_is_dead_removes_its_traces(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a")
    with folder.own():
        folder.write(STATE)
    assert keeper.down("a", Settings(tmp_path)).phase == "crashed"
    assert not folder.path.exists()
    with pytest.raises(ConfigError, match="no such guest"):
        keeper.down("a", Settings(tmp_path))


def test_idle_clock() -> None:
    clock = keeper.IdleClock(100, now=1000)
    assert clock.remaining(1040) == 60
    clock.update(1050, in_use=False, touched=1020)
    assert clock.remaining(1050) == 70
    clock.update(1060, in_use=True, touched=1020)
    assert clock.remaining(1060) == 100
    assert clock.remaining(1160) == 0
    assert keeper.IdleClock(0, now=0).remaining(1e9) is None


# --- settings and deadlines ---------------------------------------------------


def test_settings() -> None:
    settings = Settings.from_env({"DJP_CACHE": "/c", "DJP_TIMEOUT_SCALE": "2.5", "DJP_QEMU": "q"})
    assert settings == Settings(Path("/c"), 2.5, "q", None)
    assert Settings.from_env({}).scale == 1.0
    assert Settings.from_env({}).cache.name == "djprobes"


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf", ""])
def test_a_bad_scale_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="DJP_TIMEOUT_SCALE"):
        Settings.from_env({"DJP_TIMEOUT_SCALE": text})


def test_deadlines_are_stretched() -> None:
    deadline = Deadline.after(10, scale=3)
    assert deadline.seconds == 30
    assert 29 < deadline.remaining <= 30
    assert Deadline.after(0).expired
    assert not deadline.expired


# --- errors -------------------------------------------------------------------


def test_an_error_says_all_it_knows() -> None:
    error = BootError(
        "booting x",
        "no answer",
        value="v",
        hint="do this",
        output="tool\nsaid",
        console="last line",
        console_log=Path("/c/log"),
    )
    text = str(error)
    for part in ("booting x: no answer", "v", "next: do this", "| tool", "| last line", "/c/log"):
        assert part in text
    assert error.to_dict()["kind"] == "boot"
    assert json.loads(json.dumps(error.to_dict()))["console_log"] == "/c/log"


@pytest.mark.parametrize(
    "kind", [BootError, ConfigError, GuestCrashError, InfrastructureError, KernelConfigError]
)
def test_an_error_comes_back_from_the_keeper_as_what_it_was(kind: type[VmError]) -> None:
    error = kind("a", "b", value="c", hint="d", output="e", console="f", console_log=Path("/g"))
    back = keeper._as_error(json.loads(json.dumps(error.to_dict())))
    assert type(back) is kind
    assert str(back) == str(error)


# --- the commands ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("guest:/tmp/x", ("guest", "/tmp/x")),
        ("guest:", ("guest", ".")),
        ("./a:b", (None, "./a:b")),
        ("/a:b", (None, "/a:b")),
        ("plain", (None, "plain")),
    ],
)
def test_places(place: str, parts: tuple[str | None, str]) -> None:
    assert _split(place) == parts


def run(tmp_path: Path, *argv: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(vm_app, list(argv), env={"DJP_CACHE": str(tmp_path)})
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "ls", "--json")
    assert (status, json.loads(out), err) == (0, [], "")
    folder = run_folder(tmp_path, "a")
    with folder.own():
        folder.write(STATE)
        status, out, err = run(tmp_path, "ls", "--json")
    assert (status, err) == (0, "")
    (document,) = json.loads(out)
    assert document["ssh"] == {"host": "127.0.0.1", "port": 2222, "user": "root", "key": "/c/key"}


def test_an_error_is_a_document_too(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "down", "nope", "--json")
    assert status == 1
    assert json.loads(out)["error"]["kind"] == "config"
    assert "no such guest" in err


def test_an_error_teaches(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "exec", "nope", "--", "true")
    assert (status, out) == (1, "")
    assert "djp vm up nope" in err
    status, _out, err = run(tmp_path, "cp", "a", "b")
    assert status == 1
    assert "NAME:PATH" in err
