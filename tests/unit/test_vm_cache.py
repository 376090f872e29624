"""The content-addressed cache: keys, atomicity, locks."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vm.cache import Cache, digest, remove_tree, tree_digest
from vm.errors import InfrastructureError


def fill(folder: Path) -> Mapping[str, Any]:
    (folder / "data").write_text("made")
    return {"answer": 42}


def never(_folder: Path) -> Mapping[str, Any]:
    raise AssertionError("made again")


def test_key_depends_on_every_input_and_not_on_order() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})


def test_made_once_then_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = cache.obtain("thing", {"v": 1}, fill)
    again = cache.obtain("thing", {"v": 1}, never)
    assert again.path == made.path
    assert made.file("data").read_text() == "made"
    assert made.details == {"answer": 42}
    assert made.manifest["inputs"] == {"v": 1}
    assert made.manifest["bytes"] == {"data": 4}
    with pytest.raises(AssertionError, match="made again"):
        cache.obtain("thing", {"v": 2}, never)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.obtain("thing", {}, broken)
    assert list((tmp_path / "thing").iterdir()) == []
    assert cache.find("thing", {}) is None
    assert cache.obtain("thing", {}, fill).details == {"answer": 42}


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    place = cache.place("thing", {})
    left = place.parent / f".{place.name}.dead"
    left.mkdir(parents=True)
    (left / "half").touch()
    place.mkdir()  # damaged: no manifest
    cache.obtain("thing", {}, fill)
    assert not left.exists()
    assert sorted(p.name for p in place.iterdir()) == ["data", "manifest.json"]


def test_readers_never_see_half(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def look(folder: Path) -> Mapping[str, Any]:
        assert cache.find("thing", {}) is None
        assert not cache.place("thing", {}).exists()
        assert folder.parent == cache.place("thing", {}).parent  # same file system
        return fill(folder)

    cache.obtain("thing", {}, look)


def _builder(root: Path, counter: Path, barrier: Any) -> None:  # noqa: ANN401
    def make(folder: Path) -> Mapping[str, Any]:
        with counter.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return fill(folder)

    barrier.wait(30)
    Cache(root).obtain("thing", {}, make)


def test_two_builders_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    counter = tmp_path / "counter"
    workers = [
        context.Process(target=_builder, args=(tmp_path / "cache", counter, barrier))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(counter.read_text().splitlines()) == 1


def test_a_full_disk_is_the_hosts_fault(tmp_path: Path) -> None:
    def full(folder: Path) -> Mapping[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "big"))

    with pytest.raises(InfrastructureError, match="No space left") as caught:
        Cache(tmp_path).obtain("thing", {}, full)
    assert "DJP_CACHE" in str(caught.value)


def test_a_lock_that_is_held_is_named(tmp_path: Path) -> None:
    with (
        Cache(tmp_path).lock("x"),
        pytest.raises(InfrastructureError, match=r"x\.lock"),
        Cache(tmp_path, scale=0.5).lock("x", timeout=0.01),
    ):
        pass


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    made = Cache(tmp_path).obtain("thing", {}, fill)
    made.file("data").unlink()
    with pytest.raises(InfrastructureError, match="missing"):
        made.file("data")


def test_tree_digest_sees_content_name_and_mode(tmp_path: Path) -> None:
    one = tmp_path / "a.c"
    one.write_text("int x;")
    seen = {tree_digest(tmp_path, [one])}
    one.write_text("int y;")
    seen.add(tree_digest(tmp_path, [one]))
    one.chmod(0o755)
    seen.add(tree_digest(tmp_path, [one]))
    two = one.rename(tmp_path / "b.c")
    seen.add(tree_digest(tmp_path, [two]))
    assert len(seen) == 4


def test_remove_tree_copes_with_read_only_folders(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "f").touch()
    folder.chmod(0o500)
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    remove_tree(tmp_path / "a")
