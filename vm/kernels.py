"""Stock kernels as artefacts: vmlinuz, boot modules, and a disk of modules and headers.

The packages are unpacked, not installed.  An artefact holds

    vmlinuz  config     (Debian ships an empty System.map: read the guest's kallsyms)
    mods/NN-name.ko     what the initrd must load, in order
    kernel.ext4         modules/ and src/ for the guest: modprobe and bcc need them
    tree/               the same as a folder: modules are built against it
"""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vm.apt import PrivateApt, find_mirror
from vm.cache import Artefact, Cache, Progress, remove_tree
from vm.errors import ConfigError, InfrastructureError
from vm.kconfig import parse_config
from vm.matrix import KernelSpec
from vm.process import run
from vm.roots import Faked, make_ext4
from vm.settings import Settings

_RECIPE = 1

# Loaded by init from the initrd.  Their dependencies are found by modprobe; one
# that is built in, or that this kernel does not have, is passed over.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4")

_KERNEL_PACKAGES = re.compile(r"linux-(image|headers|kbuild)-")


def kernel_artefact(
    spec: KernelSpec, cache: Cache, settings: Settings, progress: Progress
) -> Artefact:
    """The kernel of a matrix entry; the newest version there is when it is made.

    Raises ConfigError when the kernel lacks what the entry expects of it.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        apt = PrivateApt(folder / "apt", spec.suite, find_mirror(settings), settings.scale)
        progress(f"kernel: looking up {spec.image} in {spec.suite}")
        apt.update()
        versions = apt.closure([spec.image, spec.headers], _KERNEL_PACKAGES)
        progress(f"kernel: downloading {spec.image} {versions[spec.image]}")
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        for package in apt.download(sorted(versions), folder / "debs"):
            run(
                ["dpkg-deb", "-x", str(package), str(unpacked)],
                doing=f"unpacking {package.name}",
                timeout=300 * settings.scale,
            )
        release = _find_release(unpacked, spec)
        for name in ("vmlinuz", "config"):
            shutil.copyfile(unpacked / "boot" / f"{name}-{release}", folder / name)
        _check_expected(spec, folder / "config")
        tree = _arrange(unpacked, folder / "tree", release)
        run(
            ["depmod", "-b", str(tree / "depmod"), release],
            doing=f"listing the modules of {release}",
            timeout=120 * settings.scale,
        )
        _boot_modules(tree / "depmod", release, folder / "mods", settings)
        (tree / "depmod/lib").joinpath("modules").unlink()
        (tree / "depmod/lib").rmdir()
        (tree / "depmod").rmdir()
        progress(f"kernel: writing the module disk of {release}")
        size = sum(p.stat().st_blocks for p in tree.rglob("*") if not p.is_symlink()) * 512
        make_ext4(
            tree,
            folder / "kernel.ext4",
            size_mib=int(size / 2**20 * 1.2) + 48,
            label="djp-kernel",
            faked=Faked(folder / "fakeroot.state"),
            scale=settings.scale,
        )
        for name in ("apt", "debs", "unpacked"):
            remove_tree(folder / name)
        (folder / "fakeroot.state").unlink(missing_ok=True)
        return {"release": release, "packages": versions}

    inputs = {
        "recipe": _RECIPE,
        "suite": spec.suite,
        "image": spec.image,
        "headers": spec.headers,
        "boot_modules": BOOT_MODULES,
        "expect": dict(spec.expect),
    }
    return cache.obtain("kernel", inputs, make, progress)


def _find_release(unpacked: Path, spec: KernelSpec) -> str:
    """The release of the one kernel among the unpacked packages."""
    found = sorted(path.name.removeprefix("vmlinuz-") for path in unpacked.glob("boot/vmlinuz-*"))
    if len(found) != 1:
        raise InfrastructureError(
            f"unpacking the kernel of {spec.name}",
            f"wanted one kernel, found {len(found)}",
            value=", ".join(found),
            hint=f"is {spec.image} a kernel meta package of {spec.suite}?",
        )
    return found[0]


def _check_expected(spec: KernelSpec, config: Path) -> None:
    """Raise ConfigError unless the kernel is what the matrix entry says it is."""
    have = parse_config(config.read_text())
    for option, value in spec.expect.items():
        if have.get(option, "n") != value:
            raise ConfigError(
                f"taking {spec.image} for {spec.name}",
                f"the matrix expects {option}={value}, the kernel has {have.get(option, 'n')}",
                hint="choose another package in vm/matrix.toml, or change `expect`",
            )


def _arrange(unpacked: Path, tree: Path, release: str) -> Path:
    """Lay modules, headers and kbuild out as two folders, modules/ and src/.

    The guest binds them over /usr/lib/modules and /usr/src.  Debian keeps
    kbuild in /usr/lib; it moves under src/ and the links into it are redirected.
    """
    (tree / "modules").mkdir(parents=True)
    for lib in ("lib", "usr/lib"):  # suites with merged /usr split it over both
        modules = unpacked / lib / "modules" / release
        if modules.exists():
            shutil.copytree(modules, tree / "modules" / release, symlinks=True, dirs_exist_ok=True)
    (unpacked / "usr/src").rename(tree / "src")
    for kbuild in (unpacked / "usr/lib").glob("linux-kbuild-*"):
        link = tree / "src" / kbuild.name
        link.unlink(missing_ok=True)  # some versions link it from there
        kbuild.rename(link)
    for headers in (tree / "src").glob("linux-headers-*"):
        for link in headers.iterdir():
            target = str(link.readlink()) if link.is_symlink() else ""
            if "linux-kbuild-" in target:
                link.unlink()
                link.symlink_to("../" + target[target.index("linux-kbuild-") :])
    for link_name in ("build", "source"):
        link = tree / "modules" / release / link_name
        if link.is_symlink():
            target = f"/usr/src/{link.readlink().name}"
            link.unlink()
            link.symlink_to(target)
    depmod = tree / "depmod" / "lib"  # depmod and modprobe insist on lib/modules below -b
    depmod.mkdir(parents=True)
    (depmod / "modules").symlink_to("../../modules")
    return tree


def _boot_modules(base: Path, release: str, into: Path, settings: Settings) -> None:
    """Copy what the initrd must load, in order and uncompressed, to NN-name.ko files."""
    into.mkdir()
    ordered: list[Path] = []
    for name in BOOT_MODULES:
        listing = run(
            ["modprobe", "-d", str(base), "-S", release, "--show-depends", name],
            doing=f"finding the boot module {name} of {release}",
            timeout=60 * settings.scale,
        )
        for line in listing.splitlines():
            word, _space, rest = line.partition(" ")
            path = Path(rest.split(" ")[0])
            if word == "insmod" and path not in ordered:
                ordered.append(path)
    for number, path in enumerate(ordered):
        stem = path.name.partition(".")[0]
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        elif path.suffix != ".ko":
            raise InfrastructureError(
                "preparing the boot modules", "unknown compression", value=path.name
            )
        (into / f"{number:02}-{stem}.ko").write_bytes(data)
