"""Debian packages for guests: the host's own mirror, another suite's packages.

No mirror is named here.  It comes from DJP_MIRROR or from the host's own apt
configuration, and the host's configuration is only read: what we fetch goes
through a private set of lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.errors import InfrastructureError
from vm.process import run
from vm.settings import Settings

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_TARGET_FORMAT = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"


@dataclass(frozen=True)
class Mirror:
    """Where Debian's packages and security updates come from (URIs)."""

    main: str
    security: str | None

    def sources(self, suite: str) -> tuple[str, ...]:
        """One-line-style apt sources for `suite` with its updates and security."""
        lines = [f"deb [signed-by={KEYRING}] {self.main} {suite} main"]
        if suite not in ("sid", "unstable"):
            lines.append(f"deb [signed-by={KEYRING}] {self.main} {suite}-updates main")
            if self.security:
                lines.append(f"deb [signed-by={KEYRING}] {self.security} {suite}-security main")
        return tuple(lines)


def pick_mirror(targets: str) -> Mirror | None:
    """The mirror among the lines of `apt-get indextargets` (see `_TARGET_FORMAT`).

    Returns None when the host has no Debian suite configured.
    """
    main: str | None = None
    security: str | None = None
    for line in targets.splitlines():
        fields = line.split("\t")
        if len(fields) != 3 or fields[2] != "main":
            continue
        uri, release, _component = fields
        uri = uri.rstrip("/")
        if "ubuntu" in uri:
            continue
        if release.endswith("-security"):
            security = security or uri
        elif re.fullmatch(r"[a-z]+", release):
            main = main or uri
    return Mirror(main, security) if main else None


def find_mirror(settings: Settings) -> Mirror:
    """DJP_MIRROR, or what the host's apt uses.

    Raises InfrastructureError when neither names a Debian mirror.
    """
    if settings.mirror:
        return Mirror(settings.mirror.rstrip("/"), None)
    targets = run(
        # without release info: also on a host whose lists were never fetched
        [
            "apt-get",
            "indextargets",
            "--no-release-info",
            "--format",
            _TARGET_FORMAT,
            "Created-By: Packages",
        ],
        doing="looking for the Debian mirror in the host's apt configuration",
        timeout=60 * settings.scale,
    )
    mirror = pick_mirror(targets)
    if mirror is None:
        raise InfrastructureError(
            "looking for a Debian mirror",
            "the host's apt configuration has no Debian suite",
            hint="set DJP_MIRROR to the URI of a Debian mirror",
        )
    return mirror


@dataclass(frozen=True)
class PrivateApt:
    """apt for one suite with lists of its own, in `folder`; the host's apt stays untouched."""

    folder: Path
    suite: str
    mirror: Mirror
    scale: float = 1.0

    def _options(self) -> list[str]:
        pairs = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": self.folder / "state",
            "Dir::State::Lists": self.folder / "state" / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Cache::Archives": self.folder / "cache" / "archives",
            "APT::Architecture": "amd64",
            "APT::Default-Release": "",
            "APT::Sandbox::User": "",
            "Acquire::Retries": "3",
        }
        return [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the package lists; raises InfrastructureError if the mirror can't be reached."""
        for sub in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text("\n".join(self.mirror.sources(self.suite)) + "\n")
        run(
            ["apt-get", *self._options(), "-q", "update"],
            doing=f"fetching the package lists of Debian {self.suite}",
            timeout=300 * self.scale,
            hint="is the mirror reachable? DJP_MIRROR names another one",
        )

    def show(self, package: str) -> dict[str, str]:
        """The control fields of the newest version of `package`."""
        text = run(
            ["apt-cache", *self._options(), "show", "--no-all-versions", package],
            doing=f"looking up the package {package} in Debian {self.suite}",
            timeout=60 * self.scale,
            hint="is the name in vm/matrix.toml right for this suite?",
        )
        fields: dict[str, str] = {}
        for line in text.split("\n\n", 1)[0].splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith(" "):
                fields[name] = value.strip()
        return fields

    def closure(self, packages: Sequence[str], keep: re.Pattern[str]) -> dict[str, str]:
        """`packages` and all they depend on whose name matches `keep`: name -> version."""
        versions: dict[str, str] = {}
        pending = list(packages)
        while pending:
            name = pending.pop()
            if name in versions:
                continue
            fields = self.show(name)
            versions[name] = fields["Version"]
            for field in ("Depends", "Pre-Depends"):
                pending += [dep for dep in dependencies(fields.get(field, "")) if keep.match(dep)]
        return versions

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Download the .deb files of `packages` into a folder; returns them."""
        into.mkdir(parents=True, exist_ok=True)
        run(
            ["apt-get", *self._options(), "-q", "download", *packages],
            doing=f"downloading {len(packages)} packages of Debian {self.suite}",
            timeout=900 * self.scale,
            cwd=into,
        )
        return sorted(into.glob("*.deb"))


def dependencies(field: str) -> list[str]:
    """The first alternative of each dependency in a Depends field, without versions."""
    names = []
    for clause in field.split(","):
        match = re.match(r"\s*([a-z0-9][a-z0-9.+-]*)", clause)
        if match:
            names.append(match.group(1))
    return names
