"""The QEMU command line, versions, the matrix and the mirror: values in, values out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vm.apt import Mirror, dependencies, pick_mirror
from vm.builder import source_files
from vm.emulator import excerpt, find_trouble
from vm.errors import BuildError, ConfigError, InfrastructureError
from vm.matrix import Matrix
from vm.qemu import Disk, QemuBinary, QemuSpec, Sockets, find_qemu, parse_version
from vm.settings import Settings

BINARY = QemuBinary("/usr/bin/qemu-system-x86_64", (10, 0, 2), "QEMU emulator version 10.0.2", "id")
SPEC = QemuSpec(
    accelerator="tcg",
    cpu="max,cx16=off",
    smp=2,
    mem=2048,
    kernel=Path("/c/vmlinuz"),
    initrd=Path("/c/initrd"),
    cmdline=("console=ttyS0", "preempt=full"),
    disks=(
        Disk(Path("/c/root.ext4"), "raw", "throwaway"),
        Disk(Path("/c/a,b.ext4"), "raw", "readonly"),
    ),
)


def argv(spec: QemuSpec = SPEC, *, incoming: bool = False) -> list[str]:
    return spec.argv(BINARY, Sockets(Path("/t")), Path("/c/console.log"), incoming=incoming)


def after(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_argv_says_what_the_spec_says() -> None:
    words = argv()
    assert words[0] == BINARY.path
    assert after(words, "-accel") == ["tcg,thread=multi"]
    assert after(words, "-cpu") == ["max,cx16=off"]
    assert after(words, "-append") == ["console=ttyS0 preempt=full"]
    assert after(words, "-m") == ["2048M"]
    assert {"-nodefaults", "-no-reboot"} <= set(words)


def test_an_instruction_clock_comes_with_one_thread() -> None:
    words = argv(replace(SPEC, accelerator="icount"))
    assert (after(words, "-accel"), after(words, "-icount")) == (["tcg,thread=single"], ["shift=0"])
    assert "-icount" not in argv()


def test_the_roots_writes_are_thrown_away_and_the_kernel_disk_is_read_only() -> None:
    root, kernel = after(argv(), "-drive")
    assert root.endswith("snapshot=on")
    assert kernel.endswith("readonly=on")
    assert "file=/c/a,,b.ext4" in kernel  # a comma in a path is doubled for QEMU
    keep = replace(SPEC, disks=(Disk(Path("/c/d.qcow2"), "qcow2", "keep"),))
    assert "snapshot" not in after(argv(keep), "-drive")[0]


def test_no_port_is_chosen_by_us() -> None:
    (net,) = after(argv(), "-netdev")
    assert "hostfwd=tcp:127.0.0.1:0-:22" in net
    assert "restrict=on" in net


def test_without_network_there_is_none() -> None:
    words = argv(replace(SPEC, network=False))
    assert "-netdev" not in words
    assert not any("virtio-net" in word for word in words)


def test_incoming() -> None:
    assert after(argv(incoming=True), "-incoming") == ["defer"]
    assert "-incoming" not in argv()


@pytest.mark.parametrize(
    "change",
    [
        {"smp": 1},
        {"mem": 512},
        {"accelerator": "icount"},
        {"cpu": "max"},
        {"cmdline": ()},
        {"network": False},
        {"disks": ()},
    ],
)
def test_fingerprint_changes_with_the_hardware(change: dict[str, object]) -> None:
    assert replace(SPEC, **change).fingerprint() != SPEC.fingerprint()  # type: ignore[arg-type]


def test_fingerprint_does_not_change_with_paths() -> None:
    moved = replace(SPEC, disks=(Disk(Path("/other"), "qcow2", "keep"), SPEC.disks[1]))
    assert moved.fingerprint() == SPEC.fingerprint()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0, 2)),
        ("QEMU emulator version 7.2.22", (7, 2, 22)),
        ("something else", ()),
    ],
)
def test_version(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_a_missing_qemu_teaches(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="make bootstrap"):
        find_qemu(Settings(tmp_path, qemu="/nowhere/qemu"))


def test_something_that_is_no_qemu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="which QEMU"):
        find_qemu(Settings(tmp_path, qemu="/bin/echo"))


# --- console ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("console", "trouble"),
    [
        ("[  1.0] Kernel panic - not syncing: sysrq triggered crash\n", "Kernel panic - not"),
        ("[  1.0] BUG: kernel NULL pointer dereference, address: 0\n", "BUG: kernel NULL"),
        ("[  1.0] Oops: 0002 [#1] PREEMPT SMP\n", "Oops: 0002"),
        ("[  1.0] general protection fault, probably\n", "general protection fault"),
        ("root@djprobes:~# [  1.0] BUG: unable to handle page fault\n", "BUG: unable"),
        ("[  1.0] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI\n", "invalid opcode: 0000"),
        ("[  1.0][ T12] int3: 0000 [#1] SMP\n", "int3: 0000"),
        ("[  1.0] reboot: Power down\n", None),
        ("# grep BUG: Oops Kernel panic\n", None),
        ("[  1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!\n", None),
        ("[  1.0] DEBUG: all good, debugfs mounted\n", None),
    ],
)
def test_trouble(console: str, trouble: str | None) -> None:
    found = find_trouble(console)
    assert (found or "").startswith(trouble or "")
    assert (found is None) == (trouble is None)


def test_an_excerpt_of_a_console_never_leaves_out_the_oops() -> None:
    story = "[ 1.0] up\n" * 50 + "[ 2.0] BUG: bad thing\n" + "[ 2.1] trace\n" * 40
    shown = excerpt(story).splitlines()
    assert shown[0].startswith("BUG: bad thing")
    assert len(shown) == 41
    assert len(excerpt(story + "[ 2.2] more\n" * 500).splitlines()) == 91
    assert len(excerpt("[ 1.0] up\n" * 50).splitlines()) == 30


# --- matrix -----------------------------------------------------------------

GOOD: dict[str, Any] = {
    "root": {"suite": "bookworm", "packages": ["kmod"], "size_mib": 100},
    "builder": {"bookworm": {"suite": "bookworm", "packages": ["make"], "cc": "gcc-12"}},
    "kernel": {
        "k": {"suite": "bookworm", "builder": "bookworm", "image": "i", "headers": "h"},
    },
}


def test_the_matrix_of_the_project_loads() -> None:
    spec = Matrix.load().kernel("bookworm-cloud")
    assert spec.cmdline == ("preempt=full",)
    assert (spec.mem, spec.smp, spec.panic_on_oops) == (2048, 2, True)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"mem": "2G"}, "mem"),
        ({"smp": True}, "smp"),
        ({"smp": 0}, "smp"),
        ({"colour": "red"}, "colour"),
        ({"builder": "sarge"}, "sarge"),
        ({"cmdline": "preempt=full"}, "cmdline"),
        ({"panic_on_oops": 1}, "panic_on_oops"),
        ({"expect": {"CONFIG_X": 1}}, "expect"),
    ],
)
def test_a_bad_entry_is_named(table: dict[str, object], word: str) -> None:
    data = {**GOOD, "kernel": {"k": {**GOOD["kernel"]["k"], **table}}}
    assert Matrix.parse(GOOD).kernel("k").image == "i"
    with pytest.raises(ConfigError, match=word):
        Matrix.parse(data)


def test_a_missing_key_an_unknown_table_and_a_bad_name_are_named() -> None:
    with pytest.raises(ConfigError, match="headers"):
        Matrix.parse({**GOOD, "kernel": {"k": {"suite": "s", "builder": "bookworm", "image": "i"}}})
    with pytest.raises(ConfigError, match="guests"):
        Matrix.parse({**GOOD, "guests": {}})
    with pytest.raises(ConfigError, match="lower case"):
        Matrix.parse({**GOOD, "kernel": {"../k": GOOD["kernel"]["k"]}})


def test_an_unknown_guest_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="one of: k"):
        Matrix.parse(GOOD).kernel("nope")


# --- apt --------------------------------------------------------------------

TARGETS = """\
http://mirror.example/debian-security/\tbookworm-security\tmain
http://mirror.example/debian/\tbookworm-updates\tmain
http://mirror.example/debian/\tbookworm\tcontrib
http://mirror.example/debian/\tbookworm\tmain
"""


def test_the_mirror_is_the_hosts() -> None:
    assert pick_mirror(TARGETS) == Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )
    assert pick_mirror("http://x.example/ubuntu/\tjammy\tmain\n") is None
    assert pick_mirror("") is None


def test_sources_of_another_suite() -> None:
    sources = Mirror("http://m.example/debian", None).sources("trixie")
    assert [line.split()[-2] for line in sources] == ["trixie", "trixie-updates"]


def test_dependencies() -> None:
    field = "linux-image-6.1 (= 6.1.1-1), kmod, initramfs-tools | dracut, linux-kbuild-6.1:any"
    assert dependencies(field) == ["linux-image-6.1", "kmod", "initramfs-tools", "linux-kbuild-6.1"]


# --- sources of modules -----------------------------------------------------


def test_leavings_of_kbuild_are_no_sources(tmp_path: Path) -> None:
    names = ["main.c", "Makefile", "main.o", "x.ko", ".main.o.cmd", "Module.symvers", "x.mod.c"]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).touch()
        (tmp_path / "sub" / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in source_files(tmp_path)]
    assert sorted(found) == ["Makefile", "main.c", "sub/Makefile", "sub/main.c"]


def test_no_source_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no such folder"):
        source_files(tmp_path / "kmod")
