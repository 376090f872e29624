"""How every ``djp bench`` command gives its result: on the screen, as JSON, as a picture."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import RenderableType

from pyctl.cli.layout import screen, svg
from pyctl.cli.output import Reporter

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDTH = 118

Row = TypeVar("Row")

PictureOption = Annotated[
    Path | None,
    typer.Option("--svg", "--picture", help="Also write what is shown to this SVG file."),
]
SaveOption = Annotated[Path | None, typer.Option(help="Also write the JSON document to this file.")]
BootOption = Annotated[str, typer.Option(metavar="GUEST", help="Boot this one.")]


def collected(
    report: Reporter, what: str, measure: Callable[..., Generator[Row, None, None]]
) -> list[Row]:
    """All that is measured, with what it says of its ``progress`` on the screen."""
    with report.doing(what) as progress, contextlib.closing(measure(progress=progress)) as steps:
        return list(steps)


def document(rows: Sequence[DataclassInstance]) -> list[dict[str, Any]]:
    """An array of objects with exactly the fields of the rows as keys."""
    return [asdict(row) for row in rows]


def give(
    report: Reporter,
    shown: RenderableType,
    rows: Sequence[DataclassInstance],
    *,
    command: str,
    as_json: bool,
    picture: Path | None,
    save: Path | None,
) -> None:
    """Show it, and write the files that were asked for; ``rows`` are for programs."""
    console = screen(as_json, WIDTH)
    console.print(shown)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        name = f"djp-{command}"
        picture.write_text(svg(console, title=f"djp bench {command}", name=name))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(document(rows), indent=2) + "\n")
    if as_json:
        report.result(document(rows), shown)
    sys.stdout.flush()
