"""Workloads, run for real on this machine where that is harmless."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyctl.errors import UsageError, WorkloadError
from pyctl.transport import LocalTransport, RecordingTransport, ScriptedProcess
from pyctl.workloads import (
    WORKLOADS,
    Busy,
    FileIo,
    Fork,
    Modules,
    Network,
    Signals,
    Timers,
    Workload,
    Yield,
    make_workload,
)
from pyctl.workloads.remote.common import split

HARMLESS = [
    (FileIo(fsync_every=10), {"pwrite": 101, "pread": 101, "fsync": 10}),
    (Fork(), {"fork": 101, "exec": 101, "exit": 101, "wait": 101}),
    (Fork(exec=False), {"fork": 101, "exec": 0}),
    (Timers(), {"timer_settime": 101, "expiry": 101}),
    (Timers(mode="itimer"), {"setitimer": 101, "expiry": 101}),
    (Signals(), {"round_trip": 101, "kill": 202, "signal": 202}),
    (Yield(processes=3), {"sched_yield": 101}),
    (make_workload("affinity"), {"sched_setaffinity": 101}),
    (Busy(), {"loop": 101}),
]


@pytest.mark.parametrize(("workload", "counts"), HARMLESS, ids=lambda v: getattr(v, "name", ""))
def test_exactly_so_many_operations(workload: Workload, counts: dict[str, int]) -> None:
    result = workload.run(LocalTransport(), operations=101)
    assert result.operations.items() >= counts.items()
    assert not result.stopped
    assert result.seconds > 0


@pytest.mark.parametrize("workload", [w for w, _ in HARMLESS], ids=lambda w: w.name)
def test_for_a_time(workload: Workload) -> None:
    result = workload.run(LocalTransport(), seconds=0.2)
    assert 0.2 <= result.seconds < 5
    assert max(result.operations.values()) > 0


def test_the_kernel_counts_the_same(tmp_path: Path) -> None:
    """Counted by somebody else: strace is not here, but /proc counts reads and writes."""
    with FileIo(fsync_every=0, block=1024, directory=str(tmp_path)).prepare(
        LocalTransport()
    ) as run:
        path = Path(f"/proc/{run.about['pid']}/io")
        before = io_counts(path)
        result = run.go(operations=500)
        after = io_counts(path)
    moved = {key: after[key] - before[key] for key in after}
    assert result.operations["pread"] == 500
    # Beside the 500 there are its reading of "go" and its writing of "done", nothing else.
    assert moved["syscr"] == 500 + 1
    assert moved["syscw"] == 500 + 1


def io_counts(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (s.split(":") for s in path.read_text().splitlines())}


def test_several_turns_and_quiet_between() -> None:
    with Signals().prepare(LocalTransport()) as run:
        status = Path(f"/proc/{run.about['peer']}/status")
        assert run.go(operations=3).operations["round_trip"] == 3
        while "(sleeping)" not in status.read_text():
            time.sleep(0.01)
        before = switches(status)
        time.sleep(0.15)
        assert switches(status) == before
        assert run.go(operations=4).operations["round_trip"] == 4
        assert run.go(operations=0).operations["round_trip"] == 0


def switches(status: Path) -> list[str]:
    """How often a task was switched out: what others do changes the rest of its status."""
    return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]


def test_background_load() -> None:
    with Busy().background(LocalTransport()) as load:
        time.sleep(0.2)
        assert load.result is None
    assert load.result is not None
    assert load.result.stopped
    assert load.result.operations["loop"] > 0
    assert load.result.operations["process"] == len(os.sched_getaffinity(0))


def test_periodic_timers_count_overruns() -> None:
    result = Timers(mode="periodic", microseconds=200).run(LocalTransport(), seconds=0.5)
    expected = result.seconds / 200e-6
    assert 0.5 * expected < result.operations["expiry"] <= expected + 1
    with pytest.raises(WorkloadError, match="exact number"):
        Timers(mode="periodic").run(LocalTransport(), operations=5)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL of the owner", "SIGKILL of the script"])
def test_nothing_is_left_behind(end: str) -> None:
    """The children of a workload go with it, however it goes."""
    run = Busy(per_cpu=2).prepare(LocalTransport())
    try:
        pid = run.about["pid"]
        run.start()
        children = wait_for_children(pid, 2 * len(os.sched_getaffinity(0)))
        if end == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        elif end == "SIGKILL of the script":
            os.kill(pid, signal.SIGKILL)
        else:
            run._process.close_stdin()  # what a dead owner's closed pipe looks like
        run._process.wait(10)
        deadline = time.monotonic() + 10
        while any(alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        run.close()


def wait_for_children(pid: int, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while True:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(found) == count:
            return [int(child) for child in found]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def can_make_networks() -> bool:
    """Whether this machine lets us make name spaces and veth pairs."""
    probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x40000000) != 0)"
    done = subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True)
    made = subprocess.run(
        ["ip", "link", "add", "djp-t0", "type", "veth", "peer", "name", "djp-t1"],
        check=False,
        capture_output=True,
    )
    if made.returncode == 0:
        subprocess.run(["ip", "link", "del", "djp-t0"], check=False)
    return done.returncode == 0 and made.returncode == 0


@pytest.mark.skipif(not can_make_networks(), reason="needs root, veth and pyroute2 on this machine")
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_network(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter that runs the tests has pyroute2; in a guest it is the system's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    result = Network(protocol=protocol).run(LocalTransport(), operations=120)
    assert result.operations["round_trip"] == 120
    assert result.operations["send"] == 240
    if protocol == "udp":
        assert result.operations["tx_packets"] == result.operations["rx_packets"] == 240
    else:
        assert result.operations["tx_packets"] >= 240


def test_modules_refuses_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = next(Path("/sys/module").iterdir()).name
    with pytest.raises(WorkloadError, match="loaded already"):
        Modules(module=there).run(LocalTransport(), operations=1)
    with pytest.raises(WorkloadError, match="modprobe"):
        Modules(module="no_such_module").run(LocalTransport(), operations=1)


def test_errors_of_the_script_come_through() -> None:
    with pytest.raises(WorkloadError, match="no program '/no/such'"):
        Fork(program="/no/such").run(LocalTransport(), operations=1)
    with pytest.raises(WorkloadError, match="wait status"):
        Fork(program="/bin/false").run(LocalTransport(), operations=1)
    with pytest.raises(WorkloadError, match="FileNotFoundError"):
        FileIo(directory="/no/such").run(LocalTransport(), operations=1)


def test_by_name() -> None:
    assert make_workload("fileio", block=512) == FileIo(block=512)
    with pytest.raises(UsageError, match="there are fileio"):
        make_workload("nothing")
    with pytest.raises(UsageError, match="it has directory, size"):
        make_workload("fileio", blocks=1)
    assert all(kind.name == name and kind.__doc__ for name, kind in WORKLOADS.items())


def test_the_conversation() -> None:
    """What goes over the wire, without a script at the other end."""
    answers = iter(
        [
            ['{"event": "done", "seconds": 1.5, "operations": {"pread": 7}, "stopped": false}'],
            ["nonsense"],
            None,
        ]
    )
    script = ScriptedProcess(lambda _line: next(answers, None), first=['{"event": "ready"}'])
    host = RecordingTransport(processes={("python3",): lambda: script})
    run = FileIo().prepare(host)
    assert script.argv[-2:][0] == "djp-fileio"
    assert run.go(operations=7).operations == {"pread": 7}
    with pytest.raises(WorkloadError, match="nonsense"):
        run.go(operations=7)
    with pytest.raises(WorkloadError, match="ended before"):
        run.go(operations=7)
    with pytest.raises(UsageError):
        run.go(operations=-1)
    run.close()


def test_shares_are_exact() -> None:
    for total in range(50):
        assert sum(part or 0 for part in split(total, 7)) == total
    assert split(None, 2) == [None, None]
    assert ctypes.sizeof(ctypes.c_long) == 8  # what the timers' structures rely on
