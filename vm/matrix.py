"""The matrix of guests, read from `matrix.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm.errors import ConfigError

MATRIX_FILE = Path(__file__).with_name("matrix.toml")


@dataclass(frozen=True)
class RootSpec:
    """What goes into the root file system that all guests share."""

    suite: str
    packages: tuple[str, ...]
    size_mib: int


@dataclass(frozen=True)
class BuilderSpec:
    """A root with one suite's compiler; `cc` is the compiler's name in it."""

    name: str
    suite: str
    packages: tuple[str, ...]
    cc: str


@dataclass(frozen=True)
class KernelSpec:
    """One guest: a kernel of a suite, how to start it and what it must have.

    `mem` is in MiB; `panic_on_oops` makes an oops end the guest; `expect` maps
    CONFIG_ names to the value they must have.
    """

    name: str
    suite: str
    builder: str
    image: str
    headers: str
    cmdline: tuple[str, ...] = ()
    mem: int = 2048
    smp: int = 2
    expect: Mapping[str, str] = field(default_factory=dict)
    panic_on_oops: bool = True


@dataclass(frozen=True)
class Matrix:
    """All that `matrix.toml` says."""

    root: RootSpec
    builders: Mapping[str, BuilderSpec]
    kernels: Mapping[str, KernelSpec]

    @classmethod
    def load(cls, path: Path = MATRIX_FILE) -> Matrix:
        """Read and check a matrix file; raises ConfigError that names what is wrong."""
        try:
            data = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as exc:
            raise ConfigError(f"reading {path.name}", str(exc), value=str(path)) from exc
        return cls.parse(data)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Matrix:
        """Check the parsed TOML; raises ConfigError that names table and key."""
        unknown = set(data) - {"root", "builder", "kernel"}
        if unknown:
            raise ConfigError("reading the matrix", "unknown table", value=sorted(unknown)[0])
        root = _build(RootSpec, "root", data.get("root", {}))
        builders = {
            name: _build(BuilderSpec, f"builder.{name}", {"name": name, **table})
            for name, table in data.get("builder", {}).items()
        }
        kernels = {}
        for name, table in data.get("kernel", {}).items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
                raise ConfigError(
                    "reading the matrix",
                    "a guest's name must be lower case letters, digits, '.' and '-'",
                    value=name,
                )
            spec = _build(KernelSpec, f"kernel.{name}", {"name": name, **table})
            if spec.builder not in builders:
                raise ConfigError(
                    f"reading kernel.{name} of the matrix",
                    "its builder is not in the matrix",
                    value=spec.builder,
                    hint=f"one of: {', '.join(sorted(builders))}",
                )
            kernels[name] = spec
        return cls(root, builders, kernels)

    def kernel(self, name: str) -> KernelSpec:
        """The entry called `name`; raises ConfigError that lists the names there are."""
        try:
            return self.kernels[name]
        except KeyError:
            raise ConfigError(
                f"looking for the guest {name!r}",
                "no such guest in the matrix",
                hint=f"one of: {', '.join(sorted(self.kernels))}",
            ) from None


def _build(cls: type[Any], where: str, table: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """An instance of a frozen spec from a TOML table, with each key checked."""
    fields: Mapping[str, Any] = cls.__dataclass_fields__
    doing = f"reading [{where}] of the matrix"
    for key in table:
        if key not in fields:
            raise ConfigError(doing, "unknown key", value=key, hint=f"known: {', '.join(fields)}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        wanted = str(fields[key].type)
        if wanted == "str":
            good = isinstance(value, str) and bool(value)
        elif wanted == "bool":
            good = isinstance(value, bool)
        elif wanted == "int":
            good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        elif wanted.startswith("tuple"):
            good = isinstance(value, list) and all(isinstance(v, str) for v in value)
        else:
            good = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        if not good:
            raise ConfigError(
                doing, f"{key} has the wrong type, wanted {wanted}", value=repr(value)
            )
        values[key] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except TypeError as exc:
        raise ConfigError(doing, str(exc).replace("__init__() ", "")) from exc
