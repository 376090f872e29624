"""`djp demo` as a user runs it.  Needs QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

#: A jump, and nops up to the end of the last instruction that it displaces.
DCR_MAX = 5 - 1 + 15


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    argv = [sys.executable, "-m", "pyctl.cli.main", "demo", "--json", "--picture", str(picture)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)  # one document, and nothing else
    assert shown["passed"]
    for phase in ("bypass", "jump"):
        assert len(shown[phase]["results"]) == 5
        for row in shown[phase]["results"]:
            assert row["djprobe"] == row["bcc"] == row["third"] > 0, row
            assert row["state"] == phase
    bulk = shown["bulk"]
    assert bulk["count"] == 1000
    assert bulk["fired"] > 0
    assert bulk["left"] == 0
    assert bulk["restored"]["unaccounted_bytes"] == 0
    # the compare did see the jumps when they were there
    assert 1000 <= bulk["in_place"]["unaccounted_bytes"] <= 1000 * DCR_MAX
    assert shown["end"]["faults"] == []
    drawing = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert shown["machine"]["release"] in drawing
    assert "posix_timer_fn" in drawing
