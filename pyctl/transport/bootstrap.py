"""Start Python code of ours on a host where nothing of ours is installed.

The interpreter gets one short ``-c`` text, reads a length and that many bytes of JSON from
its stdin, and runs what is in there; stdin then belongs to that code. So nothing is left
behind on the host, and a process list shows one readable line.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping

#: Interprets what :func:`bundle` made. Must be valid in any Python 3.
LOADER = """
import json, sys, types
size = int(sys.stdin.buffer.readline())
bundle = json.loads(sys.stdin.buffer.read(size).decode())
for name, text in bundle["modules"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
exec(compile(bundle["main"], bundle["name"], "exec"), {"__name__": "__main__"})
""".strip()


def command(label: str, *arguments: str) -> list[str]:
    """The argv that waits for a bundle; ``label`` is for readers of a process list."""
    return ["python3", "-u", "-c", LOADER, label, *arguments]


def bundle(main: str, modules: tuple[str, ...] = ()) -> bytes:
    """What to send first: the source of module ``main``, and of the modules it imports."""
    sources: Mapping[str, str] = {name: source_of(name) for name in modules}
    text = json.dumps({"name": main, "main": source_of(main), "modules": sources}).encode()
    return b"%d\n" % len(text) + text


def source_of(module: str) -> str:
    """The source text of an importable module."""
    return inspect.getsource(importlib.import_module(module))
