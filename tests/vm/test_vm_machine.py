"""Guests for real: boot, restore, crash, and end with their owner.  Needs QEMU."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from vm import keeper
from vm.accel import check_emulator, choose_accelerator
from vm.builder import build_modules
from vm.cache import Cache
from vm.emulator import Emulator
from vm.errors import BootError, BuildError, EmulatorError, GuestCrashError, InfrastructureError
from vm.machine import Machine, Plan, plan
from vm.qemu import QemuBinary, find_qemu
from vm.settings import Settings
from vm.snapshot import obtain_snapshot
from vm.ssh import connect
from vm.state import guests, run_folder

pytestmark = pytest.mark.vm

NAME = "bookworm-cloud"


@pytest.fixture(scope="session")
def made(settings: Settings) -> Plan:
    """All images made, and the emulator found good."""
    return plan(NAME, settings)


@pytest.fixture
def guest(made: Plan) -> Iterator[Machine]:
    with Machine.boot(NAME) as machine:
        yield machine


def shell(machine: Machine, command: str) -> str:
    with connect(machine.ssh) as client:
        _stdin, stdout, stderr = client.exec_command(command, timeout=60)
        out = stdout.read().decode()
        status = stdout.channel.recv_exit_status()
        assert status == 0, f"{command}: {status}: {stderr.read().decode()}"
    return out.strip()


def crash(machine: Machine) -> GuestCrashError:
    """Make the guest's kernel panic, and wait until it did."""
    with connect(machine.ssh) as client:
        client.exec_command("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
        return machine.wait_crash()


# --- coming up ----------------------------------------------------------------


def test_a_restored_guest_is_a_stock_kernel_with_all_that_tests_need(
    guest: Machine, made: Plan
) -> None:
    assert guest.restored
    assert shell(guest, "uname -r") == made.images.release == guest.release
    # modules from the kernel disk, headers for bcc, the file systems, the model
    shell(guest, "modprobe dummy && modprobe veth && test -d /sys/module/veth")
    shell(guest, "test -f /lib/modules/$(uname -r)/build/include/config/auto.conf")
    shell(guest, "test -x $(readlink -f /lib/modules/$(uname -r)/build/scripts/basic/fixdep)")
    types = shell(guest, "cut -d' ' -f3 /proc/mounts").split()
    assert {"ext4", "debugfs", "tracefs", "cgroup2", "bpf", "devpts", "tmpfs"} <= set(types)
    shell(guest, "grep -q '(full)' /sys/kernel/debug/sched/preempt")
    assert shell(guest, "nproc") == "2"
    shell(guest, "python3 -c 'import bcc, pyroute2'")
    shell(guest, "touch /root/x && test -w /")


def test_a_restored_guest_knows_the_time(guest: Machine) -> None:
    assert abs(float(shell(guest, "date +%s.%N")) - time.time()) < 5
    # a snapshot made a moment ago proves little: tell it another time the same way
    assert guest._emulator.ask("restored 1000000000 0 0123") == "djp: ok restored"
    assert shell(guest, "date +%Y") == "2001"


def test_guests_of_one_snapshot_draw_different_random_numbers(made: Plan) -> None:
    drawn = []
    for _ in range(2):
        # at once, before the kernel draws new ones by itself a few seconds later
        with Machine.boot(NAME) as machine, machine.console() as console:
            console.sendline("cat /proc/sys/kernel/random/uuid")
            console.expect(r"[0-9a-f]{8}-[0-9a-f-]{27}")
            assert isinstance(console.match, re.Match)
            drawn.append(console.match.group(0))
    assert drawn[0] != drawn[1]


def test_a_restore_is_quicker_than_a_boot(made: Plan) -> None:
    with Machine.boot(NAME):
        pass  # the snapshot is there now
    took: dict[bool, float] = {}
    for snapshot in (True, False):
        began = time.monotonic()
        with Machine.boot(NAME, snapshot=snapshot) as machine:
            assert shell(machine, "echo up") == "up"
            assert machine.restored == snapshot
            took[snapshot] = time.monotonic() - began
    assert took[True] < took[False]


def test_a_boot_without_snapshot(made: Plan) -> None:
    with Machine.boot(NAME, snapshot=False, smp=1, mem=768, cmdline_extra=["djp_mark"]) as machine:
        assert not machine.restored
        assert shell(machine, "nproc") == "1"
        assert "djp_mark" in shell(machine, "cat /proc/cmdline")


def test_the_kernel_has_nothing_to_complain_about(guest: Machine) -> None:
    assert not guest.crashed()
    guest.check()
    bad = shell(guest, "dmesg --level=emerg,alert,crit,err || true")
    assert bad == ""


def test_the_console_is_a_shell_and_is_logged(guest: Machine) -> None:
    with guest.console() as console:
        console.sendline("echo $((6 * 7))")
        console.expect("42")
    assert "42" in guest.console_text()


def test_qmp(guest: Machine) -> None:
    assert guest.qmp("query-status")["status"] == "running"
    with pytest.raises(InfrastructureError, match="no-such-command"):
        guest.qmp("no-such-command")


# --- failing to come up --------------------------------------------------------


def test_a_panic_at_boot_is_a_boot_error_with_the_console(made: Plan) -> None:
    began = time.monotonic()
    with pytest.raises(BootError, match="Kernel panic") as caught:
        Machine.boot(NAME, snapshot=False, cmdline_extra=["rdinit=/nowhere"])
    assert "Kernel panic" in (caught.value.console or "")
    # seen at once, not at the deadline
    assert time.monotonic() - began < 30 * Settings.from_env().scale


def test_a_silent_guest_is_a_boot_error_after_its_deadline(made: Plan) -> None:
    with pytest.raises(BootError, match="nothing within"):
        Machine.boot(NAME, snapshot=False, timeout=0.3)


def test_a_damaged_snapshot_is_made_anew_once_and_said(settings: Settings, made: Plan) -> None:
    said: list[str] = []
    spec = replace(made.spec, cmdline=(*made.spec.cmdline, "djp_damaged"))
    saved = obtain_snapshot(made.binary, spec, made.images, settings, said.append, boot_timeout=60)
    saved.file("state").write_bytes(b"not a saved state")
    with Machine.boot(NAME, cmdline_extra=["djp_damaged"], progress=said.append) as machine:
        assert machine.restored
        assert shell(machine, "echo up") == "up"
    assert len([line for line in said if "did not restore" in line]) == 1
    Cache(settings.cache).drop(saved)


# --- crashing ------------------------------------------------------------------


def test_a_crash_is_told_with_the_console_and_harms_no_other_guest(made: Plan) -> None:
    with Machine.boot(NAME) as victim, Machine.boot(NAME) as other:
        shell(victim, "echo victim > /root/mark && sync")
        error = crash(victim)
        assert "sysrq triggered crash" in str(error)
        assert "Kernel panic" in (error.console or "")
        assert victim.crashed()
        with pytest.raises(GuestCrashError):
            victim.check()
        with pytest.raises(GuestCrashError):
            victim.qmp("query-status")
        assert not other.crashed()
        assert shell(other, "test ! -e /root/mark && echo fine") == "fine"
        instance = victim.instance
    assert not run_folder(Settings.from_env().cache, other.instance).path.exists()
    # the console of the dead is kept, and listed
    state = next(s for s in guests(Settings.from_env().cache) if s.instance == instance)
    assert state.phase == "crashed"
    assert "Kernel panic" in state.console_log.read_text()


def test_a_power_off_is_no_crash(guest: Machine) -> None:
    with connect(guest.ssh) as client:
        client.exec_command("kill 1")
        guest.wait_crash()
    assert not guest.crashed()


@pytest.mark.parametrize("snapshot", [True, False])
def test_writes_are_thrown_away(made: Plan, settings: Settings, snapshot: bool) -> None:
    with Machine.boot(NAME, snapshot=snapshot):
        pass  # all that is made is made now
    disks = [made.images.root.file("root.ext4"), made.images.kernel.file("kernel.ext4")]
    disks += settings.cache.glob("snapshot/*/disk.qcow2")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_blocks) for path in disks}
    with Machine.boot(NAME, snapshot=snapshot) as machine:
        shell(machine, "head -c 1M /dev/urandom > /root/mark && sync")
        # Another test's guest may have a snapshot of its own made anew; not this guest's.
        left = {path: stat for path, stat in before.items() if path.exists()}
    assert set(disks[:2]) < set(left) if snapshot else set(disks[:2]) <= set(left)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_blocks) for path in left} == left
    with Machine.boot(NAME, snapshot=snapshot) as machine:
        shell(machine, "test ! -e /root/mark")


# --- owners --------------------------------------------------------------------


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends within `seconds`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


OWNER = """
import signal, sys
from vm.machine import Machine
machine = Machine.boot("bookworm-cloud")
print(machine.pid, machine.instance, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_guest_dies_with_its_owner(made: Plan, settings: Settings, how: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, instance = owner.stdout.readline().split()
    assert psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    assert run_folder(settings.cache, instance).owned()
    owner.send_signal(how)
    assert owner.wait(10) == -how
    assert gone(int(pid), 15 * settings.scale), "QEMU outlived its owner"
    state = run_folder(settings.cache, instance).look()
    assert state is not None
    assert state.phase == "crashed"


def test_a_kept_guest_lives_until_down(made: Plan, settings: Settings) -> None:
    state, reused = keeper.up(NAME, settings, instance=f"test-kept-{os.getpid()}")
    try:
        assert not reused
        assert state.pid is not None
        assert keeper.up(NAME, settings, instance=f"test-kept-{os.getpid()}") == (state, True)
        assert keeper.lookup(f"test-kept-{os.getpid()}", settings).ssh == state.ssh
    finally:
        keeper.down(f"test-kept-{os.getpid()}", settings)
    assert gone(state.pid, 15 * settings.scale)
    assert f"test-kept-{os.getpid()}" not in [guest.instance for guest in guests(settings.cache)]


def test_a_kept_guest_ends_when_nobody_uses_it(made: Plan, settings: Settings) -> None:
    instance = f"test-idle-{os.getpid()}"
    state, _reused = keeper.up(NAME, settings, instance=instance, idle_limit=1.0)
    assert state.pid is not None
    try:
        assert gone(state.owner_pid, 30 * settings.scale)
        assert gone(state.pid, 1)
    finally:
        if run_folder(settings.cache, instance).path.exists():
            keeper.down(instance, settings)


def test_a_kept_guest_that_crashed_is_listed_and_can_be_started_again(
    made: Plan, settings: Settings
) -> None:
    state, _reused = keeper.up(NAME, settings, instance=f"test-crash-{os.getpid()}")
    try:
        assert state.ssh is not None
        with connect(state.ssh) as client:
            client.exec_command("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger")
            assert gone(state.owner_pid, 30 * settings.scale)
        dead = run_folder(settings.cache, f"test-crash-{os.getpid()}").look()
        assert dead is not None
        assert dead.phase == "crashed"
        assert "Kernel panic" in (dead.reason or "")
        again, reused = keeper.up(NAME, settings, instance=f"test-crash-{os.getpid()}")
        assert not reused
        assert again.pid != state.pid
    finally:
        keeper.down(f"test-crash-{os.getpid()}", settings)


def test_an_error_in_the_keeper_is_the_callers_error(settings: Settings) -> None:
    broken = {**os.environ, "DJP_QEMU": "/bin/true"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyctl.cli.vm",
            "up",
            NAME,
            "--as",
            f"test-broken-{os.getpid()}",
            "--json",
        ],
        env=broken,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    try:
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["kind"] == "infrastructure"
        assert "which QEMU" in done.stderr
    finally:
        keeper.down(f"test-broken-{os.getpid()}", settings)


# --- the emulator ----------------------------------------------------------------


def test_the_accelerator_is_one_that_boots(made: Plan, settings: Settings) -> None:
    chosen = choose_accelerator(made.binary, made.images, settings)
    assert chosen.name in ("kvm", "tcg")
    assert chosen.reason
    said: list[str] = []
    with Machine.boot(NAME, progress=said.append) as machine:
        assert machine.accelerator == chosen.name
    assert any(chosen.name in line and chosen.reason in line for line in said)


def test_the_emulator_keeps_its_flags(made: Plan, settings: Settings) -> None:
    verdict = check_emulator(made.binary, made.accelerator, made.images, settings)
    assert "bad=0" in verdict
    assert "runs=9728" in verdict  # the check did check


def test_an_emulator_that_corrupts_flags_is_refused_by_name(made: Plan, settings: Settings) -> None:
    """Needs a known-bad QEMU (Debian bookworm's 7.2) in DJP_BAD_QEMU."""
    path = os.environ.get("DJP_BAD_QEMU")
    if not path:
        pytest.skip("DJP_BAD_QEMU does not name a known-bad QEMU, such as 7.2")
    bad = find_qemu(replace(settings, qemu=path))
    with pytest.raises(EmulatorError, match=r"7\.2") as caught:
        check_emulator(bad, replace(made.accelerator, name="tcg"), made.images, settings)
    assert "make bootstrap" in str(caught.value)


def test_a_qemu_that_does_not_start_says_why(made: Plan, tmp_path: Path) -> None:
    wrong = replace(made.spec, cpu="no-such-cpu")
    with pytest.raises(InfrastructureError, match="no-such-cpu"):
        Emulator(made.binary, wrong, tmp_path / "console.log")
    no_qemu = QemuBinary("/bin/false", (10,), "false", "false")
    with pytest.raises(InfrastructureError, match="starting QEMU"):
        Emulator(no_qemu, made.spec, tmp_path / "console.log")


# --- building for the guest --------------------------------------------------------

HELLO = """
#include <linux/module.h>
static int __init hello_init(void) { pr_info("djp hello\\n"); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
"""
MAKEFILE = """
ifneq ($(KERNELRELEASE),)
obj-m := hello.o sub/
else
modules:
\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules
endif
"""


def test_modules_are_built_with_the_guests_compiler_and_load(
    guest: Machine, tmp_path: Path
) -> None:
    # unlike any source before, so that it is not found in the cache
    (tmp_path / "hello.c").write_text(f"/* {time.time_ns()} */{HELLO}")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Makefile").write_text("obj-m := other.o\n")
    (tmp_path / "sub" / "other.c").write_text(HELLO.replace("djp hello", "djp other"))
    before = sorted(tmp_path.rglob("*"))
    built = build_modules(tmp_path, guest.kernel)
    assert sorted(built) == ["hello", "other"]
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written into the sources
    assert build_modules(tmp_path, NAME) == built  # found, not built
    with connect(guest.ssh) as client, client.open_sftp() as sftp:
        for name, path in built.items():
            sftp.put(str(path), f"/tmp/{name}.ko")
    shell(guest, "insmod /tmp/hello.ko && insmod /tmp/other.ko && rmmod other hello")
    assert "djp other" in shell(guest, "dmesg")


def test_a_compile_error_carries_the_compilers_words(made: Plan, tmp_path: Path) -> None:
    (tmp_path / "hello.c").write_text(HELLO.replace("return 0", "return nought"))
    (tmp_path / "Makefile").write_text(MAKEFILE.replace("sub/", ""))
    with pytest.raises(BuildError, match="nought"):
        build_modules(tmp_path, NAME)
