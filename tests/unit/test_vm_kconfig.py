"""The kernel config check: parsing a fragment, matching, and the message."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.errors import ConfigError, KernelConfigError
from vm.images import SNIPPET
from vm.kconfig import check_config, missing, parse_config, parse_fragment

FRAGMENT = """\
# head of the file

# code can be loaded
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y

# a peer; as a module
# is fine
CONFIG_VETH=m

# would hide what is tested
# CONFIG_KASAN is not set

# a number
CONFIG_NR_CPUS=64
"""

GOOD = """\
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_VETH=m
# CONFIG_KASAN is not set
CONFIG_NR_CPUS=64
"""


def test_fragment_carries_the_comment_above_each_option() -> None:
    purposes = {need.option: need.purpose for need in parse_fragment(FRAGMENT)}
    assert purposes == {
        "CONFIG_MODULES": "code can be loaded",
        "CONFIG_MODULE_UNLOAD": "code can be loaded",
        "CONFIG_VETH": "a peer; as a module is fine",
        "CONFIG_KASAN": "would hide what is tested",
        "CONFIG_NR_CPUS": "a number",
    }


def test_good_config_meets_all() -> None:
    assert missing(FRAGMENT, GOOD) == ()


@pytest.mark.parametrize(
    ("old", "new", "lacks"),
    [
        ("CONFIG_MODULES=y", "# CONFIG_MODULES is not set", ["CONFIG_MODULES"]),
        ("CONFIG_MODULES=y", "CONFIG_MODULES=m", ["CONFIG_MODULES"]),
        ("CONFIG_VETH=m", "CONFIG_VETH=y", []),
        ("CONFIG_VETH=m", "", ["CONFIG_VETH"]),
        ("# CONFIG_KASAN is not set", "CONFIG_KASAN=y", ["CONFIG_KASAN"]),
        ("# CONFIG_KASAN is not set", "", []),
        ("CONFIG_NR_CPUS=64", "CONFIG_NR_CPUS=8", ["CONFIG_NR_CPUS"]),
    ],
)
def test_each_rule(old: str, new: str, lacks: list[str]) -> None:
    found = missing(FRAGMENT, GOOD.replace(old, new))
    assert [lack.requirement.option for lack in found] == lacks


def test_message_names_every_missing_option_and_its_purpose(tmp_path: Path) -> None:
    fragment, config = tmp_path / "Kconfig.snippet", tmp_path / "config"
    fragment.write_text(FRAGMENT)
    config.write_text("CONFIG_VETH=y\nCONFIG_NR_CPUS=8\n")
    with pytest.raises(KernelConfigError) as caught:
        check_config(fragment, config, "6.1.0-test")
    text = str(caught.value)
    assert "6.1.0-test" in text
    assert "CONFIG_MODULES=y (the kernel has: n): code can be loaded" in text
    assert "CONFIG_NR_CPUS=64 (the kernel has: 8): a number" in text
    assert "CONFIG_VETH" not in text


def test_a_line_that_is_no_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        parse_fragment("CONFIG_A=y\nselect B\n")


def test_strings_in_a_config_do_not_confuse() -> None:
    assert parse_config('CONFIG_X="a=b"\n# CONFIG_Y is not set\n\n') == {"CONFIG_X": '"a=b"'}


def test_the_snippet_of_the_project_says_why_for_every_option() -> None:
    needs = parse_fragment(SNIPPET.read_text())
    assert needs
    assert [need.option for need in needs if not need.purpose] == []
