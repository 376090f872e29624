"""What several commands show in the same way, on a terminal and as a picture."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 100
#: An SVG must not fetch anything from elsewhere.
FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}\s*")
INDENT = (0, 0, 0, 3)


def screen(as_json: bool, width: int = WIDTH) -> Console:
    """Where a command shows what it does; it remembers all, for the picture."""
    plain_console = Console()
    if plain_console.is_terminal:
        width = min(plain_console.width, width)
    file = io.StringIO() if as_json else sys.stdout
    return Console(file=file, record=True, width=width, highlight=False)


def svg(console: Console, *, title: str, name: str) -> str:
    """What the console has shown, as a picture that needs nothing from elsewhere."""
    drawn = console.export_svg(title=title, unique_id=name, clear=False)
    text = FONT_FACE.sub("", drawn).replace("Fira Code", "monospace")
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def section(title: str, body: RenderableType) -> RenderableType:
    """A title and what belongs to it."""
    return Group("", Text(title, style="bold cyan"), Padding(Group("", body), INDENT, expand=False))


def grid(rows: Sequence[tuple[str, RenderableType]]) -> RenderableType:
    """Words and what they stand for."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, min_width=16, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def key_table(rows: Mapping[str, object]) -> RenderableType:
    """Keys and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        word = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        table.add_row(key, word)
    return table
