"""Compile for a guest with its own suite's compiler, in a sandbox.

The sandbox is bubblewrap over a builder root: an unprivileged user in name
spaces of its own, without network, that sees the root read-only and can write
to one build folder.  The user's source tree is copied in, never written to.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vm.cache import Artefact, Cache, Progress, silent, tree_digest
from vm.errors import BuildError, InfrastructureError
from vm.matrix import BuilderSpec, KernelSpec, Matrix
from vm.process import run, tail
from vm.roots import builder_root
from vm.settings import Settings

_INIT_RECIPE = 1
_MODULES_RECIPE = 1
_INIT_SOURCES = Path(__file__).with_name("guest")

# What kbuild leaves behind in a tree that was built by hand, and what is no source.
_NOT_SOURCE = shutil.ignore_patterns(
    "*.o", "*.ko", "*.mod", "*.mod.c", ".*.cmd", "*.cmd", "Module.symvers", "modules.order",
    ".tmp_*", ".git", "*.swp", "*~", "__pycache__",
)  # fmt: skip


def _sandbox(rootfs: Path, build: Path, binds: Mapping[str, Path]) -> list[str]:
    """The bubblewrap prefix: `build` is /build, `binds` are read-only places in the root.

    No /proc: a compiler needs none, and many containers forbid to mount one.
    """
    argv = [
        "bwrap", "--unshare-all", "--die-with-parent", "--new-session",
        "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
        "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin",
        "--setenv", "LC_ALL", "C.UTF-8", "--setenv", "HOME", "/build",
        "--ro-bind", str(rootfs), "/", "--dev", "/dev", "--tmpfs", "/tmp",
    ]  # fmt: skip
    for place, source in binds.items():
        argv += ["--ro-bind", str(source), place]
    return [*argv, "--bind", str(build), "/build", "--chdir", "/build", "--"]


def _compile(
    rootfs: Path,
    build: Path,
    binds: Mapping[str, Path],
    argv: Sequence[str],
    *,
    doing: str,
    settings: Settings,
) -> str:
    """Run a compiler in the sandbox; returns its output.

    Raises BuildError with the output if it fails, InfrastructureError if the
    sandbox does.
    """
    sandbox = _sandbox(rootfs, build, binds)
    # First the sandbox alone: its failure is the host's, not the source's.
    run(
        [*sandbox, "/bin/true"],
        doing="entering the build sandbox",
        timeout=30 * settings.scale,
        hint="bubblewrap needs user name spaces: see kernel.unprivileged_userns_clone, or be root",
    )
    try:
        done = subprocess.run(
            [*sandbox, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900 * settings.scale,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise InfrastructureError(doing, f"took longer than {exc.timeout:.0f} s") from exc
    if done.returncode != 0:
        raise BuildError(
            doing,
            f"{argv[0]} ended with status {done.returncode}",
            output=tail(done.stdout, 200),
            hint="correct the source and run again",
        )
    return done.stdout


def guest_init(spec: BuilderSpec, cache: Cache, settings: Settings, progress: Progress) -> Artefact:
    """The static PID 1 of all guests, as `init`."""
    sources = sorted(_INIT_SOURCES.glob("*.[ch]"))
    root = builder_root(spec, cache, settings, progress)

    def make(folder: Path) -> Mapping[str, Any]:
        for path in sources:
            shutil.copyfile(path, folder / path.name)
        words = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
        _compile(
            root.file("rootfs"),
            folder,
            {},
            [spec.cc, *words, "-o", "init", "init.c", "check.c"],
            doing="compiling the guests' init",
            settings=settings,
        )
        return {"builder": root.key}

    inputs = {
        "recipe": _INIT_RECIPE,
        "source": tree_digest(_INIT_SOURCES, sources),
        "builder": root.key,
        "cc": spec.cc,
    }
    return cache.obtain("init", inputs, make, progress)


def build_modules(
    kmod_dir: Path,
    kernel: str | KernelSpec = "bookworm-cloud",
    *,
    make_vars: Mapping[str, str] | None = None,
    targets: Sequence[str] = ("modules",),
    settings: Settings | None = None,
    progress: Progress = silent,
) -> dict[str, Path]:
    """Build the kernel modules in `kmod_dir` for a guest's kernel; name -> .ko file.

    Runs `make KDIR=/lib/modules/REL/build TARGETS` in a copy of the folder, so
    it is not written to.  The name is the file's without `.ko`.  The result is
    cached by the content of the sources, the kernel and `make_vars`.

    Raises BuildError with the compiler's output when make fails or makes no
    module, InfrastructureError when the host can't build at all.
    """
    from vm.kernels import kernel_artefact  # noqa: PLC0415  (it needs apt only when it is made)

    settings = settings or Settings.from_env()
    matrix = Matrix.load()
    spec = matrix.kernel(kernel) if isinstance(kernel, str) else kernel
    builder = matrix.builders[spec.builder]
    cache = Cache(settings.cache, settings.scale)
    root = builder_root(builder, cache, settings, progress)
    image = kernel_artefact(spec, cache, settings, progress)
    release = str(image.details["release"])
    variables = {"CONFIG_DEBUG_INFO_BTF_MODULES": "", **(make_vars or {})}

    def make(folder: Path) -> Mapping[str, Any]:
        source = folder / "source"
        shutil.copytree(kmod_dir, source, ignore=_NOT_SOURCE)
        output = _compile(
            root.file("rootfs"),
            source,
            {"/usr/lib/modules": image.file("tree/modules"), "/usr/src": image.file("tree/src")},
            [
                "make", "-j2", f"KDIR=/lib/modules/{release}/build",
                *[f"{name}={value}" for name, value in variables.items()], *targets,
            ],
            doing=f"building {kmod_dir.name} for {release}",
            settings=settings,
        )  # fmt: skip
        (folder / "make.log").write_text(output)
        modules: dict[str, str] = {}
        for path in sorted(source.rglob("*.ko")):
            modules[path.stem] = str(path.relative_to(folder))
        if not modules:
            raise BuildError(
                f"building {kmod_dir.name} for {release}",
                "make succeeded and left no .ko file",
                output=tail(output),
                hint="does the Makefile name a module in obj-m?",
            )
        return {"release": release, "modules": modules}

    inputs = {
        "recipe": _MODULES_RECIPE,
        "sources": tree_digest(kmod_dir, source_files(kmod_dir)),
        "kernel": [image.key, image.details["packages"]],
        "builder": root.key,
        "variables": variables,
        "targets": list(targets),
    }
    built = cache.obtain("modules", inputs, make, progress)
    return {name: built.file(path) for name, path in built.details["modules"].items()}


def source_files(folder: Path) -> list[Path]:
    """The files below `folder` that decide what is built; leavings of kbuild are not."""
    if not folder.is_dir():
        raise BuildError(
            "building kernel modules", "no such folder", value=str(folder), hint="name kmod/"
        )
    files: list[Path] = []
    names = [path.name for path in folder.iterdir()]
    left_out = _NOT_SOURCE(str(folder), names)
    for path in sorted(folder.iterdir()):
        if path.name in left_out:
            continue
        files += source_files(path) if path.is_dir() else [path]
    return files
