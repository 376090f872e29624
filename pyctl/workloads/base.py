"""The host's half of the workloads.

A workload is a frozen value with its parameters. :meth:`Workload.prepare` starts its script
on a host and returns when everything is set up and nothing has been counted yet; each
:meth:`Running.go` then does exactly what it is asked to and reports exactly what it did.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from pyctl.errors import TransportError, UsageError, WorkloadError
from pyctl.transport import Process, Transport, bootstrap
from pyctl.transport.base import Closing

COMMON = "pyctl.workloads.remote.common"
#: Seconds, before scaling.
SET_UP_SECONDS = 60.0
STOP_SECONDS = 60.0
#: How long a given number of operations may take.
OPERATIONS_SECONDS = 600.0
DEFAULT_SECONDS = 1.0


@dataclass(frozen=True)
class WorkloadResult:
    """What a workload did: exact counts by kind of operation, in ``seconds`` of its host's
    time. ``stopped`` when it was told to stop before it had done what was asked."""

    name: str
    seconds: float
    operations: Mapping[str, int]
    stopped: bool = False


class Running(Closing):
    """A workload that is set up on a host; ending the context undoes that."""

    def __init__(self, name: str, process: Process, host: str) -> None:
        self._name = name
        self._process = process
        self._host = host
        self.about: Mapping[str, Any] = self._expect("ready", SET_UP_SECONDS)

    def go(self, *, operations: int | None = None, seconds: float | None = None) -> WorkloadResult:
        """Do exactly ``operations``, or as many as fit into ``seconds`` (of the host's clock)."""
        self.start(operations=operations, seconds=seconds)
        limit = OPERATIONS_SECONDS if seconds is None else seconds + STOP_SECONDS
        return self._result(limit)

    def start(self, *, operations: int | None = None, seconds: float | None = None) -> None:
        """Begin, and return at once; without arguments it goes on until :meth:`stop`."""
        if operations is not None and operations < 0:
            raise UsageError(f"{self._name}: {operations} operations can't be done")
        self._send(cmd="go", operations=operations, seconds=seconds)

    def stop(self) -> WorkloadResult:
        """End what :meth:`start` began, and tell what was done."""
        self._send(cmd="stop")
        return self._result(STOP_SECONDS)

    def finish(self, limit: float = OPERATIONS_SECONDS) -> WorkloadResult:
        """Wait for the end of what :meth:`start` began."""
        return self._result(limit)

    def close(self) -> None:
        """Undo the set-up and end the script."""
        try:
            self._send(cmd="quit")
            self._process.close_stdin()
            self._process.wait(STOP_SECONDS)
        except TransportError:
            pass  # it has ended already, or close() below ends it
        finally:
            self._process.close()

    def _send(self, **command: object) -> None:
        self._process.send_line(json.dumps(command))

    def _result(self, limit: float) -> WorkloadResult:
        facts = self._expect("done", limit)
        return WorkloadResult(
            self._name, facts["seconds"], facts["operations"], facts.get("stopped", False)
        )

    def _expect(self, event: str, limit: float) -> dict[str, Any]:
        line = self._process.read_line(limit)
        if line is None:
            raise WorkloadError(
                f"{self._host}: workload {self._name} ended before it was done\n"
                f"{self._process.stderr_tail()}"
            )
        try:
            facts: dict[str, Any] = json.loads(line)
            said = facts.pop("event")
        except (ValueError, KeyError, AttributeError) as error:
            raise WorkloadError(f"{self._host}: workload {self._name} said {line!r}") from error
        if said == "error":
            raise WorkloadError(
                f"{self._host}: workload {self._name}: {facts['message']}",
                hint=facts.get("trace"),
            )
        if said != event:
            raise WorkloadError(f"{self._host}: workload {self._name}: {said} and not {event}")
        return facts


class Background:
    """A workload that runs while its context is open; ``result`` is there afterwards."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.result: WorkloadResult | None = None


@dataclass(frozen=True)
class Workload:
    """Base of all workloads; a subclass's fields are its parameters."""

    name: ClassVar[str]
    script: ClassVar[str]

    @classmethod
    def create(cls, parameters: Mapping[str, Any]) -> Workload:
        """One with these parameters; UsageError names those that it has."""
        known = {item.name: item for item in dataclasses.fields(cls)}
        for key in parameters:
            if key not in known:
                raise UsageError(
                    f"workload {cls.name!r} has no parameter {key!r}",
                    hint=f"it has {', '.join(known) or 'none'}",
                )
        return cls(**parameters)

    def parameters(self) -> dict[str, Any]:
        """What the script is told."""
        return dataclasses.asdict(self)

    def prepare(self, transport: Transport) -> Running:
        """Set it up on a host. A context manager; nothing is counted until ``go``."""
        process = start_script(
            transport, f"djp-{self.name}", self.script, (COMMON,), json.dumps(self.parameters())
        )
        try:
            return Running(self.name, process, transport.host)
        except BaseException:
            process.close()
            raise

    def run(
        self,
        transport: Transport,
        seconds: float | None = None,
        operations: int | None = None,
    ) -> WorkloadResult:
        """Set up, do it, clean up. Exactly ``operations`` if given, otherwise for
        ``seconds`` (1 if neither is given); with both, whichever ends first."""
        if seconds is None and operations is None:
            seconds = DEFAULT_SECONDS
        with self.prepare(transport) as running:
            return running.go(operations=operations, seconds=seconds)

    @contextmanager
    def background(self, transport: Transport) -> Iterator[Background]:
        """Let it run while the context is open."""
        with self.prepare(transport) as running:
            running.start()
            background = Background(running)
            try:
                yield background
            finally:
                background.result = running.stop()

    def on(self, transport: Transport) -> BoundWorkload:
        """This workload on that host."""
        return BoundWorkload(self, transport)


@dataclass(frozen=True)
class BoundWorkload:
    """A workload together with the host that it runs on."""

    workload: Workload
    transport: Transport

    def run(self, seconds: float | None = None, operations: int | None = None) -> WorkloadResult:
        """See :meth:`Workload.run`."""
        return self.workload.run(self.transport, seconds=seconds, operations=operations)

    def prepare(self) -> Running:
        """See :meth:`Workload.prepare`."""
        return self.workload.prepare(self.transport)

    def background(self) -> AbstractContextManager[Background]:
        """See :meth:`Workload.background`."""
        return self.workload.background(self.transport)


def start_script(
    transport: Transport, label: str, script: str, modules: tuple[str, ...], *arguments: str
) -> Process:
    """Ship a module of ours to a host and start it; its stdin and stdout are then ours."""
    process = transport.spawn(bootstrap.command(label, *arguments))
    try:
        process.send(bootstrap.bundle(script, modules))
    except BaseException:
        process.close()
        raise
    return process
