"""Check a kernel's config against a fragment in merge_config form.

The rule: `CONFIG_X=y` wants X built in, `CONFIG_X=m` wants it built in or as a
module, `# CONFIG_X is not set` wants it off, any other value wants exactly that
value.  The comment lines right above an option say what it is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vm.errors import ConfigError, KernelConfigError

_SET = re.compile(r"(CONFIG_\w+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")


@dataclass(frozen=True)
class Requirement:
    """One option of the fragment: `value` is 'n' for 'is not set'."""

    option: str
    value: str
    purpose: str

    def met_by(self, have: str) -> bool:
        """Whether an option with the value `have` satisfies this."""
        return have == self.value or (self.value == "m" and have == "y")

    def wanted(self) -> str:
        """The requirement in the words of a config file."""
        if self.value == "n":
            return f"# {self.option} is not set"
        return f"{self.option}={self.value}"


@dataclass(frozen=True)
class Missing:
    """A requirement that a kernel does not meet, and what it has instead."""

    requirement: Requirement
    have: str


def parse_config(text: str) -> dict[str, str]:
    """Option -> value of a kernel config; options that are not set are left out."""
    return {m.group(1): m.group(2) for line in text.splitlines() if (m := _SET.fullmatch(line))}


def parse_fragment(text: str) -> tuple[Requirement, ...]:
    """The options of a fragment, each with the comment lines right above it.

    A comment reaches down over the options that follow it, to the next blank
    line or comment.  Raises ConfigError for a line that is none of these.
    """
    requirements: list[Requirement] = []
    comment: list[str] = []
    in_options = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        option: tuple[str, str] | None = None
        if match := _UNSET.fullmatch(line):
            option = (match.group(1), "n")
        elif match := _SET.fullmatch(line):
            option = (match.group(1), match.group(2))
        if option:
            requirements.append(Requirement(*option, " ".join(comment)))
            in_options = True
        elif not line:
            comment = []
        elif line.startswith("#"):
            if in_options:
                comment = []
            comment.append(line.lstrip("# "))
            in_options = False
        else:
            raise ConfigError(
                "reading the kernel config fragment",
                f"line {number} is neither an option nor a comment",
                value=line,
                hint="write CONFIG_X=y, CONFIG_X=m or `# CONFIG_X is not set`",
            )
    return tuple(requirements)


def missing(fragment: str, config: str) -> tuple[Missing, ...]:
    """The requirements of `fragment` that the kernel config text does not meet."""
    have = parse_config(config)
    return tuple(
        Missing(requirement, have.get(requirement.option, "n"))
        for requirement in parse_fragment(fragment)
        if not requirement.met_by(have.get(requirement.option, "n"))
    )


def describe(lacks: tuple[Missing, ...]) -> str:
    """One line for each unmet requirement: what is wanted, what is there, what it is for."""
    return "\n".join(
        f"{lack.requirement.wanted()} (the kernel has: {lack.have})"
        + (f": {lack.requirement.purpose}" if lack.requirement.purpose else "")
        for lack in lacks
    )


def check_config(fragment: Path, config: Path, kernel: str) -> None:
    """Raise KernelConfigError naming all that `kernel` lacks; return if it lacks nothing."""
    lacks = missing(fragment.read_text(), config.read_text())
    if lacks:
        raise KernelConfigError(
            f"checking kernel {kernel} against {fragment.name}",
            f"{len(lacks)} option{'s' if len(lacks) > 1 else ''} not as djprobes needs",
            output=describe(lacks),
            hint="choose another kernel, or build one with the fragment merged in",
        )
