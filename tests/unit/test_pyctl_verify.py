"""Oracles and the guest object, without a kernel: their parsing, their sums, their refusals."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyctl import module
from pyctl.errors import KernelLogError, ModuleError, OracleError, UnstableError, UsageError
from pyctl.guest import Guest
from pyctl.kernellog import KernelLog, is_fault, parse_record
from pyctl.testing import FakeDjprobes
from pyctl.transport import Completed, RecordingTransport, ScriptedProcess
from pyctl.verify.bcc import BccCounter
from pyctl.verify.kerneltext import KernelText, TextChangedError
from pyctl.verify.remote import bcc_counter, kerneltext
from pyctl.verify.remote.kerneltext import Comparer, Kcore, Symbols
from pyctl.verify.snapshot import consistent
from pyctl.verify.tracefs import TRACEFS, TracefsCounter, parse_profile

BASE = 0xFFFFFFFF81000000
TABLE = BASE + 0x10000
SIZE = 0x4000
Patched = tuple[Comparer, Callable[[int, bytes], None]]


def core(path: Path, memory: bytes) -> Path:
    """An ELF core file with one segment of ``memory`` at BASE."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    note = struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, BASE, 0, len(memory), len(memory), 0)
    path.write_bytes((head + note + load).ljust(0x1000, b"\0") + memory)
    return path


@pytest.fixture
def text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Comparer, Callable[[int, bytes], None]]:
    """A kernel with each kind of patched site: a comparer of it, and a way to change it."""
    memory = bytearray(b"\x90" * SIZE).ljust(0x11000, b"\0")
    memory[0x100:0x105] = kerneltext.NOP5  # an ftrace site
    memory[0x200:0x205] = kerneltext.NOP5  # a jump label of 5 bytes
    memory[0x210:0x212] = b"\x66\x90"  # one of 2
    memory[0x300:0x305] = b"\xe8\0\0\0\0"  # a static call
    memory[0x400:0x404] = kerneltext.ENDBR64
    memory[0x404:0x409] = kerneltext.NOP5  # an ftrace site behind endbr64
    for n, site in enumerate((0x200, 0x210)):
        struct.pack_into("<iiq", memory, 0x10000 + 16 * n, site - 0x10000 - 16 * n, 0, 0)
    struct.pack_into("<ii", memory, 0x10100, 0x300 - 0x10100, 0)
    path = core(tmp_path / "kcore", bytes(memory))
    (tmp_path / "available_filter_functions").write_text("traced\nibt\nother [mod]\n")
    (tmp_path / "list").write_text(f"{BASE + 0x500:016x}  k  probed+0x0    [DISABLED]\n")
    monkeypatch.setattr(kerneltext, "TRACEFS", (str(tmp_path),))
    monkeypatch.setattr(kerneltext, "KPROBES", str(tmp_path / "list"))
    comparer = Comparer.__new__(Comparer)
    comparer.symbols = Symbols(
        f"{BASE + offset:016x} {kind} {name}"
        for offset, kind, name in [
            (0, "T", "_stext"),
            (0x100, "t", "traced"),
            (0x180, "T", "victim"),
            (0x400, "T", "ibt"),
            (0x500, "T", "probed"),
            (0x600, "t", "__SCT__x"),
            (SIZE, "T", "_etext"),
            (0x10000, "D", "__start___jump_table"),
            (0x10020, "D", "__stop___jump_table"),
            (0x10100, "D", "__start_static_call_sites"),
            (0x10108, "D", "__stop_static_call_sites"),
        ]
    )
    comparer.kcore = Kcore(str(path))
    comparer.start, comparer.end = BASE, BASE + SIZE
    comparer.before, comparer.kprobes = None, set()

    def poke(offset: int, data: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(0x1000 + offset)
            file.write(data)

    comparer.save()
    return comparer, poke


def test_text_that_did_not_change(text: Patched) -> None:
    answer = text[0].diff()
    assert (answer["bytes"], answer["differing"], answer["unaccounted"]) == (SIZE, 0, [])


@pytest.mark.parametrize(
    ("kind", "offset", "data"),
    [
        ("ftrace", 0x100, b"\xe8\x01\x02\x03\x04"),
        ("ftrace", 0x404, b"\xe8\x01\x02\x03\x04"),
        ("jump-label", 0x200, b"\xe9\x01\x02\x03\x04"),
        ("jump-label", 0x210, b"\xeb\x10"),
        ("static-call", 0x300, b"\xe8\x01\x02\x03\x04"),
        ("static-call", 0x600, b"\xe9\x01\x02\x03\x04"),
        ("kprobe", 0x500, b"\xcc"),
        ("kprobe", 0x500, b"\xe9\x01\x02\x03\x04"),
    ],
)
def test_the_kernels_own_patches_are_accounted_for(
    text: Patched, kind: str, offset: int, data: bytes
) -> None:
    comparer, poke = text
    before = comparer.before.at(BASE + offset, len(data))
    poke(offset, data)
    answer = comparer.diff()
    changed = sum(a != b for a, b in zip(before, data, strict=True))
    assert answer["accounted"] == {kind: changed}
    assert answer["differing"] == changed
    assert answer["unaccounted_bytes"] == 0


@pytest.mark.parametrize(
    ("offset", "data", "symbol"),
    [
        (0x190, b"\xe9\x01\x02\x03\x04", "victim+0x10"),  # a djprobe that was left
        (0x190, b"\xcc", "victim+0x10"),
        (0x100, b"\xe9\x01\x02\x03\x04", "traced+0x0"),  # ftrace never puts a jmp
        (0x105, b"\xcc", "traced+0x5"),
        (0x212, b"\xcc", "victim+0x92"),  # behind a jump label of 2 bytes
        (SIZE - 1, b"\xcc", None),
        (0xFFF, b"\xcc\xcc", None),  # across two blocks
    ],
)
def test_other_changes_are_found(
    text: Patched, offset: int, data: bytes, symbol: str | None
) -> None:
    comparer, poke = text
    poke(offset, data)
    answer = comparer.diff()
    (change,) = answer["unaccounted"]
    assert change["address"] == BASE + offset
    assert bytes.fromhex(change["after"]) == data
    assert answer["unaccounted_bytes"] == len(data)
    assert symbol is None or change["symbol"] == symbol
    assert "smp-lock" in answer["tables_missing"][0]


def test_a_freed_table_of_locks_accounts_for_nothing() -> None:
    text = kerneltext.Text(BASE, b"\xf0\x90\x3e" + b"\x90" * 97)
    good = struct.pack("<ii", BASE - TABLE, BASE + 2 - TABLE - 4)
    assert kerneltext.smp_locks(good, TABLE, text) == [(BASE, 1), (BASE + 2, 1)]
    assert kerneltext.smp_locks(good + struct.pack("<i", 5), TABLE, text) == []
    assert kerneltext.smp_locks(struct.pack("<i", BASE + 1 - TABLE), TABLE, text) == []


def test_text_diff_on_the_host() -> None:
    answers = {
        "save": {"bytes": 100, "start": 1, "end": 101},
        "diff": {
            "bytes": 100,
            "differing": 3,
            "accounted": {"ftrace": 2},
            "unaccounted": [{"address": 16, "before": "90", "after": "cc", "symbol": "f+0x1"}],
            "unaccounted_bytes": 1,
            "unaccounted_runs": 1,
            "tables_missing": [],
        },
    }
    script = ScriptedProcess(
        lambda line: (
            [json.dumps(answers[json.loads(line)["cmd"]])]
            if json.loads(line)["cmd"] in answers
            else None
        ),
        first=['{"ready": true}'],
    )
    host = RecordingTransport(processes={("python3",): lambda: script})
    with KernelText(host) as kept:
        assert kept.save() == 100
        diff = kept.diff()
    assert not diff.clean
    assert diff.unaccounted[0].after == b"\xcc"
    with pytest.raises(TextChangedError, match=r"f\+0x1: 90 -> cc"):
        diff.check()


def test_consistent_waits_for_quiet() -> None:
    values = iter([{"f": 1}, {"f": 2}, {"f": 3}, {"f": 3}])
    shot = consistent(lambda: next(values), lambda: {"f": 3}, pause=lambda _s: None)
    assert (shot.attempts, shot.equal) == (2, True)
    counter = iter(range(10**9))
    with pytest.raises(UnstableError) as caught:
        consistent(lambda: {"f": next(counter), "g": 1}, dict, seconds=0.02)
    assert caught.value.moving == ("f",)


def test_consistent_tells_differences() -> None:
    shot = consistent(lambda: {"f": 1, "g": 2}, lambda: {"f": 1, "g": 3, "h": 4})
    assert shot.differences() == {"g": (2, 3), "h": (None, 4)}
    assert not shot.equal


def test_bcc_conversation() -> None:
    def answer(line: str) -> list[str] | None:
        command = json.loads(line)
        if command["cmd"] == "quit":
            return None
        if command.get("functions") == ["nothing"]:
            return ['{"error": "can\'t attach"}']
        return ['{"hits": {"vfs_read": 5}}' if command["cmd"] == "read" else "{}"]

    script = ScriptedProcess(answer, first=['{"ready": true}'])
    host = RecordingTransport(processes={("python3",): lambda: script})
    with BccCounter(host) as counter:
        counter.attach(["vfs_read"])
        assert counter.read() == {"vfs_read": 5}
        with pytest.raises(OracleError, match="can't attach"):
            counter.attach(["nothing"])
    assert script.ended
    host.processes[("python3",)] = lambda: ScriptedProcess(first=['{"error": "no bcc"}'])
    with pytest.raises(OracleError, match=r"no bcc[^$]*python3-bpfcc"):
        BccCounter(host)


def test_bcc_program_has_a_counter_for_each_slot() -> None:
    program = bcc_counter.program(3)
    assert "BPF_PERCPU_ARRAY(table, u64, 3);" in program
    assert all(f"int count_{n}(" in program and f"slot = {n};" in program for n in range(3))
    assert "#include" not in program


def test_tracefs_counts_what_kprobes_missed() -> None:
    hits = {"n": 10}
    host = RecordingTransport({f"{TRACEFS}/kprobe_events": ""})
    events: list[str] = []

    def define(data: bytes) -> None:
        for line in data.decode().splitlines():
            name = line.split()[0].split("/")[1]
            events.append(name) if line[0] == "p" else events.remove(name)
            host.files[f"{TRACEFS}/events/djp_oracle/{name}/enable"] = "0"

    host.writers[f"{TRACEFS}/kprobe_events"] = define
    host.files[f"{TRACEFS}/kprobe_profile"] = lambda: "".join(
        f"  {event:<44} {hits['n']:>15} {1:>15}\n" for event in events
    )
    with TracefsCounter(host) as counter:
        counter.attach(["vfs_read", "vfs_write"])
        hits["n"] += 7
        assert counter.read() == {"vfs_read": 7, "vfs_write": 7}
        assert len(events) == 2
    assert events == []
    with pytest.raises(OracleError):
        parse_profile("what is this")


def test_kernel_log_positions() -> None:
    host = RecordingTransport(records=["6,10,1000000,-;old WARNING: x"])
    log = KernelLog(host, allowed=["expected"])
    assert log.check() == []
    host.records += ["6,11,2000000,-;fine\n SUBSYSTEM=x", "4,12,2500000,c;WARNING: expected here"]
    assert next(str(line) for line in log.check()) == "[    2.000000] fine"
    host.records.append("1,13,3000000,-;BUG: unable to handle page fault for address: 0")
    with pytest.raises(KernelLogError) as caught:
        log.check()
    assert caught.value.lines == ("BUG: unable to handle page fault for address: 0",)
    assert log.check() == []
    host.records.append("6,20,3000000,-;after a gap")
    assert "6 records were overwritten" in log.new_lines()[0].text


@pytest.mark.parametrize(
    "line",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "kernel BUG at kernel/entry/common.c:441!",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        "WARNING: CPU: 1 PID: 22 at kernel/kprobes.c:100 f+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "BUG: KASAN: slab-out-of-bounds in f+0x1/0x2",
        "UBSAN: array-index-out-of-bounds in a.c:1:2",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "INFO: task kworker/0:1:10 blocked for more than 120 seconds.",
        "int3: 0000 [#1] PREEMPT SMP",
        "BUG: stack guard page was hit at (____ptrval____)",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        "Kernel panic - not syncing: Fatal exception",
        "invalid opcode: 0000 [#1] SMP",
    ],
)
def test_faults_are_known(line: str) -> None:
    assert is_fault(line)


@pytest.mark.parametrize(
    "line",
    [
        "djprobes: loading out-of-tree module taints kernel.",
        "djprobes: module verification failed: signature and/or required key missing",
        "djprobes: branch map: 812345 targets in 3100 ms",
        "IPv6: ADDRCONF(NETDEV_CHANGE): djp-client: link becomes ready",
        "debugfs: mounted",
        "random: crng init done",
    ],
)
def test_harmless_lines(line: str) -> None:
    assert not is_fault(line)


def test_records() -> None:
    line = parse_record("12,34,5600000,-,caller=T1;text; with, all\n DEVICE=x")
    assert (line.sequence, line.level, line.seconds) == (34, 4, 5.6)
    assert line.text == "text; with, all"


def test_load_prefers_a_given_file(tmp_path: Path) -> None:
    host = FakeDjprobes({}, loaded=False)
    host.results = {
        ("mktemp",): (0, b"/tmp/djprobes.x\n"),
        ("rm",): (0, b""),
        ("mount",): (0, b""),
        ("insmod",): (0, b""),
    }
    plain = host.run

    def run(argv: Sequence[str], **options: Any) -> Completed:  # noqa: ANN401
        if argv[0] == "insmod":
            host.load()
        return plain(argv, **options)

    host.run = run
    ko = tmp_path / "djprobes.ko"
    ko.write_bytes(b"ELF")
    guest = Guest("fake", host)
    result = guest.load(ko=ko, parameters={"a": "1"})
    assert (result.how, result.path) == ("ko", str(ko))
    insert = next(entry.what for entry in host.asked("run") if entry.what[0] == "insmod")
    assert insert == ("insmod", "/tmp/djprobes.x/djprobes.ko", "a=1")
    assert host.asked("put")[0].data == b"ELF"
    assert host.asked("run")[-1].what[0] == "rm"
    assert guest.load().how == "already"


def test_load_tells_all_that_was_tried(tmp_path: Path) -> None:
    host = FakeDjprobes({}, loaded=False)
    host.results = {("uname",): (0, b"6.1.0\n"), ("modprobe",): (1, b"")}
    (tmp_path / "Makefile").write_text("")
    with pytest.raises(ModuleError, match=r"no headers of 6\.1\.0") as caught:
        Guest("fake", host).load(source=tmp_path)
    assert "modprobe:" in str(caught.value)
    assert "ko=" in str(caught.value)


def test_only_source_is_packed(tmp_path: Path) -> None:
    for name in ("a.c", "x/b.h", "Makefile", "a.o", "a.mod.c", ".a.ko.cmd", "a.ko", ".git/c.c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    listed = module.pack(tmp_path)
    assert b"x/b.h" in listed
    for name in (b"a.o\0", b"a.mod.c", b".cmd", b"a.ko", b".git"):
        assert name not in listed


def test_unload_says_what_holds_it() -> None:
    host = FakeDjprobes({"f": 1 << 40})
    host.results = {("rmmod",): (1, b"")}
    guest = Guest("fake", host)
    with guest.probes() as probes:
        probes.add("f")
        with pytest.raises(ModuleError, match="1 probes hold it"):
            guest.unload()


def test_destinations() -> None:
    with pytest.raises(UsageError, match="no SSH destination"):
        Guest.ssh("root@host:port")
