"""Transports, against real files, real processes, a real agent and a real SSH protocol."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyctl.errors import (
    RemoteCommandError,
    RemoteOSError,
    RemoteTimeoutError,
    TransportError,
    UsageError,
)
from pyctl.transport import (
    HostKeys,
    LocalTransport,
    RecordingTransport,
    ScriptedProcess,
    SshTransport,
    Transport,
    agent,
    bootstrap,
)
from pyctl.transport.client import AgentClient

from .pyctl_sshd import Sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "local":
        with LocalTransport() as local:
            yield local
    else:
        server = request.getfixturevalue("sshd")
        with server.connect() as ssh:
            yield ssh


def test_are_transports(transport: Transport) -> None:
    assert isinstance(transport, Transport)
    assert isinstance(RecordingTransport(), Transport)


def test_run(transport: Transport) -> None:
    done = transport.run(["sh", "-c", 'cat; echo "$1" >&2', "x", "a b'c"], input=b"in\0put")
    assert (done.status, done.stdout, done.stderr) == (0, b"in\0put", b"a b'c\n")


def test_run_failure_tells_what_was_said(transport: Transport) -> None:
    with pytest.raises(RemoteCommandError) as caught:
        transport.run(["sh", "-c", "echo oh no >&2; exit 3"])
    assert caught.value.status == 3
    assert "oh no" in str(caught.value)
    assert transport.run(["sh", "-c", "exit 3"], check=False).status == 3


def test_run_without_such_a_program(transport: Transport) -> None:
    done = transport.run(["no-such-program-here"], check=False)
    assert done.status == 127
    assert b"No such file" in done.stderr


def test_run_is_killed_in_time_with_its_children(transport: Transport, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"(sleep 1; touch {mark}) & echo out; sleep 60"
    with pytest.raises(RemoteTimeoutError):
        transport.run(["sh", "-c", script], timeout=0.3)
    assert transport.run(["echo", "next"]).text == "next"
    transport.run(["sleep", "1.2"])
    assert not mark.exists()


def test_write_is_one_write(transport: Transport, tmp_path: Path) -> None:
    """Counted by the kernel: write(2) calls of the process that does it, in /proc/PID/io."""
    path, data = tmp_path / "file", b"x" * 5_000_000
    path.touch()
    pid, replies = os.getpid(), 0
    if isinstance(transport, SshTransport):
        about = transport._agent.ask({"op": "hello"}, seconds=10)[0]
        assert isinstance(about, dict)
        pid, replies = about["pid"], 1
    told: list[tuple[int, int]] = []
    for sent in (None, lambda done, total: told.append((done, total))):
        before = write_calls(pid)
        transport.write(str(path), data, sent=sent)
        assert write_calls(pid) - before == 1 + replies
        assert path.read_bytes() == data
    assert told == sorted(set(told))
    assert told[-1] == (len(data), len(data))
    assert {total for _, total in told} == {len(data)}
    assert len(told) > 100 or not replies  # over SSH it is told while it goes


def test_an_interrupted_request_breaks_the_connection(sshd: Sshd, tmp_path: Path) -> None:
    """Otherwise the next one would be read as the rest of this one."""
    path = tmp_path / "file"
    path.touch()

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with sshd.connect() as ssh:
        with pytest.raises(KeyboardInterrupt):
            ssh.write(str(path), b"x" * 100_000, sent=interrupt)
        with pytest.raises(TransportError, match="'write' was interrupted"):
            ssh.read(str(path))
    assert path.read_bytes() == b""


def write_calls(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw:"))


def test_write_neither_creates_nor_truncates(transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RemoteOSError) as caught:
        transport.write(str(path), b"data")
    assert caught.value.errno == errno.ENOENT
    assert not path.exists()
    path.write_bytes(b"0123456789")
    transport.write(str(path), b"ab")
    assert path.read_bytes() == b"ab23456789"


@pytest.mark.parametrize(
    ("path", "number"),
    [("/proc/version", errno.EACCES), ("/dev/full", errno.ENOSPC), ("/proc", errno.EISDIR)],
)
def test_errno_comes_back(transport: Transport, path: str, number: int) -> None:
    if path == "/proc/version" and os.geteuid() == 0:
        number = errno.EIO  # root may open it, and then there is no write
    with pytest.raises(RemoteOSError) as caught:
        transport.write(path, b"data")
    assert caught.value.errno == number
    assert errno.errorcode[number] in str(caught.value)
    assert path in str(caught.value)


def test_read_of_a_file_without_size(transport: Transport) -> None:
    assert transport.read("/proc/self/status").startswith(b"Name:")
    with pytest.raises(RemoteOSError) as caught:
        transport.read("/no/such/file")
    assert caught.value.errno == errno.ENOENT


def test_transact_reads_back_on_the_same_file(transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert transport.transact(str(path), b"ab") == b"ab345"


@pytest.mark.parametrize("size", [10, 300_000])
def test_put_and_get(transport: Transport, tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "copy", os.urandom(size)
    transport.put(data, str(path), mode=0o750)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o750
    assert transport.get(str(path)) == data
    assert transport.exists(str(path))
    assert not transport.exists(str(path) + ".no")
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_put_into_nowhere(transport: Transport) -> None:
    with pytest.raises(TransportError):
        transport.put(b"x", "/no/such/folder/file")
    with pytest.raises(TransportError):
        transport.put(b"x" * 100_000, "/no/such/folder/file")


def test_spawn_is_spoken_to_by_line(transport: Transport) -> None:
    with transport.spawn(["sh", "-c", 'while read l; do echo "got $l"; done; exit 7']) as process:
        process.send_line("one")
        assert process.read_line() == "got one"
        process.send_line("two")
        assert process.read_line() == "got two"
        process.close_stdin()
        assert process.read_line() is None
        assert process.read_line() is None
        assert process.wait() == 7


def test_spawn_times_out_and_is_terminated(transport: Transport) -> None:
    with transport.spawn(["sh", "-c", "echo $$; echo err >&2; exec sleep 60"]) as process:
        pid = int(process.read_line())
        with pytest.raises(RemoteTimeoutError):
            process.read_line(timeout=0.05)
    assert "err" in process.stderr_tail()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_terminate_ends_what_ignores_sigterm(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyctl.transport.process.TERMINATE_SECONDS", 0.2)
    with transport.spawn(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]
    ) as process:
        assert process.read_line() == "up"
        process.terminate()
        assert process.wait() != 0


def test_spawn_drains_both_streams(transport: Transport) -> None:
    """More than a pipe or a window holds, on the stream that nobody reads."""
    script = "import sys; sys.stderr.write('e' * 3_000_000 + '\\n'); print('done')"
    with transport.spawn(["python3", "-c", script]) as process:
        assert process.read_line() == "done"


def test_agent_frames() -> None:
    """The agent as it is shipped: through the bootstrap, over pipes, in another python."""
    command = [sys.executable, *bootstrap.command("djp-agent")[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        client = AgentClient(_Pipes(child), "pipe", lambda: "ended")
        child.stdin.write(bootstrap.bundle(agent.__name__))
        about, _ = client.ask({"op": "hello"}, seconds=10)
        assert tuple(about["python"]) == sys.version_info[:3]
        with pytest.raises(TransportError, match="KeyError"):
            client.ask({"op": "no such thing"}, seconds=10)
        with pytest.raises(RemoteOSError):
            client.ask({"op": "read", "path": "/no/such"}, seconds=10)
        assert client.ask({"op": "read", "path": "/dev/null"}, seconds=10) == (None, b"")
        with pytest.raises(RemoteTimeoutError):
            client.ask({"op": "run", "argv": ["sleep", "5"], "timeout": 5.0}, seconds=0.1)
        with pytest.raises(TransportError, match="no answer"):
            client.ask({"op": "hello"}, seconds=10)
        child.kill()


class _Pipes:
    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child

    def send(self, data: bytes) -> None:
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def receive(self, size: int, seconds: float) -> bytes:
        result, done = [], threading.Event()

        def read() -> None:
            result.append(self.child.stdout.read(size))
            done.set()

        threading.Thread(target=read, daemon=True).start()
        if not done.wait(seconds):
            raise TimeoutError
        return result[0]


def test_agent_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "pyctl.transport.agent"]
    assert subprocess.run(command, input=b"", timeout=20, check=False).returncode == 0


def test_ssh_is_quick(sshd: Sshd) -> None:
    """The reason for the agent: no new channel, and so no new process, for a request."""
    with sshd.connect() as ssh:
        before = sshd.channels
        for _ in range(50):
            ssh.read("/proc/uptime")
        assert sshd.channels == before


def test_ssh_refuses_an_unknown_host(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TransportError, match="known_hosts") as caught:
        SshTransport("127.0.0.1", port=sshd.port, key=sshd.key)
    assert "ssh -p" in str(caught.value)


def test_ssh_explains_a_refused_key(sshd: Sshd, tmp_path: Path) -> None:
    other = Sshd.make_key(tmp_path / "other")
    with pytest.raises(TransportError, match="key="):
        SshTransport("127.0.0.1", port=sshd.port, key=other, host_keys=HostKeys.THROWAWAY)
    with pytest.raises(UsageError, match="no key file"):
        SshTransport("127.0.0.1", port=sshd.port, key=tmp_path / "nothing")


def test_ssh_explains_a_closed_port() -> None:
    with pytest.raises(TransportError, match="no SSH connection"):
        SshTransport("127.0.0.1", port=1, key=Path(__file__), connect_seconds=5)


def test_ssh_needs_python(sshd: Sshd, tmp_path: Path) -> None:
    sshd.path = str(tmp_path)
    try:
        (tmp_path / "sh").symlink_to("/bin/sh")
        with pytest.raises(TransportError, match="python3 is not there"):
            sshd.connect()
    finally:
        sshd.path = None


def test_ssh_tells_that_the_connection_is_lost(sshd: Sshd) -> None:
    with sshd.connect() as ssh:
        pid = ssh._agent.ask({"op": "hello"}, seconds=10)[0]["pid"]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(TransportError, match="connection is lost"):
            ssh.read("/proc/version")
        with pytest.raises(TransportError, match="connection is lost"):
            ssh.read("/proc/version")


def test_recording_keeps_a_log() -> None:
    fake = RecordingTransport(
        {"/a": "old", "/made": lambda: b"fresh"},
        results={("uname",): (0, b"Linux\n"), ("uname", "-r"): (0, b"6.1\n")},
        processes={("cat",): lambda: ScriptedProcess(lambda line: [line.upper()])},
        records=["6,1,5,-;one", "4,2,6,-;two"],
    )
    fake.write("/a", b"new")
    assert fake.read("/a") == b"new"
    assert fake.read("/made") == b"fresh"
    assert fake.run(["uname", "-r"]).text == "6.1"
    assert fake.kernel_records(1) == ["4,2,6,-;two"]
    with fake.spawn(["cat", "-u"]) as process:
        process.send_line("abc")
        assert process.read_line() == "ABC"
    assert process.signals == [signal.SIGTERM]
    with pytest.raises(RemoteOSError):
        fake.write("/b", b"")
    with pytest.raises(RemoteCommandError):
        fake.run(["gcc"])
    assert [entry.what for entry in fake.asked("write")] == ["/a", "/b"]
