"""The kernel modules compile without a warning, by the strictest rules there are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vm.checking import KMOD, check_modules
from vm.errors import BuildError

pytestmark = pytest.mark.vm


def test_clean_under_w1_and_sparse() -> None:
    assert {"djprobes", "djp_test", "djprobe_example"} <= set(check_modules())


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        pytest.param(
            "int djp_not_declared(void) { return 0; }\n",
            "djp_not_declared",
            marks=pytest.mark.product,
        ),
        (
            "void djp_flaw(int __user *p);\nvoid djp_flaw(int __user *p) { *p = 1; }\n",
            "noderef",
        ),
    ],
)
def test_a_flaw_is_seen(tmp_path: Path, flaw: str, complaint: str) -> None:
    copy = tmp_path / "kmod"
    shutil.copytree(KMOD, copy)
    with (copy / "core" / "reasons.c").open("a") as source:
        source.write(flaw)
    with pytest.raises(BuildError) as caught:
        check_modules(copy)
    assert complaint in str(caught.value)


def test_versions_are_tested_in_one_file_pair() -> None:
    """Differences between kernels stand in compat.{c,h}; elsewhere no version is asked for."""
    words = ("LINUX_VERSION_CODE", "KERNEL_VERSION(")
    found = {
        path.name
        for path in KMOD.rglob("*.[chS]")
        if any(word in path.read_text() for word in words)
    }
    assert found <= {"compat.c", "compat.h"}
