"""Probes and commits, as several commands show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from pyctl.control import ProbeStatus
from pyctl.probes import CommitResult
from pyctl.reasons import Reason

#: Blockers that a commit names; `djp blockers` lists them all.
SHOWN_BLOCKERS = 3


def probe_table(rows: Sequence[ProbeStatus]) -> RenderableType:
    """A table of probes; what few have is a column only if one of these has it."""
    optional = any(row.options for row in rows)
    unreadable = any(row.unreadable for row in rows)
    table = Table(box=None, pad_edge=False)
    for title in ("name", "target"):
        table.add_column(title, overflow="fold")
    for title in ("address", "state", "method", "action"):
        table.add_column(title, no_wrap=True)
    for title in ("hits", "missed"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    if optional:
        table.add_column("options", overflow="fold")
    if unreadable:
        table.add_column("unreadable", justify="right", no_wrap=True)
    for row in rows:
        words = (row.name, row.target, f"{row.address:#x}", row.state, row.method or "-")
        reason = "-" if row.reason == Reason.OK else row.reason
        more = [f"{row.options}"] if optional else []
        more += [f"{row.unreadable:,}"] if unreadable else []
        table.add_row(*words, row.action, f"{row.hits:,}", f"{row.missed:,}", reason, *more)
    return table


def summary(rows: Sequence[ProbeStatus]) -> str:
    """Many probes in a sentence."""
    kinds = Counter(f"{row.method or row.state}" for row in rows)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return f"{len(rows):,} probes: {shown}"


def commit_line(done: CommitResult) -> str:
    """A commit in a sentence."""
    late = f", {done.deferred} deferred (they fire through the int3)" if done.deferred else ""
    lines = [
        f"{done.patched} sites patched{late}; no CPU stood still for longer than "
        f"{done.stop_ns / 1e6:.2f} ms, the quiescence took {done.quiescence_ns / 1e6:.1f} ms"
    ]
    lines += [f"  {one}" for one in done.blockers[:SHOWN_BLOCKERS]]
    if len(done.blockers) > SHOWN_BLOCKERS:
        lines.append(f"  and {len(done.blockers) - SHOWN_BLOCKERS} more: `djp blockers`")
    return "\n".join(lines)
