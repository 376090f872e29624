"""The initrd of a kernel: init, the modules it loads, and the cache's SSH keys."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vm.cache import Artefact, Cache, Progress, remove_tree
from vm.process import run
from vm.settings import Settings

_RECIPE = 1


def make_initrd(
    kernel: Artefact,
    init: Artefact,
    keys: Artefact,
    cache: Cache,
    settings: Settings,
    progress: Progress,
) -> Artefact:
    """An uncompressed cpio archive, `initrd`: unpacking it costs an emulated CPU no time."""

    def make(folder: Path) -> Mapping[str, Any]:
        tree = folder / "tree"
        for name in ("dev", "proc", "sys", "sysroot", "keys"):
            (tree / name).mkdir(parents=True)
        shutil.copy(init.file("init"), tree / "init")
        (tree / "init").chmod(0o755)
        shutil.copytree(kernel.file("mods"), tree / "mods")
        shutil.copyfile(keys.file("id_ed25519.pub"), tree / "keys/authorized_keys")
        shutil.copyfile(keys.file("host_key"), tree / "keys/host_key")
        names = [".", *sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))]
        run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "--reproducible",
             "-F", str(folder / "initrd")],
            doing="packing the initrd",
            timeout=60 * settings.scale,
            cwd=tree,
            input_text="\n".join(names) + "\n",
        )  # fmt: skip
        (folder / "initrd").chmod(0o600)  # it holds the guests' host key
        remove_tree(tree)
        return {}

    inputs = {"recipe": _RECIPE, "kernel": kernel.key, "init": init.key, "keys": keys.key}
    return cache.obtain("initrd", inputs, make, progress)
