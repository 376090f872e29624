"""A djprobes without a kernel, for tests and for trying the API.

:class:`FakeDjprobes` is a RecordingTransport whose debugfs files behave as
docs/debugfs.md says: batches are all or nothing, refusals fill ``last_error``, hits are
set by the test. It knows the symbols that it is given and decodes nothing.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from pyctl.control import DEBUGFS, NAME, ProbeStatus, Stats
from pyctl.probes import default_name
from pyctl.reasons import Reason
from pyctl.transport.recording import RecordingTransport

TARGET = re.compile(r"(?:(\w+):)?([A-Za-z_.][\w.]*)(?:\+(0x[0-9a-f]+|\d+))?|(0x[0-9a-f]+)")
FTRACE_BYTES = 5
COMPUTED = {"probes", "sites", "sites_jump", "sites_bypass", "extra"}
STATS_ZERO = tuple(item.name for item in fields(Stats) if item.name not in COMPUTED)


@dataclass(frozen=True)
class _Refusal(Exception):  # noqa: N818 (never leaves this file)
    errno: int
    reason: Reason
    token: str
    message: str
    hint: str = "-"
    offending: str = "-"


class FakeDjprobes(RecordingTransport):
    """``symbols`` maps function names to addresses; every function starts with an ftrace
    site. ``refused`` maps a name to the reason for which it can't be probed. ``deferring``
    names stay in bypass at a commit."""

    def __init__(
        self,
        symbols: Mapping[str, int],
        *,
        refused: Mapping[str, Reason] | None = None,
        deferring: Iterable[str] = (),
        loaded: bool = True,
    ) -> None:
        super().__init__()
        self.symbols = dict(symbols)
        self.refused = dict(refused or {})
        self.deferring = set(deferring)
        self.table: dict[str, ProbeStatus] = {}
        self.counters = dict.fromkeys(STATS_ZERO, 0)
        self._last_error = ""
        self._explained = ""
        self._strategy = "freezer"
        if loaded:
            self.load()

    def load(self) -> None:
        """Make the debugfs files appear."""
        self.files |= {
            f"{DEBUGFS}/probes": self._show_probes,
            f"{DEBUGFS}/last_error": lambda: self._last_error,
            f"{DEBUGFS}/explain": lambda: self._explained,
            f"{DEBUGFS}/stats": self._show_stats,
            f"{DEBUGFS}/strategy": lambda: f"[{self._strategy}]\n",
            f"{DEBUGFS}/features": "strategy_freezer yes\nsymbol text_poke yes\n"
            "symbol execmem_alloc no\nbranch_map_targets 812345\n",
        }
        self.writers |= {
            f"{DEBUGFS}/control": self._control,
            f"{DEBUGFS}/explain": self._explain,
            f"{DEBUGFS}/strategy": self._choose,
        }

    def unload(self) -> None:
        """Make them go."""
        for path in [path for path in self.files if path.startswith(DEBUGFS)]:
            del self.files[path]
        self.writers.clear()
        self.table.clear()

    def hit(self, name: str, count: int = 1) -> None:
        """Let a probe fire, unless it is disabled."""
        status = self.table[name]
        if status.state in {"bypass", "jump"}:
            self.table[name] = replace(status, hits=status.hits + count)

    def _control(self, data: bytes) -> None:
        table = dict(self.table)
        commits = 0
        order = {"-": 0, "p": 1, "d": 2, "e": 2, "c": 3}
        lines = list(enumerate(data.decode().splitlines(), start=1))
        todo = [(n, line) for n, line in lines if line.strip() and line.strip()[0] != "#"]
        for number, line in sorted(todo, key=lambda item: order.get(item[1].strip()[0], 0)):
            try:
                commits += self._command(table, line.split())
            except _Refusal as refusal:
                self._refuse(refusal, number, line)
        self.table = table
        self._last_error = ""
        if commits:
            self._commit()

    def _command(self, table: dict[str, ProbeStatus], words: list[str]) -> int:
        verb = words[0]
        if verb == "commit":
            return 1
        if verb == "-*":
            table.clear()
        elif verb.startswith("-:"):
            table.pop(_known(table, verb[2:]))
        elif verb in {"enable", "disable"} and len(words) == 2:
            name = _known(table, words[1])
            state = "disabled" if verb == "disable" else "bypass"
            table[name] = replace(table[name], state=state)
        elif verb.startswith("p") and len(words) in {2, 3}:
            self._add(table, verb, words)
        else:
            raise _Refusal(errno.EINVAL, Reason.SYNTAX, verb, "this is not a command")
        return 0

    def _add(self, table: dict[str, ProbeStatus], verb: str, words: list[str]) -> None:
        name = verb[2:] if verb.startswith("p:") else default_name(words[1])
        if not NAME.fullmatch(name):
            raise _Refusal(errno.EINVAL, Reason.BAD_NAME, name, "this is not a probe name")
        if name in table:
            raise _Refusal(errno.EEXIST, Reason.DUPLICATE_NAME, name, "a probe of this name exists")
        address, symbol, reason = self._resolve(words[1])
        if reason is not Reason.OK:
            raise _Refusal(
                errno.EBUSY, reason, words[1], "refused", offending=f"{address:#x} {symbol}"
            )
        action = words[2] if len(words) == 3 else "count"
        table[name] = ProbeStatus(name, symbol, address, "bypass", "jump", action, 0, 0)

    def _resolve(self, target: str) -> tuple[int, str, Reason]:
        match = TARGET.fullmatch(target)
        if not match:
            raise _Refusal(errno.EINVAL, Reason.SYNTAX, target, "this is not a target")
        module, symbol, offset, address = match.groups()
        if address:
            return int(address, 16), f"{address}+0x0", Reason.OK
        if symbol not in self.symbols:
            raise _Refusal(
                errno.ENOENT, Reason.SYMBOL_NOT_FOUND, target, "no such symbol", "see kallsyms"
            )
        distance = int(offset or "0", 0) or FTRACE_BYTES
        label = f"{module}:{symbol}" if module else symbol
        reason = self.refused.get(symbol, Reason.OK)
        return self.symbols[symbol] + distance, f"{label}+{distance:#x}", reason

    def _commit(self) -> None:
        waiting = [name for name, status in self.table.items() if status.state == "bypass"]
        ready = [name for name in waiting if name not in self.deferring]
        for name in ready:
            self.table[name] = replace(self.table[name], state="jump")
        self.counters["commits"] += 1
        self.counters["patched"] += len(ready)
        self.counters["deferred"] = len(waiting) - len(ready)
        self.counters["commits_partial"] += len(waiting) > len(ready)
        self.counters["last_stop_ns"] = 1_500_000
        self.counters["last_quiescence_ns"] = 9_000_000

    def _explain(self, data: bytes) -> None:
        line = data.decode().strip()
        try:
            address, symbol, reason = self._resolve(line)
        except _Refusal as refusal:
            self._refuse(refusal, 1, line)
        fine = reason is Reason.OK
        self._explained = (
            f"target: {line}\naddress: {address:#018x}\nsymbol: {symbol}\n"
            f"verdict: {'jump' if fine else 'refused'}\nmethod: {'jump' if fine else '-'}\n"
            f"reason: {reason}\nmessage: {'a jump can stand here' if fine else 'refused'}\n"
            f"hint: -\noffending: {'-' if fine else f'{address + 2:#x} {symbol}'}\n"
            "dcr: 41 57 41 56 41 55\nrelocations: +2:rip\n"
            f"ftrace: {address - FTRACE_BYTES:#x}\n"
        )

    def _choose(self, data: bytes) -> None:
        if data.decode().strip() != self._strategy:
            raise OSError(errno.EINVAL, "no such strategy")

    def _refuse(self, refusal: _Refusal, number: int, line: str) -> None:
        self._last_error = (
            f"line: {number}\ntext: {line}\ntoken: {refusal.token}\n"
            f"column: {line.rfind(refusal.token) + 1}\nreason: {refusal.reason}\n"
            f"message: {refusal.message}\nhint: {refusal.hint}\noffending: {refusal.offending}\n"
        )
        raise OSError(refusal.errno, refusal.message) from refusal

    def _show_probes(self) -> str:
        return "".join(
            f"{s.name} {s.target} {s.address:#018x} {s.state} {s.method} {s.action} "
            f"{s.hits} {s.missed}\n"
            for s in self.table.values()
        )

    def _show_stats(self) -> str:
        states = [status.state for status in self.table.values()]
        shown = {
            "probes": len(states),
            "sites": len({status.address for status in self.table.values()}),
            "sites_jump": states.count("jump"),
            "sites_bypass": states.count("bypass"),
            **self.counters,
        }
        return "".join(f"{key} {value}\n" for key, value in shown.items())


def _known(table: Mapping[str, ProbeStatus], name: str) -> str:
    if name not in table:
        raise _Refusal(errno.ENOENT, Reason.NO_SUCH_PROBE, name, "there is no probe of this name")
    return name
