"""Loading and unloading, again and again, with probes in between."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from pyctl import Guest, NotLoadedError, Probes
from pyctl.errors import ModuleError
from pyctl.module import SOURCE

pytestmark = pytest.mark.vm

#: Reached all the time, in task, softirq and hard interrupt context.
HOT = ("vfs_read", "vfs_write", "try_to_wake_up", "tick_sched_timer", "hrtimer_interrupt")


def test_cycles_under_load_leave_the_text_as_it_was(watched: Guest) -> None:
    """Load, probe, commit, remove, unload; and the same again, removed while in bypass."""
    watched.unload()
    with watched.kernel_text() as text, watched.workload("busy").background():
        text.save()
        for jumps in (True, False):
            watched.load()
            with watched.probes() as probes:
                added = [probes.add(function) for function in HOT]
                if jumps:
                    probes.commit()
                watched.workload("fileio").run(operations=50)
                assert all(probe.hits > 0 for probe in added)
                probes.remove_all()
                assert probes.stats().sites == 0
            watched.unload()
            assert not watched.loaded
        text.diff().check()
    watched.load()


def test_retired_detours_are_reclaimed(watched: Guest) -> None:
    with watched.probes() as probes:
        for _ in range(3):
            probes.add_many(list(HOT))
            probes.commit()
            probes.remove_all()
        # What the last removal retired is freed by the next commit, or the one after it,
        # if a task was standing in it.
        for _ in range(50):
            probes.commit()
            if probes.stats().detour_bytes_retired == 0:
                break
        stats = probes.stats()
        assert (stats.detour_bytes_live, stats.detour_bytes_retired) == (0, 0)
        assert stats.detours_reclaimed >= 3 * len(HOT)


def test_features_name_every_symbol(watched: Guest) -> None:
    with watched.probes() as probes:
        features = probes.features()
    needed = {"text_poke", "text_mutex", "insn_decode", "stop_machine_cpuslocked"}
    assert needed <= {name for name, there in features.symbols.items() if there}
    assert features.values["strategy_freezer"] is True
    # An absent symbol is shown as absent: this one came with 6.10.
    assert features.symbols["execmem_alloc"] is False
    targets, text = features.values["branch_map_targets"], features.values["branch_map_text_bytes"]
    assert isinstance(targets, int)
    assert isinstance(text, int)
    assert 0 < targets < text
    assert "__rcu_read_lock" in str(features.values["int3_path"])


def test_only_root_may(watched: Guest) -> None:
    """Not even the file's names: debugfs is closed to others, and the files are too."""
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", "cat"]
    result = watched.transport.run([*as_nobody, "/sys/kernel/debug/djprobes/probes"], check=False)
    assert result.status != 0
    assert b"Permission denied" in result.stderr


def test_two_writers_at_once(watched: Guest) -> None:
    """Two processes add, commit and remove their own probes; neither sees an error."""
    script = (
        "import sys\n"
        "name, function = sys.argv[1:]\n"
        "for _ in range(20):\n"
        "    for text in (f'p:{name} {function}\\ncommit\\n', f'-:{name}\\n'):\n"
        "        with open('/sys/kernel/debug/djprobes/control', 'wb', 0) as control:\n"
        "            control.write(text.encode())\n"
    )
    writers = [
        watched.transport.spawn(["python3", "-c", script, name, function])
        for name, function in (("one", "vfs_read"), ("two", "vfs_read"), ("three", "vfs_write"))
    ]
    for writer in writers:
        assert writer.wait(120) == 0, writer.stderr_tail()
        writer.close()
    with watched.probes() as probes:
        assert probes.list() == []
        assert probes.stats().sites == 0


def test_a_killed_writer_leaves_whole_batches(watched: Guest) -> None:
    """SIGKILL to processes that commit: the kernel goes on, and stays consistent."""
    script = (
        "while True:\n"
        "    for text in ('p:mortal vfs_read\\ncommit\\n', '-:mortal\\n'):\n"
        "        with open('/sys/kernel/debug/djprobes/control', 'wb', 0) as control:\n"
        "            control.write(text.encode())\n"
        "        print('done', flush=True)\n"
    )
    with watched.probes() as probes:
        for _ in range(5):
            with watched.transport.spawn(["python3", "-c", script]) as writer:
                for _ in range(7):
                    assert writer.read_line(60) == "done"
                writer.signal(signal.Signals.SIGKILL)
            states = {status.name: status.state for status in probes.list()}
            assert states in ({}, {"mortal": "jump"}, {"mortal": "bypass"})
            probes.remove_all()


def test_errors_of_a_missing_module(watched: Guest) -> None:
    watched.unload()
    with pytest.raises(NotLoadedError):
        Probes(watched.transport).list()
    watched.load()


@pytest.mark.parametrize("required", [True, False])
def test_a_missing_symbol(watched: Guest, tmp_path: Path, required: bool) -> None:
    """A required one refuses the load and is named; an optional one shows in features."""
    copy = tmp_path / "kmod"
    shutil.copytree(SOURCE, copy)
    header = copy / "compat.h"
    line = "#define DJP_KERNEL_FUNCTIONS(REQ, OPT) \\\n"
    text = header.read_text()
    assert line in text
    kind = "REQ" if required else "OPT"
    header.write_text(text.replace(line, f"{line}{kind}(int, djp_no_such, (void)) \\\n"))
    watched.unload()
    if required:
        with pytest.raises(ModuleError, match="djp_no_such"):
            watched.load(source=copy)
        assert not watched.loaded
    else:
        watched.load(source=copy)
        with watched.probes() as probes:
            assert probes.features().symbols["djp_no_such"] is False
        watched.unload()
    watched.load()
