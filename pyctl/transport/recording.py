"""A host that is a dictionary: for tests and dry runs without a kernel."""

from __future__ import annotations

import errno
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyctl.errors import RemoteOSError, RemoteTimeoutError
from pyctl.transport.base import Closing, Completed, Sent

Content = bytes | str | Callable[[], bytes | str]
Writer = Callable[[bytes], None]

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One request: ``kind`` is the Transport method, ``what`` its path or argv."""

    kind: str
    what: str | tuple[str, ...]
    data: bytes = b""


class RecordingTransport(Closing):
    """Keeps files in a dictionary, answers commands from a script, logs every request.

    ``files`` maps a path to its content, or to a function that makes it. A write replaces
    the content, unless ``writers`` has a function for that path, which may raise an
    OSError. ``results`` maps the beginning of an argv to (status, stdout);
    ``processes`` the same to the lines that a spawned program answers with.
    """

    def __init__(
        self,
        files: Mapping[str, Content] | None = None,
        *,
        writers: Mapping[str, Writer] | None = None,
        results: Mapping[tuple[str, ...], tuple[int, bytes]] | None = None,
        processes: Mapping[tuple[str, ...], Callable[[], ScriptedProcess]] | None = None,
        records: Iterable[str] = (),
    ) -> None:
        self.files: dict[str, Content] = dict(files or {})
        self.writers: dict[str, Writer] = dict(writers or {})
        self.results = dict(results or {})
        self.processes = dict(processes or {})
        self.records = list(records)
        self.log: list[Asked] = []
        self.closed = False

    @property
    def host(self) -> str:
        """Always ``recording``."""
        return "recording"

    def asked(self, kind: str) -> list[Asked]:
        """The requests of one kind, in order."""
        return [entry for entry in self.log if entry.kind == kind]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,  # noqa: ARG002 (nothing here takes time)
        check: bool = True,
    ) -> Completed:
        """The scripted result with the longest matching beginning; status 127 without one."""
        self.log.append(Asked("run", tuple(argv), input))
        status, out = _longest(self.results, argv) or (127, b"not scripted")
        done = Completed(tuple(argv), status, out, b"")
        return done.checked(self.host) if check else done

    def read(self, path: str) -> bytes:
        """The file's content; ENOENT if there is none."""
        self.log.append(Asked("read", path))
        return self._content(path, "read")

    def write(self, path: str, data: bytes, *, sent: Sent | None = None) -> None:
        """Give the bytes to the path's writer, or keep them as its content."""
        self.log.append(Asked("write", path, data))
        if sent is not None:
            sent(len(data), len(data))
        self._take(path, data)

    def transact(self, path: str, data: bytes) -> bytes:
        """Write, then read."""
        self.log.append(Asked("transact", path, data))
        self._take(path, data)
        return self._content(path, "read")

    def exists(self, path: str) -> bool:
        """Whether there is such a file, or one in such a folder."""
        self.log.append(Asked("exists", path))
        return any(name == path or name.startswith(f"{path}/") for name in self.files)

    def kernel_records(self, after: int = -1) -> list[str]:
        """Those of ``records`` that come after."""
        self.log.append(Asked("kernel_records", str(after)))
        return [text for text in self.records if int(text.split(",", 2)[1]) > after]

    def spawn(self, argv: Sequence[str]) -> ScriptedProcess:
        """The scripted process with the longest matching beginning."""
        self.log.append(Asked("spawn", tuple(argv)))
        make = _longest(self.processes, argv)
        if make is None:
            raise RemoteOSError(errno.ENOENT, operation="start", path=argv[0], host=self.host)
        process = make()
        process.argv = tuple(argv)
        return process

    def put(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:  # noqa: ARG002
        """Keep the bytes as the content of ``remote``."""
        data = local if isinstance(local, bytes) else local.read_bytes()
        self.log.append(Asked("put", remote, data))
        self.files[remote] = data

    def get(self, remote: str) -> bytes:
        """The file's content."""
        self.log.append(Asked("get", remote))
        return self._content(remote, "read")

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _content(self, path: str, operation: str) -> bytes:
        if path not in self.files:
            raise RemoteOSError(errno.ENOENT, operation=operation, path=path, host=self.host)
        content = self.files[path]
        value = content() if callable(content) else content
        return value.encode() if isinstance(value, str) else value

    def _take(self, path: str, data: bytes) -> None:
        writer = self.writers.get(path)
        if writer is not None:
            try:
                writer(data)
            except OSError as error:
                raise RemoteOSError(
                    error.errno or errno.EIO, operation="write", path=path, host=self.host
                ) from error
        elif path in self.files:
            self.files[path] = data
        else:
            raise RemoteOSError(errno.ENOENT, operation="write", path=path, host=self.host)


class ScriptedProcess(Closing):
    """A program that answers each line with what ``answer`` makes of it.

    ``first`` is what it says of its own accord. ``answer`` returning None ends it.
    """

    def __init__(
        self,
        answer: Callable[[str], Iterable[str] | None] = lambda _line: (),
        *,
        first: Iterable[str] = (),
        status: int = 0,
    ) -> None:
        self.argv: tuple[str, ...] = ()
        self.sent = b""
        self.signals: list[signal.Signals] = []
        self.ended = False
        self._answer = answer
        self._lines: deque[str] = deque(first)
        self._status = status

    def send(self, data: bytes) -> None:
        """Keep the bytes (a shipped script, say); no answer."""
        self.sent += data

    def send_line(self, line: str) -> None:
        """Let the script answer."""
        answer = self._answer(line)
        if answer is None:
            self.ended = True
        else:
            self._lines.extend(answer)

    def read_line(self, timeout: float | None = None) -> str | None:
        """The next scripted line; a program with nothing to say times out."""
        if self._lines:
            return self._lines.popleft()
        if self.ended:
            return None
        raise RemoteTimeoutError(f"recording: said nothing for {timeout} s")

    def close_stdin(self) -> None:
        """Ends the program."""
        self.ended = True

    def wait(self, timeout: float | None = None) -> int:
        """The scripted status, once it has ended."""
        if not self.ended:
            raise RemoteTimeoutError(f"recording: has not ended after {timeout} s")
        return self._status

    def signal(self, number: signal.Signals) -> None:
        """Remember the signal; it ends the program."""
        self.signals.append(number)
        self.ended = True

    def terminate(self) -> None:
        """SIGTERM, unless it has ended."""
        if not self.ended:
            self.signal(signal.SIGTERM)

    def stderr_tail(self) -> str:
        """Nothing is ever said there."""
        return ""

    def close(self) -> None:
        """Terminate."""
        self.terminate()


def _longest(table: Mapping[tuple[str, ...], T], argv: Sequence[str]) -> T | None:
    matches = [start for start in table if tuple(argv[: len(start)]) == start]
    return table[max(matches, key=len)] if matches else None
