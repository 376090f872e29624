# ruff: noqa: PTH104, PTH108, PTH110
"""The part of a transport that runs on the host itself.

SshTransport ships this file's text over one SSH channel and talks to it; LocalTransport
imports it and calls the same functions in its own process. Standard library only,
Python 3.9 or later, and nothing of this package: it has to run where nothing is
installed.

Framing, both ways: two big-endian u32 (bytes of JSON, bytes of blob), the JSON, the blob.
A request is ``{"op": ..., ...}``; a reply is ``{"ok": ...}`` or
``{"errno": N, "path": ...}`` for a failed system call or ``{"failed": "text"}``.
Requests are answered one after the other; long work belongs into a channel of its own.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from typing import Any, BinaryIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answer = tuple[dict[str, Any] | bool | None, bytes]

FRAME = struct.Struct(">II")
READ_SIZE = 1 << 20
KMSG_RECORD = 8192  # the kernel's CONSOLE_EXT_LOG_MAX: no record is longer


def read_file(path: str) -> bytes:
    """All of a file, read until the end (debugfs files have no size)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_all(fd)
    finally:
        os.close(fd)


def write_once(path: str, data: bytes) -> None:
    """Give ``data`` to the file in exactly one write(2); neither create nor truncate it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_whole(fd, data)
    finally:
        os.close(fd)


def transact(path: str, data: bytes) -> bytes:
    """One write(2), then read the answer from the start of the same open file."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _write_whole(fd, data)
        try:
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise
        return _read_all(fd)
    finally:
        os.close(fd)


def put_file(path: str, data: bytes, mode: int) -> None:
    """Write ``data`` aside, then rename, so that ``path`` is never seen half written."""
    aside = f"{path}.{os.getpid()}.part"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def kmsg(after: int) -> list[str]:
    """The kernel log's records with a sequence number above ``after``, as /dev/kmsg has them."""
    records: list[str] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(fd, KMSG_RECORD).decode("utf-8", "replace")
            except BlockingIOError:
                return records
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten under us; the next read goes on
                    continue
                raise
            if not record:
                return records
            if int(record.split(",", 2)[1]) > after:
                records.append(record)
    finally:
        os.close(fd)


def run(argv: Sequence[str], data: bytes, timeout: float | None) -> tuple[int | None, bytes, bytes]:
    """Run a program to its end: status, stdout, stderr; the status is None after a timeout.

    A program that can't be started gives status 127 or 126, as a shell would.
    """
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        status = 127 if isinstance(error, FileNotFoundError) else 126
        return status, b"", f"{argv[0]}: {error.strerror}".encode()
    try:
        out, err = child.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        return None, out, err
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return child.returncode, out, err


def _read_all(fd: int) -> bytes:
    chunks: list[bytes] = []
    while True:
        chunk = os.read(fd, READ_SIZE)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _write_whole(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written != len(data):
        # A batch cut in two would be two batches, so the rest is never sent after it.
        raise OSError(errno.EIO, f"only {written} of {len(data)} bytes were taken")


def _hello(_request: dict[str, Any], _blob: bytes) -> Answer:
    version = list(sys.version_info[:3])
    return {"python": version, "pid": os.getpid(), "uname": list(os.uname())}, b""


def _run(request: dict[str, Any], blob: bytes) -> Answer:
    status, out, err = run(request["argv"], blob, request["timeout"])
    return {"status": status, "stdout": len(out)}, out + err


def _write(request: dict[str, Any], blob: bytes) -> Answer:
    write_once(request["path"], blob)
    return None, b""


def _put(request: dict[str, Any], blob: bytes) -> Answer:
    put_file(request["path"], blob, request["mode"])
    return None, b""


def _kill(request: dict[str, Any], _blob: bytes) -> Answer:
    os.kill(request["pid"], request["signal"])
    return None, b""


#: What can be asked: the request and its blob in, the answer and its blob out.
OPERATIONS: dict[str, Callable[[dict[str, Any], bytes], Answer]] = {
    "hello": _hello,
    "run": _run,
    "read": lambda request, _blob: (None, read_file(request["path"])),
    "write": _write,
    "transact": lambda request, blob: (None, transact(request["path"], blob)),
    "put": _put,
    "exists": lambda request, _blob: (os.path.exists(request["path"]), b""),
    "kmsg": lambda request, _blob: (None, json.dumps(kmsg(request["after"])).encode()),
    "kill": _kill,
}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests from ``source`` on ``sink`` until ``source`` ends."""
    while True:
        head = source.read(FRAME.size)
        if len(head) < FRAME.size:
            return
        json_size, blob_size = FRAME.unpack(head)
        request = json.loads(source.read(json_size))
        blob = source.read(blob_size)
        reply: dict[str, Any]
        payload = b""
        try:
            answer, payload = OPERATIONS[request["op"]](request, blob)
            reply = {"ok": answer}
        except OSError as error:
            path = error.filename or request.get("path", "")
            reply = {"errno": error.errno or errno.EIO, "path": path}
        except Exception as error:  # the host must hear of it; the agent has nobody else to tell
            reply = {"failed": f"{type(error).__name__}: {error}"}
        text = json.dumps(reply).encode()
        sink.write(FRAME.pack(len(text), len(payload)) + text + payload)
        sink.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
