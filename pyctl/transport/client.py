"""The near end of the agent: frames out, frames in, errors as exceptions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Protocol

from pyctl.errors import RemoteOSError, RemoteTimeoutError, TransportError
from pyctl.timing import Deadline
from pyctl.transport import agent
from pyctl.transport.base import Sent

#: Bytes that are sent before the next word about it.
CHUNK = 32 * 1024
OPERATIONS = {"put": "write", "transact": "write", "kmsg": "read"}


class ByteStream(Protocol):
    """Bytes to and from the agent."""

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""

    def receive(self, size: int, seconds: float) -> bytes:
        """Exactly ``size`` bytes; fewer only at the end. TimeoutError after ``seconds``."""


class AgentClient:
    """Requests to one agent, one at a time; may be shared between threads.

    ``ended`` is asked for an explanation when the agent stops answering.
    """

    def __init__(self, stream: ByteStream, host: str, ended: Callable[[], str]) -> None:
        self._stream = stream
        self._host = host
        self._ended = ended
        self._lock = threading.Lock()
        self._broken: str | None = None

    def ask(
        self,
        request: dict[str, Any],
        blob: bytes = b"",
        *,
        seconds: float,
        sent: Sent | None = None,
    ) -> tuple[object, bytes]:
        """Send a request, and return the reply's ``ok`` and its blob.

        ``seconds`` are final (already scaled). A request that times out breaks the
        connection: what it would have said could be taken for the next answer.
        """
        text = json.dumps(request).encode()
        with self._lock:
            if self._broken is not None:
                raise TransportError(f"{self._host}: {self._broken}")
            try:
                head = agent.FRAME.pack(len(text), len(blob)) + text
                if sent is None:
                    self._stream.send(head + blob)
                else:
                    self._send_in_parts(head, blob, sent)
                reply, payload = self._receive(Deadline.after(0), seconds)
            except TimeoutError as error:
                self._broken = f"no answer to {request['op']!r} within {seconds:.0f} s"
                raise RemoteTimeoutError(
                    f"{self._host}: {self._broken}",
                    hint="the host may have crashed; on a slow machine set DJP_TIMEOUT_SCALE",
                ) from error
            except (OSError, EOFError) as error:
                self._broken = f"the connection is lost: {self._ended() or error}"
                raise TransportError(f"{self._host}: {self._broken}") from error
            except BaseException:  # half a request may be on its way, or half an answer
                self._broken = f"{request['op']!r} was interrupted"
                raise
        return self._judge(request, reply), payload

    def _send_in_parts(self, head: bytes, blob: bytes, sent: Sent) -> None:
        self._stream.send(head)
        whole = memoryview(blob)
        for start in range(0, len(blob), CHUNK):
            self._stream.send(bytes(whole[start : start + CHUNK]))
            sent(min(start + CHUNK, len(blob)), len(blob))

    def _receive(self, start: Deadline, seconds: float) -> tuple[dict[str, Any], bytes]:
        deadline = Deadline(start.at + seconds, seconds)
        json_size, blob_size = agent.FRAME.unpack(self._exactly(agent.FRAME.size, deadline))
        reply: dict[str, Any] = json.loads(self._exactly(json_size, deadline))
        return reply, self._exactly(blob_size, deadline)

    def _exactly(self, size: int, deadline: Deadline) -> bytes:
        data = self._stream.receive(size, max(deadline.remaining, 0.001)) if size else b""
        if len(data) < size:
            raise EOFError("the agent ended")
        return data

    def _judge(self, request: dict[str, Any], reply: dict[str, Any]) -> object:
        op = request["op"]
        if "errno" in reply:
            raise RemoteOSError(
                reply["errno"],
                operation=OPERATIONS.get(op, op),
                path=str(reply["path"]),
                host=self._host,
            )
        if "failed" in reply:
            raise TransportError(f"{self._host}: the agent failed at {op!r}: {reply['failed']}")
        return reply["ok"]
