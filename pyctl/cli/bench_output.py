"""How every ``djp bench`` command gives its result: on the screen, as JSON, as a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from pyctl.cli.layout import screen, svg
from pyctl.cli.output import Reporter

WIDTH = 118

PictureOption = Annotated[
    Path | None,
    typer.Option("--svg", "--picture", help="Also write what is shown to this SVG file."),
]
SaveOption = Annotated[Path | None, typer.Option(help="Also write the JSON document to this file.")]
BootOption = Annotated[str, typer.Option(metavar="GUEST", help="Boot this one.")]


def give(
    report: Reporter,
    shown: RenderableType,
    document: Sequence[dict[str, Any]],
    *,
    command: str,
    as_json: bool,
    picture: Path | None,
    save: Path | None,
) -> None:
    """Show it, and write the files that were asked for."""
    console = screen(as_json, WIDTH)
    console.print(shown)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        name = f"djp-{command}"
        picture.write_text(svg(console, title=f"djp bench {command}", name=name))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(document, indent=2) + "\n")
    if as_json:
        report.result(document, shown)
    sys.stdout.flush()
