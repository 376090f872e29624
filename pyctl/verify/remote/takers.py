"""Tasks that call djp_test_take() (kmod/test/options.c) with known arguments.

A line of stdin is a JSON list of tasks: ``text``, what each writes to the file, ``cpu``, where
it stays (null: anywhere), ``comm``, its name, and ``threads``: so many threads, one after the
other, write it instead. All tasks begin at once. The answer is a JSON list with the id and the
errno of each (0: it was written), the threads' ids in its place.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from typing import Any

FILE = "/sys/kernel/debug/djp_test/take"
PR_SET_NAME = 15


def put(file: int, text: bytes) -> int:
    """Write it; errno or 0."""
    try:
        os.write(file, text)
    except OSError as error:
        return error.errno or -1
    return 0


def threads(file: int, text: bytes, number: int) -> tuple[list[int], int]:
    """From so many threads. Ids are not used twice: one would have to come around."""
    ids: list[int] = []
    errors: list[int] = []

    def body() -> None:
        errors.append(put(file, text))
        ids.append(threading.get_native_id())

    for _ in range(number):
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
    return ids, max(errors, default=0)


def be_task(task: dict[str, Any], file: int, begin: int, answer: int) -> None:
    """In a child: wait for the beginning, do it, tell."""
    if task["cpu"] is not None:
        os.sched_setaffinity(0, {task["cpu"]})
    if task["comm"] is not None:
        name = task["comm"].encode("latin-1")
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
    text = task["text"].encode()
    os.read(begin, 1)
    if task["threads"]:
        ids, error = threads(file, text, task["threads"])
    else:
        error = put(file, text)
        ids = [os.getpid()]
    with os.fdopen(answer, "w") as out:
        json.dump([ids, error], out)


def run(tasks: list[dict[str, Any]]) -> list[Any]:
    """All tasks at once."""
    file = os.open(FILE, os.O_WRONLY)
    begin, go = os.pipe()
    children = []
    for task in tasks:
        answer, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            try:
                be_task(task, file, begin, end)
            finally:
                os._exit(0)
        os.close(end)
        children.append((pid, answer))
    os.write(go, b"g" * len(tasks))
    answers = []
    for pid, answer in children:
        with os.fdopen(answer) as source:
            text = source.read()
        os.waitpid(pid, 0)
        answers.append(json.loads(text) if text else [[], -1])
    for each in (file, begin, go):
        os.close(each)
    return answers


def main() -> None:
    """Until stdin ends."""
    sys.stdout.write('"ready"\n')
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
