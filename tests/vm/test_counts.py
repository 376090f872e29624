"""djprobes, bcc and a third witness count the same hits: equal, not close.  Needs QEMU."""

from __future__ import annotations

import pytest

from pyctl import Guest
from pyctl.verify.paths import PATHS, PathComparison, PathRun, TracedPath
from pyctl.workloads import FileIo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]


def check(run: PathRun) -> None:
    assert {row.kind for row in run.results} == {
        "syscall",
        "scheduler",
        "network tx",
        "timer irq",
        "module",
    }
    for row in run.results:
        assert row.djprobe == row.bcc == row.third > 0, row
        assert row.missed == 0, row
        assert row.as_wanted, row
        assert row.passed
    assert run.passed
    assert run.idle_percent < 5, "the CPUs were to be busy all the while"


def test_every_path_is_counted_exactly_through_the_int3(watched: Guest) -> None:
    with PathComparison(watched) as comparison:
        check(comparison.measure("bypass"))


def test_every_path_is_counted_exactly_through_the_jump(watched: Guest) -> None:
    with PathComparison(watched) as comparison:
        committed = comparison.commit()
        assert committed.first.stats.sites == len(PATHS)
        check(comparison.measure("jump"))


def test_a_probe_on_another_function_is_seen(watched: Guest) -> None:
    """Were this comparison content with anything, the two tests above would prove nothing."""
    # the same workload reaches fsync too, but once in 16 operations
    beside = TracedPath(
        "syscall",
        "__x64_sys_pread64",
        FileIo(),
        320,
        "pread",
        "preads made",
        probe="__x64_sys_fsync",
    )
    with PathComparison(watched, [beside]) as comparison:
        run = comparison.measure("bypass")
    (row,) = run.results
    assert (row.djprobe, row.bcc, row.third) == (20, 320, 320)
    assert row.as_wanted
    assert not row.equal
    assert not run.passed


def test_a_wrong_phase_is_seen(watched: Guest) -> None:
    """The counts are right, but it is not a jump that counts them."""
    with PathComparison(watched, [PATHS[0]]) as comparison:
        run = comparison.measure("jump")
    (row,) = run.results
    assert row.equal
    assert (row.state, row.opcode) == ("bypass", 0xCC)
    assert not run.passed
