"""A djprobes without a kernel, for tests and for trying the API.

:class:`FakeDjprobes` is a RecordingTransport whose debugfs files behave as
docs/debugfs.md says: batches are all or nothing, refusals fill ``last_error``, hits are
set by the test. It knows the symbols that it is given and decodes nothing; conditions and
samples are parsed and shown, but not evaluated.
"""

from __future__ import annotations

import errno
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from pyctl.control import DEBUGFS, NAME, PARAMETERS, Extent, ProbeStatus, Stats
from pyctl.maps import MapKind, bucket_of
from pyctl.methods import FIRING, Method, State
from pyctl.options import OptionError, Options
from pyctl.probes import default_name
from pyctl.quiescence import AUTO, Blocker, BlockerKind, Tunables
from pyctl.reasons import Reason
from pyctl.remote.symbols import nearest
from pyctl.symbols import LABEL
from pyctl.transport import Completed
from pyctl.transport.recording import Asked, RecordingTransport, ScriptedProcess

TARGET = re.compile(r"(?:(\w+):)?([A-Za-z_.][\w.]*)(?:\+(0x[0-9a-f]+|\d+))?|(0x[0-9a-f]+)")
FTRACE_BYTES = 5
#: What stands at every address: push %r15, push %r14, push %r13.
CODE = bytes.fromhex("415741564155")
INSN_LENGTH = 2
DETOURS = 0xFFFFFFFFC0400000
#: pushfq; incq %gs:0x1f2c0; popfq
COUNT = bytes.fromhex("9c6548ff0425c0f201009d")
STATES = {
    Method.JUMP: State.BYPASS,
    Method.JUMP_INT3: State.BYPASS,
    Method.INT3: State.INT3,
    Method.KPROBE: State.KPROBE,
}
#: A small kernel: 1,000 instructions and a module's 100.
CENSUS = """\
progress 0 6000
progress 3000 6000
progress 6000 6000
kernel 6.1.0-fake
sites 1100
padding 12
method jump 1030
method jump+int3 40
method int3 10
method kprobe 15
method refused 5
reason ok 1030
reason branch-target 48
reason extable 17
reason blacklist 5
cell jump ok 1030
cell jump+int3 branch-target 40
cell int3 branch-target 8
cell int3 extable 2
cell kprobe extable 15
cell refused blacklist 5
peer kprobe 1090
peer optprobe 580
part kernel 5500 1000 10 940 30 10 15 5 990 530
part veth 500 100 2 90 10 0 0 0 100 50
ns 1500000000
"""
STRATEGIES = (AUTO, "rendezvous", "fixup", "stackscan", "freezer", "rcu_tasks")
#: Who is in the way of whatever is ``deferring`` or ``stuck``.
HOLDER = Blocker("", 0, "", 4711, 0xFFFFFFFF81000107, "vfs_write+0x7", "kworker/1:2 busy")
COMPUTED = {
    *("probes", "sites", "sites_jump", "sites_bypass", "sites_int3", "sites_kprobe", "extra"),
    "detours_retired",
}
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
    site. ``refused`` maps a name to the reason for which it can't be probed, ``methods`` to
    another method than a jump and the reason for it. ``deferring`` names stay in bypass at
    a commit, the retired detours of ``stuck`` names are not freed, because of the task
    ``holder``. ``explanations`` maps a target to all that ``explain`` shall answer, and
    ``census`` is that file's text."""

    def __init__(
        self,
        symbols: Mapping[str, int],
        *,
        refused: Mapping[str, Reason] | None = None,
        methods: Mapping[str, tuple[Method, Reason]] | None = None,
        deferring: Iterable[str] = (),
        loaded: bool = True,
    ) -> None:
        super().__init__()
        self.symbols = dict(symbols)
        self.refused = dict(refused or {})
        self.methods = dict(methods or {})
        self.explanations: dict[str, str] = {}
        self.census = CENSUS
        self.deferring = set(deferring)
        self.stuck: set[str] = set()
        self.holder = HOLDER
        self.retired: dict[str, ProbeStatus] = {}
        self.table: dict[str, ProbeStatus] = {}
        self.counters = dict.fromkeys(STATS_ZERO, 0)
        #: What probes with ``hist=`` or ``by=`` counted: by probe, kind and key.
        self.maps: Counter[tuple[str, MapKind, str]] = Counter()
        self.generation = 1
        self._fired: set[str] = set()
        self._last_error = ""
        self._explained = ""
        self._strategy = AUTO
        self._blockers: list[Blocker] = []
        self.unload()
        if loaded:
            self.load()

    def load(self) -> None:
        """Make the debugfs files appear."""
        self.files |= {
            f"{DEBUGFS}/probes": self._show_probes,
            f"{DEBUGFS}/hits": self._show_hits,
            f"{DEBUGFS}/maps": self._show_maps,
            f"{DEBUGFS}/last_error": lambda: self._last_error,
            f"{DEBUGFS}/explain": lambda: self._explained,
            f"{DEBUGFS}/stats": self._show_stats,
            f"{DEBUGFS}/strategy": self._show_strategies,
            f"{DEBUGFS}/blockers": self._show_blockers,
            f"{DEBUGFS}/features": "strategy_freezer yes\nsymbol text_poke yes\n"
            "symbol execmem_alloc no\nbranch_map_targets 812345\nauto_strategy rendezvous\n",
        }
        self.files |= {
            f"{PARAMETERS}/{item.name}": f"{item.default}\n" for item in fields(Tunables)
        }
        self.writers |= {
            f"{DEBUGFS}/control": self._control,
            f"{DEBUGFS}/explain": self._explain,
            f"{DEBUGFS}/strategy": self._choose,
        }
        self.processes["cat", f"{DEBUGFS}/census"] = lambda: _said(self.census)

    def unload(self) -> None:
        """Make them go."""
        for path in [path for path in self.files if path.startswith((DEBUGFS, PARAMETERS))]:
            del self.files[path]
        self.writers.clear()
        self.processes["cat", f"{DEBUGFS}/census"] = lambda: _said("", status=1)
        self.table.clear()
        self.retired.clear()

    def hit(
        self, name: str, count: int = 1, *, key: str | int = 0, unreadable: bool = False
    ) -> None:
        """Let a probe fire, unless it is disabled, and be counted, unless what it has to look
        at is ``unreadable``. ``key`` is what its map counts it by: for ``hist`` the value."""
        status = self.table[name]
        if status.state not in FIRING or name in self._fired:
            return
        if unreadable:
            self.table[name] = replace(status, unreadable=status.unreadable + count)
            return
        options = status.options
        assert isinstance(options, Options)
        if options.once:
            count = min(count, 1)
            self._fired.add(name)
        if options.hist is not None:
            self.maps[name, MapKind.HIST, bucket_of(int(key))] += count
        elif options.by is not None:
            self.maps[name, MapKind(options.by), f"{key}"] += count
        self.table[name] = replace(status, hits=status.hits + count)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """As scripted; names of addresses are those of ``symbols``."""
        if LABEL in argv and ("python3",) not in self.results:
            lines = [f"{address:016x} t {name}" for name, address in self.symbols.items()]
            answer = json.dumps(nearest(lines, json.loads(argv[-1])))
            self.log.append(Asked("run", tuple(argv), input))
            return Completed(tuple(argv), 0, answer.encode(), b"")
        return super().run(argv, input=input, timeout=timeout, check=check)

    def _control(self, data: bytes) -> None:
        table = dict(self.table)
        last: set[str] = set()
        order = {"-": 0, "p": 1, "d": 2, "e": 2, "c": 3, "r": 3}
        lines = list(enumerate(data.decode().splitlines(), start=1))
        todo = [(n, line) for n, line in lines if line.strip() and line.strip()[0] != "#"]
        for number, line in sorted(todo, key=lambda item: order.get(item[1].strip()[0], 0)):
            try:
                last |= self._command(table, line.split())
            except _Refusal as refusal:
                self._refuse(refusal, number, line)
        gone = self.table.keys() - table.keys()
        for name in gone:
            if self.table[name].detour:
                self.retired[name] = self.table[name]
        self.generation += any(line.strip()[0] in "p-" for _, line in todo)
        for key in [key for key in self.maps if key[0] in gone]:
            del self.maps[key]
        self._fired &= table.keys()
        for name in self._fired:
            table[name] = replace(table[name], state=State.SPENT)
        self.table = table
        self._last_error = ""
        if "commit" in last:
            self._commit()
        if "reclaim" in last and self._reclaim():
            number, line = next(item for item in lines if item[1].split() == ["reclaim"])
            busy = Reason.DETOURS_BUSY
            where = f"{self.holder.address:#x} {self.holder.address_symbol}"
            late = _Refusal(errno.EBUSY, busy, "reclaim", busy.sentence, busy.hint, where)
            self._refuse(late, number, line, owner=self.holder.task)

    def _command(self, table: dict[str, ProbeStatus], words: list[str]) -> set[str]:
        """Change ``table``; what is to be done when the whole batch is accepted."""
        verb = words[0]
        if verb in {"commit", "reclaim"}:
            return {verb}
        if verb == "-*":
            table.clear()
        elif verb.startswith("-:"):
            table.pop(_known(table, verb[2:]))
        elif verb in {"enable", "disable"} and len(words) == 2:
            name = _known(table, words[1])
            method = table[name].method
            assert isinstance(method, Method)
            state = State.DISABLED if verb == "disable" else STATES[method]
            if verb == "disable" or table[name].state not in FIRING:
                table[name] = replace(table[name], state=state)
                self._fired.discard(name)
        elif verb.startswith("p") and len(words) > 1:
            self._add(table, verb, words)
        else:
            raise _Refusal(errno.EINVAL, Reason.SYNTAX, verb, "this is not a command")
        return set()

    def _add(self, table: dict[str, ProbeStatus], verb: str, words: list[str]) -> None:
        name = verb[2:] if verb.startswith("p:") else default_name(words[1])
        if not NAME.fullmatch(name):
            raise _Refusal(errno.EINVAL, Reason.BAD_NAME, name, "this is not a probe name")
        if name in table:
            raise _Refusal(errno.EEXIST, Reason.DUPLICATE_NAME, name, "a probe of this name exists")
        address, symbol, judged, reason = self._resolve(words[1])
        asked = [word.partition("=")[2] for word in words[2:] if word.startswith("method=")]
        options = _options([word for word in words[2:] if not word.startswith("method=")])
        method = Method(asked[0]) if asked else judged
        jumps = {Method.JUMP, Method.JUMP_INT3}
        if judged is Method.REFUSED or (method is not judged and method in jumps):
            raise _Refusal(
                errno.EBUSY, reason, words[1], "refused", offending=f"{address:#x} {symbol}"
            )
        table[name] = ProbeStatus(
            name=name,
            target=symbol,
            address=address,
            state=STATES[method],
            method=method,
            action="count",
            hits=0,
            missed=0,
            reason=reason,
            detour=_detour_extent(address, method),
            options=options,
        )

    def _resolve(self, target: str) -> tuple[int, str, Method, Reason]:
        match = TARGET.fullmatch(target)
        if not match:
            raise _Refusal(errno.EINVAL, Reason.SYNTAX, target, "this is not a target")
        module, symbol, offset, address = match.groups()
        if address:
            return int(address, 16), f"{address}+0x0", Method.JUMP, Reason.OK
        if symbol not in self.symbols:
            raise _Refusal(
                errno.ENOENT, Reason.SYMBOL_NOT_FOUND, target, "no such symbol", "see kallsyms"
            )
        distance = int(offset or "0", 0) or FTRACE_BYTES
        label = f"{module}:{symbol}" if module else symbol
        method, reason = self.methods.get(symbol, (Method.JUMP, Reason.OK))
        if symbol in self.refused:
            method, reason = Method.REFUSED, self.refused[symbol]
        return self.symbols[symbol] + distance, f"{label}+{distance:#x}", method, reason

    def _commit(self) -> None:
        waiting = [name for name, status in self.table.items() if status.state is State.BYPASS]
        ready = [name for name in waiting if name not in self.deferring]
        for name in ready:
            self.table[name] = replace(self.table[name], state=State.JUMP)
        self.counters["commits"] += 1
        self.counters["patched"] += len(ready)
        self.counters["deferred"] = len(waiting) - len(ready)
        self.counters["commits_partial"] += len(waiting) > len(ready)
        self.counters["last_stop_ns"] = 1_500_000
        self.counters["last_quiescence_ns"] = 9_000_000
        self._reclaim()
        self._blockers += [
            self._blocker(BlockerKind.JUMP, self.table[name])
            for name in waiting
            if name in self.deferring
        ]

    def _reclaim(self) -> bool:
        """Free retired detours; whether some are left."""
        kept = {name: status for name, status in self.retired.items() if name in self.stuck}
        self.counters["detours_reclaimed"] += len(self.retired) - len(kept)
        self.retired = kept
        self._blockers = [self._blocker(BlockerKind.RECLAIM, one) for one in kept.values()]
        return bool(kept)

    def _blocker(self, kind: BlockerKind, status: ProbeStatus) -> Blocker:
        return replace(self.holder, kind=kind, site=status.address, site_symbol=status.target)

    def _explain(self, data: bytes) -> None:
        line = data.decode().strip()
        if line in self.explanations:
            self._explained = self.explanations[line]
            return
        target, *words = line.split()
        try:
            _options(words)
            address, symbol, method, reason = self._resolve(target)
        except _Refusal as refusal:
            self._refuse(refusal, 1, line)
        states = [s.state for s in self.table.values() if s.address == address]
        self._explained = _explanation(target, address, symbol, method, reason) + (
            f"state: {states[0] if states else '-'}\nflags: live\n"
            f"flags_by: {address:#018x} {symbol}\n"
        )

    def _choose(self, data: bytes) -> None:
        if data.decode().strip() not in STRATEGIES:
            raise OSError(errno.EINVAL, "no such strategy")
        self._strategy = data.decode().strip()

    def _refuse(self, refusal: _Refusal, number: int, line: str, *, owner: str = "-") -> None:
        self._last_error = (
            f"line: {number}\ntext: {line}\ntoken: {refusal.token}\n"
            f"column: {line.rfind(refusal.token) + 1}\nreason: {refusal.reason}\n"
            f"message: {refusal.message}\nhint: {refusal.hint}\noffending: {refusal.offending}\n"
            f"owner: {owner}\n"
        )
        raise OSError(refusal.errno, refusal.message) from refusal

    def _show_probes(self) -> str:
        return "".join(
            f"{s.name} {s.target} {s.address:#018x} {s.state} {s.method} {s.action} "
            f"{s.hits} {s.missed} {s.reason} "
            f"{f'{s.detour.address:#x}+{s.detour.length}' if s.detour else '-'} "
            f"{s.options} {s.unreadable}\n"
            for s in self.table.values()
        )

    def _show_hits(self) -> str:
        lines = [f"{self.generation} {len(self.table)}"]
        lines += [f"{status.hits}" for status in self.table.values()]
        return "".join(f"{line}\n" for line in lines)

    def _show_maps(self) -> str:
        return "".join(
            f"{name} {kind} {count} {_escape(key)}\n"
            for (name, kind, key), count in self.maps.items()
        )

    def _show_strategies(self) -> str:
        words = (f"[{name}]" if name == self._strategy else name for name in STRATEGIES)
        return " ".join(words) + "\n"

    def _show_blockers(self) -> str:
        return "".join(
            f"{b.kind} {b.site:#018x} {b.site_symbol} {b.pid} {b.address:#018x} "
            f"{b.address_symbol} {b.comm}\n"
            for b in self._blockers
        )

    def _show_stats(self) -> str:
        states = [status.state for status in self.table.values()]
        shown = {
            "probes": len(states),
            "sites": len({status.address for status in self.table.values()}),
            "sites_jump": states.count("jump"),
            "sites_bypass": states.count("bypass"),
            "sites_int3": states.count("int3"),
            "sites_kprobe": states.count("kprobe"),
            **self.counters,
            "detours_retired": len(self.retired),
        }
        return "".join(f"{key} {value}\n" for key, value in shown.items())


def _known(table: Mapping[str, ProbeStatus], name: str) -> str:
    if name not in table:
        raise _Refusal(errno.ENOENT, Reason.NO_SUCH_PROBE, name, "there is no probe of this name")
    return name


def _options(words: Sequence[str]) -> Options:
    """What stands behind the target, ``count`` first."""
    try:
        return Options.from_words([word for word in words if word != "count"])
    except OptionError as error:
        number = errno.EOPNOTSUPP if error.reason is Reason.NOT_SUPPORTED else errno.EINVAL
        raise _Refusal(
            number, error.reason, error.token, error.reason.sentence, error.reason.hint
        ) from error


def _escape(key: str) -> str:
    return key.replace("\\", "\\134").replace("\n", "\\012")


def _said(text: str, status: int = 0) -> ScriptedProcess:
    """A program that says this, and ends."""
    process = ScriptedProcess(first=text.splitlines(), status=status)
    process.ended = True
    return process


def _detour_extent(address: int, method: Method) -> Extent | None:
    if method in {Method.KPROBE, Method.REFUSED}:
        return None
    length = len(COUNT) + (INSN_LENGTH if method is Method.INT3 else len(CODE)) + 5
    return Extent(DETOURS + (address & 0xFFFF) * 64, length)


def _explanation(target: str, address: int, symbol: str, method: Method, reason: Reason) -> str:
    """What ``explain`` says, but for the state."""
    fine, jumps = reason is Reason.OK, method in {Method.JUMP, Method.JUMP_INT3}
    verdict = "jump" if jumps else "refused" if method is Method.REFUSED else "fallback"
    dcr = CODE[:INSN_LENGTH] if method in {Method.INT3, Method.KPROBE} else CODE
    detour, entries, text = "-", "-", "-"
    place = _detour_extent(address, method)
    if place is not None:
        start = place.address + len(COUNT)
        offsets = range(0, len(dcr), INSN_LENGTH)
        entries = " ".join(f"+{offset}:{start + offset:#x}" for offset in offsets)
        back = struct.pack("<i", address - start - 5)  # the same for any length of the region
        code = COUNT + dcr + b"\xe9" + back
        detour = f"{place.address:#x} {code.hex(' ')}"
        text = "cc"
    if jumps:
        text = "e9 xx cc xx xx" if method is Method.JUMP_INT3 else "e9 xx xx xx xx"
    return (
        f"target: {target}\naddress: {address:#018x}\nsymbol: {symbol}\n"
        f"verdict: {verdict}\nmethod: {'-' if method is Method.REFUSED else method}\n"
        f"reason: {reason}\nmessage: {reason.sentence}\nhint: {reason.hint}\n"
        f"offending: {'-' if fine else f'{address + 2:#x} {symbol}'}\n"
        f"dcr: {dcr.hex(' ')}\nrelocations: none\n"
        f"ftrace: {address - FTRACE_BYTES:#x}\n"
        f"source: {'-' if fine else f'branch {address + 0x40:#x} {symbol}'}\n"
        f"traps: {'+2' if method is Method.JUMP_INT3 else 'none'}\n"
        f"text: {text}\ndetour: {detour}\nentries: {entries}\n"
    )
