"""What makes a kernel restless, one kind for each name: the part that runs in the guest.

Parameters: ``kind``, and those of its class below. All need root; some are for guests only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pyctl.workloads.remote.common import Failed, Turn, Work, die_with_parent, fan_out, main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CPUS = "/sys/devices/system/cpu"
THROTTLE = "/proc/sys/kernel/sched_rt_runtime_us"
STATE = "/sys/power/state"


def read(path: str) -> str:
    """A small file."""
    with open(path) as file:  # noqa: PTH123
        return file.read().strip()


def write(path: str, text: str) -> None:
    """All of it in one write(2)."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def insist(path: str, text: str) -> None:
    """The same, again and again while it is refused for now."""
    while True:
        try:
            write(path, text)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                raise
        time.sleep(0.01)


def rest(begin: float, times: float) -> None:
    """Let others work for so many times as long as it took since ``begin``. On a slow guest
    an adversary without a pause would be all that happens."""
    time.sleep(times * (time.monotonic() - begin))


class Hotplug(Work):
    """CPUs but the first go off line and come back. Counts ``offline``, ``online``,
    ``busy`` (refused for now). Parameters: seed."""

    def set_up(self) -> dict[str, Any]:
        """Which of them can."""
        self.random = random.Random(self.parameters["seed"])
        self.files = [
            str(file) for file in Path(CPUS).glob("cpu[1-9]*/online") if os.access(file, os.W_OK)
        ]
        if not self.files:
            raise Failed("no CPU of this host can be taken off line")
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """Off and on."""
        done = {"offline": 0, "online": 0, "busy": 0}
        while turn.more(done["online"]):
            begin = time.monotonic()
            file = self.random.choice(self.files)
            try:
                write(file, "0")
            except OSError:  # EBUSY, while a suspend is attempted
                done["busy"] += 1
            else:
                done["offline"] += 1
                insist(file, "1")
                done["online"] += 1
            rest(begin, self.random.uniform(0, 2))
        return done

    def clean_up(self) -> None:
        """All of them back."""
        for file in getattr(self, "files", ()):
            if read(file) == "0":
                write(file, "1")


class Hogs(Work):
    """On each CPU a SCHED_FIFO process that computes for ``burst_ms`` and then sleeps; RT
    throttling is off and on by turns. Counts ``burst``.

    The gaps are so long that all of them together leave one CPU a third of its time: when
    the others are off line, who brings them back has to run there.
    """

    def set_up(self) -> dict[str, Any]:
        """Remember how throttling is set."""
        self.throttle = read(THROTTLE)
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """All of them at once."""
        cpus = list(range(os.sysconf("SC_NPROCESSORS_CONF")))  # those off line now, too
        burst = self.parameters["burst_ms"] / 1e3
        gap = burst * (len(cpus) + len(cpus) // 2)

        def hog(number: int, more: Callable[[int], bool]) -> int:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
            done = 0
            while more(done):
                with contextlib.suppress(OSError):  # off line: hog another
                    os.sched_setaffinity(0, {cpus[number]})
                end = time.monotonic() + burst
                while time.monotonic() < end:
                    pass
                done += 1
                if number == 0 and done % 20 == 0:
                    write(THROTTLE, "-1" if done % 40 else self.throttle)
                time.sleep(gap)
            return done

        return {"burst": fan_out(turn, len(cpus), hog)}

    def clean_up(self) -> None:
        """Throttling as it was."""
        write(THROTTLE, self.throttle)


class Suspend(Work):
    """Attempts to suspend: everything is frozen, then a device of djp_test refuses, and
    everything is thawed. Counts ``attempt``, ``frozen`` (that came as far as the device) and
    ``aborted`` (that did not: somebody could not be frozen). Parameters: refusals (the
    file that counts what the device has refused)."""

    def set_up(self) -> dict[str, Any]:
        """What this kernel has."""
        if not os.access(self.parameters["refusals"], os.R_OK):
            raise Failed("without djp_test's device an attempt would be a suspend")
        states = read(STATE).split()
        if "freeze" not in states:
            raise Failed("this kernel can't suspend to idle")
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """One after the other."""
        attempts, before = 0, self._refusals()
        while turn.more(attempts):
            begin = time.monotonic()
            try:
                write(STATE, "freeze")
            except OSError:
                attempts += 1
            else:
                raise Failed("the machine was suspended, although the device should refuse")
            rest(begin, 4)
        frozen = self._refusals() - before
        return {"attempt": attempts, "frozen": frozen, "aborted": attempts - frozen}

    def _refusals(self) -> int:
        return int(read(self.parameters["refusals"]))


class Mortal(Work):
    """Processes that add a probe, commit and remove it, until SIGKILL comes, after ``ms``
    at most. Counts ``killed``, ``write`` (those that were begun). Parameters: control,
    function, ms, seed."""

    NAME = "mortal"

    def set_up(self) -> dict[str, Any]:
        """Where to."""
        self.control = self.parameters["control"]
        self.random = random.Random(self.parameters["seed"])
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """One after the other."""
        done = {"killed": 0}
        while turn.more(done["killed"]):
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._live(parent)
            time.sleep(self.random.uniform(0, self.parameters["ms"] / 1e3))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status):
                raise Failed(f"a process that commits ended with wait status {status:#x}")
            done["killed"] += 1
            self._tidy()
        return done

    def clean_up(self) -> None:
        """What the last one left."""
        self._tidy()

    def _tidy(self) -> None:
        """Remove what the dead one has left, if it did."""
        with contextlib.suppress(FileNotFoundError):  # there is no such probe
            insist(self.control, f"-:{self.NAME}\n")

    def _live(self, parent: int) -> None:
        status = 1
        try:
            for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(name, signal.SIG_DFL)
            die_with_parent(parent)
            while True:
                insist(self.control, f"p:{self.NAME} {self.parameters['function']}\ncommit\n")
                insist(self.control, f"-:{self.NAME}\n")
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)


class Storm(Work):
    """Processes by the dozen: each of ``width`` children forks as fast as it can. Counts
    ``fork``."""

    def run(self, turn: Turn) -> dict[str, int]:
        """All at once."""

        def breed(_number: int, more: Callable[[int], bool]) -> int:
            done = 0
            while more(done):
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
                done += 1
            return done

        return {"fork": fan_out(turn, self.parameters["width"], breed)}


KINDS: dict[str, type[Work]] = {
    "hotplug": Hotplug,
    "hogs": Hogs,
    "suspend": Suspend,
    "mortal": Mortal,
    "storm": Storm,
}


def make(parameters: dict[str, Any]) -> Work:
    """The one that is meant."""
    return KINDS[parameters.pop("kind")](parameters)


if __name__ == "__main__":
    main(make)
