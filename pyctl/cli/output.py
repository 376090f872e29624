"""How commands speak: results on stdout, everything else on stderr.

With ``--json`` stdout is exactly one JSON document, also when the command fails.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pyctl.errors import DjprobesError
from pyctl.options import Condition, Field

#: Columns of what does not go to a terminal: nothing is cut off in a file or a pipe.
WIDTH = 200


class Reporter:
    """One command's voice. As a context manager it turns errors of the library into a
    message (or an error document) and exit status 1."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._told = False
        terminal = sys.stdout.isatty()
        self._out = Console(highlight=False, soft_wrap=True, width=None if terminal else WIDTH)
        self._err = Console(stderr=True, highlight=False)

    def result(
        self, document: object, shown: RenderableType | Callable[[], RenderableType]
    ) -> None:
        """The command's answer: ``document`` for programs, ``shown`` for people."""
        self._told = True
        if self._as_json:
            sys.stdout.write(json.dumps(plain(document), indent=2) + "\n")
            return
        self._out.print(shown() if callable(shown) else shown, markup=False)

    def note(self, text: str) -> None:
        """A remark, on stderr."""
        self._err.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes its time: a spinner on a terminal, a line otherwise.
        What is given to the callback is shown as well."""
        if not self._err.is_terminal:
            self.note(what)
            yield self.note
            return
        with self._err.status(what) as status:
            yield status.update

    @contextmanager
    def measuring(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show how far something is: a bar on a terminal, a line for every tenth otherwise.
        The callback takes how much is done, and of how much."""
        if self._err.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            with Progress(*columns, TimeElapsedColumn(), console=self._err) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
            return
        self.note(what)
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            tenth = 10 * done // total if total else 0
            if tenth > told:
                told = tenth
                self.note(f"{what}: {10 * tenth} %")

        yield tell

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        document = error_document(error)
        if document is None or error is None:
            return
        if self._as_json and not self._told:
            sys.stdout.write(json.dumps({"error": plain(document)}, indent=2) + "\n")
        self._err.print(f"djp: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def error_document(error: BaseException | None) -> dict[str, Any] | None:
    """An error of this project as data; None for others, which are bugs."""
    if isinstance(error, DjprobesError):
        return error.as_dict()
    # vm has its own family of errors; ask only what is loaded, to keep vm lazy.
    module = sys.modules.get("vm.errors")
    if module is not None and isinstance(error, module.VmError):
        return {"type": type(error).__name__, "message": str(error), **error.to_dict()}
    return None


def plain(value: object) -> Any:  # noqa: ANN401 (JSON)
    """Frozen values as what JSON knows; bytes become hexadecimal text, and fields and
    conditions what they are written as."""
    if isinstance(value, Condition | Field):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex(" ")
    return value
