"""Probes as objects.

    with Probes(transport) as probes:
        read = probes.add("vfs_read")
        probes.commit()
        ...
        print(read.hits, read.method)

Leaving the context removes the probes that it added, and only those.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from pyctl.census import Census, Progress
from pyctl.control import (
    DEBUGFS,
    MAX_NAME,
    Control,
    Features,
    ProbeStatus,
    Stats,
    check_method,
    check_name,
    check_target,
)
from pyctl.errors import ControlError, DjprobesError, UnsupportedError, UsageError
from pyctl.explanation import Explanation
from pyctl.hits import HitReader
from pyctl.maps import MapEntry
from pyctl.methods import FIRING, Method, State
from pyctl.options import Options
from pyctl.quiescence import AUTO, Blocker, Tunables
from pyctl.reasons import Reason
from pyctl.transport import Transport

ACTIONS = ("count",)


class AddPhase(StrEnum):
    """What adding many probes is at."""

    #: The text goes to the host; it is counted in bytes.
    SENDING = "sending"
    #: The kernel checks and writes them all, in one step that tells nothing before its end
    #: (the file ``stats`` waits for it, too); it is counted in probes.
    APPLYING = "applying"


#: What is being done, how much of it is done, and of how much.
AddProgress = Callable[[AddPhase, int, int], None]


@dataclass(frozen=True)
class CommitResult:
    """What one commit did.

    ``patched`` sites went from bypass to jump, ``deferred`` sites have to wait (they fire
    through the int3 meanwhile). Sites of the methods int3 and kprobe are in neither: they
    wait for nothing. ``stop_ns`` is the longest time that a CPU was kept from running tasks,
    ``quiescence_ns`` the whole quiescence; ``seconds`` is what the caller waited.
    ``stats`` are those after the commit; ``blockers``, if something was left for later, what
    and why, at most 64.
    """

    patched: int
    deferred: int
    stop_ns: int
    quiescence_ns: int
    seconds: float
    stats: Stats
    blockers: tuple[Blocker, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing was left for later."""
        return self.deferred == 0


class Probe:
    """One probe. Every attribute but ``name`` and ``asked`` is read live from the kernel;
    after removal the last reading stays."""

    def __init__(self, owner: Probes, name: str, asked: str) -> None:
        self._owner = owner
        self._name = name
        self._asked = asked
        self._final: ProbeStatus | None = None

    def __repr__(self) -> str:
        state = "removed" if self._final else "live"
        return f"<Probe {self._name} at {self._asked}, {state}>"

    @property
    def name(self) -> str:
        """Its name in the kernel."""
        return self._name

    @property
    def asked(self) -> str:
        """The target as it was asked for."""
        return self._asked

    @property
    def removed(self) -> bool:
        """Whether it has been taken away; then the values are the last ones."""
        return self._final is not None

    @property
    def status(self) -> ProbeStatus:
        """All values in one reading."""
        return self._final or self._owner.status(self._name)

    @property
    def target(self) -> str:
        """``[MOD:]SYM+0xOFF`` of the insertion address (behind an ftrace site, if any)."""
        return self.status.target

    @property
    def address(self) -> int:
        """The insertion address."""
        return self.status.address

    @property
    def state(self) -> State | str:
        """What stands at its address now."""
        return self.status.state

    @property
    def method(self) -> Method | str | None:
        """How it is reached, or will be after a commit; None if its module has gone."""
        return self.status.method

    @property
    def reason(self) -> Reason | str:
        """Why it is not a plain jump; ``Reason.OK`` if it is one."""
        return self.status.reason

    @property
    def hits(self) -> int:
        """How often it was reached, on all CPUs, with all that its options ask for."""
        return self.status.hits

    @property
    def options(self) -> Options | str:
        """What it was added with."""
        return self.status.options

    @property
    def unreadable(self) -> int:
        """How often it was reached and a field could not be read; these are no hits."""
        return self.status.unreadable

    @property
    def missed(self) -> int:
        """Handler calls refused because the handler had reached its own probe."""
        return self.status.missed

    def enable(self) -> None:
        """Put it back after ``disable``."""
        self._owner.enable(self)

    def disable(self) -> None:
        """Take it out of the text; the count stays."""
        self._owner.disable(self)

    def remove(self) -> None:
        """Take it away for good."""
        self._owner.remove(self)

    def _finish(self, status: ProbeStatus) -> None:
        self._final = status


class Probes:
    """The probes on one host. A context manager: what was added in it is removed at its end."""

    def __init__(self, transport: Transport, root: str = DEBUGFS) -> None:
        self._control = Control(transport, root)
        self._mine: dict[str, Probe] = {}
        self._reader = HitReader(self._control)

    @property
    def control(self) -> Control:
        """The files below."""
        return self._control

    def add(
        self,
        target: str,
        *,
        name: str | None = None,
        fetch: Mapping[str, str] | None = None,
        action: str = "count",
        method: Method | str | None = None,
        options: Options | None = None,
    ) -> Probe:
        """Add a probe at ``target``: ``[MOD:]SYM[+OFF]`` or ``0xADDR``.

        It fires at once, through an int3; ``commit`` makes it a jump if one can stand there.
        ``method`` asks for exactly that one; without it the kernel takes the cheapest that
        it can. ``options`` say which hits count and what is kept of them. Raises
        ControlError with the kernel's reason when it is refused.
        """
        if fetch:
            raise UnsupportedError(
                f"fetch={dict(fetch)!r} needs the action 'trace', "
                "which this version of the kernel module does not have",
                hint="leave fetch out: the probe then counts its hits",
            )
        names = None if name is None else [name]
        made = self.add_many([target], names=names, action=action, method=method, options=options)
        return made[0]

    def add_many(
        self,
        targets: Iterable[str],
        *,
        names: Sequence[str] | None = None,
        action: str = "count",
        method: Method | str | None = None,
        options: Options | Sequence[Options | None] | None = None,
        progress: AddProgress | None = None,
    ) -> list[Probe]:
        """Add many probes in one write: all of them or, with a ControlError, none.

        ``options`` are for all of them, or one for each target. ``progress`` hears what is
        being done; thousands of probes take seconds.
        """
        wanted = [check_target(target) for target in targets]
        if action not in ACTIONS:
            raise UnsupportedError(
                f"this version of the kernel module has no action {action!r}",
                hint=f"it has {', '.join(ACTIONS)}",
            )
        if names is not None and len(names) != len(wanted):
            raise UsageError(f"{len(wanted)} targets but {len(names)} names")
        words = action if method is None else f"{action} method={check_method(method)}"
        tails = [" ".join([words, *one.words()]) for one in _each(options, len(wanted))]
        if names is not None:
            chosen: Sequence[str] = [check_name(name) for name in names]
            self._submit_add(chosen, wanted, tails, progress)
        else:
            chosen = self._submit_add_named(wanted, tails, progress)
        made = [Probe(self, name, asked) for name, asked in zip(chosen, wanted, strict=True)]
        self._mine.update((probe.name, probe) for probe in made)
        return made

    def remove(self, *probes: Probe | str) -> None:
        """Remove probes, by object or name, in one batch, and keep their last counts.

        A probe of ours is disabled first and read while it can't fire, so that no hit
        falls between the last reading and the removal.
        """
        names = [_name(probe) for probe in probes]
        objects = [self._mine[name] for name in names if name in self._mine]
        objects += [p for p in probes if isinstance(p, Probe) and p not in objects]
        live = {status.name: status for status in self._control.probes()}
        for name in names:
            if name not in live and not any(p.name == name and p.removed for p in objects):
                raise UsageError(f"there is no probe {name!r}", hint="`djp ls` lists them")
        names = [name for name in names if name in live]
        firing = [p.name for p in objects if p.name in live and _fires(live[p.name])]
        if firing:
            self._control.submit([f"disable {name}" for name in firing])
            live = {status.name: status for status in self._control.probes()}
        self._control.submit([f"-:{name}" for name in names])
        for probe in objects:
            if probe.name in live and not probe.removed:
                probe._finish(live[probe.name])
            self._mine.pop(probe.name, None)

    def remove_all(self) -> None:
        """Remove every probe made through debugfs, also those of others."""
        live = {status.name: status for status in self._control.probes()}
        mine = [name for name in self._mine if name in live and _fires(live[name])]
        if mine:
            self._control.submit([f"disable {name}" for name in mine])
            live = {status.name: status for status in self._control.probes()}
        self._control.submit(["-*"])
        self._forget(live)

    def enable(self, *probes: Probe | str) -> None:
        """Put disabled probes back, in one batch."""
        self._control.submit([f"enable {check_name(_name(probe))}" for probe in probes])

    def disable(self, *probes: Probe | str) -> None:
        """Take probes out of the text, in one batch; their counts stay."""
        self._control.submit([f"disable {check_name(_name(probe))}" for probe in probes])

    def commit(self) -> CommitResult:
        """One quiescence for all probes that wait for their jump, or for their removal."""
        before = self._control.stats()
        start = time.monotonic()
        self._control.submit(["commit"])
        seconds = time.monotonic() - start
        after = self._control.stats()
        return CommitResult(
            patched=after.patched - before.patched,
            deferred=after.deferred,
            stop_ns=after.last_stop_ns,
            quiescence_ns=after.last_quiescence_ns,
            seconds=seconds,
            stats=after,
            blockers=self.blockers() if after.deferred else (),
        )

    def reclaim(self) -> None:
        """Free all retired detours now; bounded, as ``commit`` is.

        ControlError with ``Reason.DETOURS_BUSY`` and the task as ``owner`` if some are still
        in use at the deadline; :meth:`blockers` then names them all.
        """
        self._control.reclaim()

    def blockers(self) -> tuple[Blocker, ...]:
        """What the last quiescence could not do, and the tasks in the way; at most 64."""
        return self._control.blockers()

    def list(self) -> list[ProbeStatus]:
        """All probes on the host, whoever made them, in one reading."""
        return self._control.probes()

    def hits(self) -> dict[str, int]:
        """Name and hits of the probes of this object, in one reading."""
        return {name: hits for name, hits in self.read_hits().items() if name in self._mine}

    def read_hits(self) -> dict[str, int]:
        """Name and hits of all probes on the host, in one reading: of the file ``hits``,
        which is short. Names are read again only when a probe was added or removed. Probes
        of other modules have no names of their own: those of one handler are added up."""
        reading = self._reader.read()
        found: Counter[str] = Counter()
        for status, hits in zip(reading.probes, reading.hits, strict=True):
            found[status.name] += hits
        return dict(found)

    def maps(self) -> tuple[MapEntry, ...]:
        """What all probes with the options ``hist`` or ``by`` have counted; the counts of a
        probe add up to its hits."""
        return self._control.maps()

    def status(self, name: str) -> ProbeStatus:
        """One probe's line; UsageError if there is none of that name."""
        for status in self._control.probes():
            if status.name == name:
                return status
        raise UsageError(
            f"there is no probe {name!r} any more",
            hint="somebody else removed it, or the module was loaded anew",
        )

    def explain(self, target: str, options: Options | None = None) -> Explanation:
        """How ``target`` could be probed, with ``options``, and if not by a jump, why."""
        return self._control.explain(target, options)

    def census(self, *, progress: Progress | None = None) -> Census:
        """Every instruction of the running kernel and its modules, judged in the kernel.

        Takes tens of seconds on an emulated guest; ``progress`` hears meanwhile how many
        bytes of text are judged, of how many.
        """
        return self._control.census(progress)

    def stats(self) -> Stats:
        """The counters of the whole module."""
        return self._control.stats()

    def features(self) -> Features:
        """What the running kernel offers."""
        return self._control.features()

    @property
    def strategy(self) -> str:
        """The quiescence strategy in use, ``auto`` perhaps; assign a name to choose another."""
        return self._control.strategies().current

    @strategy.setter
    def strategy(self, name: str) -> None:
        self._control.choose_strategy(name)

    @property
    def auto_strategy(self) -> str:
        """What ``auto`` stands for on this kernel: the best sound strategy that it offers."""
        name = self._control.features().values.get("auto_strategy")
        if not isinstance(name, str):
            raise UnsupportedError(
                f"this kernel module does not say what the strategy {AUTO!r} is",
                hint="it is older than this program",
            )
        return name

    @property
    def tunables(self) -> Tunables:
        """Deadline and reclaim thresholds; assign a :class:`Tunables` to change them, say
        ``dataclasses.replace(probes.tunables, deadline_ms=500)``."""
        return self._control.tunables()

    @tunables.setter
    def tunables(self, wanted: Tunables) -> None:
        self._control.tune(wanted)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies there are."""
        return self._control.strategies().available

    def close(self) -> None:
        """Remove the probes that were added through this object and still exist."""
        if not self._mine:
            return
        live = {status.name for status in self._control.probes()}
        self._mine = {name: probe for name, probe in self._mine.items() if name in live}
        if self._mine:
            self.remove(*self._mine.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except DjprobesError as second:
            # What went wrong first is what the reader needs; a dead host fails twice.
            error.add_note(f"the probes could not be removed either: {second.message}")

    def _submit_add(
        self,
        names: Sequence[str],
        targets: Sequence[str],
        tails: Sequence[str],
        progress: AddProgress | None,
    ) -> None:
        lines = [
            f"p:{name} {target} {tail}"
            for name, target, tail in zip(names, targets, tails, strict=True)
        ]
        if progress is None or not lines:
            self._control.submit(lines)
            return

        def sent(done: int, total: int) -> None:
            progress(AddPhase.SENDING, done, total)
            if done == total:
                progress(AddPhase.APPLYING, 0, len(lines))

        self._control.submit(lines, sent=sent)
        progress(AddPhase.APPLYING, len(lines), len(lines))

    def _submit_add_named(
        self, targets: Sequence[str], tails: Sequence[str], progress: AddProgress | None
    ) -> Sequence[str]:
        """Add under names of our choice. They are looked up only when one is taken: a
        reading of thousands of probes for each added one would be slow."""
        chosen = _name_all(targets, taken=self._mine)
        try:
            self._submit_add(chosen, targets, tails, progress)
        except ControlError as error:
            if error.reason != Reason.DUPLICATE_NAME:
                raise
            taken = {status.name for status in self._control.probes()}
            chosen = _name_all(targets, taken=taken | self._mine.keys())
            self._submit_add(chosen, targets, tails, progress)
        return chosen

    def _forget(self, live: Mapping[str, ProbeStatus]) -> None:
        for name, probe in self._mine.items():
            if name in live:
                probe._finish(live[name])
        self._mine.clear()


def default_name(target: str) -> str:
    """The name that the kernel would give: ``p_SYM_OFF`` or ``p_0xADDR``, made of letters,
    digits and ``_`` only."""
    symbol = target.partition(":")[2] or target
    base, _, offset = symbol.partition("+")
    if base.startswith("0x"):
        return f"p_{base}"[:MAX_NAME]
    try:
        tail = f"{int(offset, 0):x}" if offset else "0"
    except ValueError:  # the kernel will refuse the target, and say why
        tail = offset
    plain = re.sub(r"\W", "_", f"p_{base}", flags=re.ASCII)
    tail = re.sub(r"\W", "_", tail, flags=re.ASCII)[:16]
    return f"{plain[: MAX_NAME - len(tail) - 1]}_{tail}"


def _name_all(targets: Sequence[str], taken: Iterable[str]) -> list[str]:
    used = set(taken)
    names = []
    for target in targets:
        base = name = default_name(target)
        number = 2
        while name in used:
            name = f"{base[: MAX_NAME - len(str(number)) - 1]}_{number}"
            number += 1
        used.add(name)
        names.append(name)
    return names


def _each(options: Options | Sequence[Options | None] | None, count: int) -> list[Options]:
    """Options for each of ``count`` probes."""
    if options is None or isinstance(options, Options):
        return [options or Options()] * count
    if len(options) != count:
        raise UsageError(f"{count} targets but options for {len(options)}")
    return [one or Options() for one in options]


def _name(probe: Probe | str) -> str:
    return probe.name if isinstance(probe, Probe) else probe


def _fires(status: ProbeStatus) -> bool:
    return status.state in FIRING
