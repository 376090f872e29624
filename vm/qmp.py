"""QMP by the official library, made synchronous: asyncio stays in this file."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from vm.deadline import Deadline
from vm.errors import InfrastructureError

T = TypeVar("T")


class QemuGoneError(Exception):
    """QEMU ended, or its monitor does not answer; the owner finds out which."""


class Qmp:
    """A monitor connection.  We listen and QEMU connects, so nothing is polled.

    Not for use inside a running asyncio loop of the same thread.
    """

    def __init__(self, path: Path) -> None:
        self._runner = asyncio.Runner()
        self._client = QMPClient("djprobes")
        self._runner.run(self._client.start_server(str(path)))

    def accept(self, pidfd: int, deadline: Deadline) -> None:
        """Wait for QEMU to connect; raises QemuGoneError if it ends or time is up."""
        self._runner.run(self._accept(pidfd, deadline))

    async def _accept(self, pidfd: int, deadline: Deadline) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        accept = asyncio.create_task(self._client.accept())
        end = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait(
                {accept, end},
                timeout=deadline.remaining,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not accept.done():
                raise QemuGoneError("QEMU did not open its monitor")
            try:
                accept.result()
            except (QMPError, OSError) as exc:
                raise QemuGoneError(f"QEMU's monitor: {exc}") from exc
        finally:
            loop.remove_reader(pidfd)
            for task in (accept, end):
                task.cancel()
            await asyncio.gather(accept, end, return_exceptions=True)

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float
    ) -> Any:  # noqa: ANN401
        """Run a QMP command and return its value; `timeout` in seconds.

        Raises InfrastructureError if QEMU refuses it, QemuGoneError if it does not answer.
        """
        return self._guarded(command, self._execute(command, arguments), timeout)

    def migrate(self, command: str, arguments: Mapping[str, Any], *, timeout: float) -> None:
        """Run `migrate` or `migrate-incoming` and wait until it is complete.

        Raises InfrastructureError with QEMU's reason when it fails.
        """
        self._guarded(command, self._migrate(command, arguments), timeout)

    async def _execute(self, command: str, arguments: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
        return await self._client.execute(command, dict(arguments) if arguments else None)

    async def _migrate(self, command: str, arguments: Mapping[str, Any]) -> None:
        capability = {"capability": "events", "state": True}
        await self._execute("migrate-set-capabilities", {"capabilities": [capability]})
        with self._client.listener("MIGRATION") as listener:
            await self._execute(command, arguments)
            async for event in listener:
                data: Any = event["data"]  # typed as object by the library
                status = data["status"]
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    answer = await self._execute("query-migrate", None)
                    raise InfrastructureError(
                        f"QMP {command}", status, output=str(answer.get("error-desc", ""))
                    )

    def _guarded(self, command: str, work: Coroutine[Any, Any, T], timeout: float) -> T:
        try:
            return self._runner.run(asyncio.wait_for(work, timeout))
        except ExecuteError as exc:
            raise InfrastructureError(f"QMP {command}", "QEMU refused it", output=str(exc)) from exc
        except TimeoutError as exc:
            raise QemuGoneError(f"no answer to QMP {command} within {timeout:.0f} s") from exc
        except (QMPError, EOFError, OSError) as exc:
            raise QemuGoneError(f"QMP {command}: {exc}") from exc

    def close(self) -> None:
        """Drop the connection; what goes wrong in it no longer matters."""
        try:
            self._runner.run(self._client.disconnect())
        except (QMPError, EOFError, OSError):
            pass
        finally:
            self._runner.close()
