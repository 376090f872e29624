"""Timers: one operation is a timer armed, and its expiry received.

``mode`` is ``oneshot`` (timer_create, and timer_settime for every expiry), ``itimer``
(setitimer, likewise) or ``periodic`` (armed once; expiries are the signals received and
their overruns, so it can't do an exact number).
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

from pyctl.workloads.remote.common import Failed, Turn, Work, main

CLOCK_MONOTONIC = 1
SIGEV_SIGNAL = 0


class Timespec(ctypes.Structure):
    """struct timespec"""

    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class Itimerspec(ctypes.Structure):
    """struct itimerspec"""

    _fields_ = [("interval", Timespec), ("value", Timespec)]


class Sigevent(ctypes.Structure):
    """struct sigevent of a 64-bit Linux: 64 bytes."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    ]


class Timers(Work):
    """Parameters: mode, microseconds (from arming to expiry)."""

    timer: ctypes.c_void_p | None = None

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self.libc: Any = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self.libc, "timer_create"):  # glibc before 2.34 has it in librt
            self.libc = ctypes.CDLL("librt.so.1", use_errno=True)
        self.signo = signal.SIGALRM if parameters["mode"] == "itimer" else signal.SIGRTMIN + 1

    def set_up(self) -> dict[str, object]:
        """Block the signal, and make the timer."""
        if self.parameters["mode"] not in {"oneshot", "itimer", "periodic"}:
            raise Failed(f"no mode {self.parameters['mode']!r}: oneshot, itimer or periodic")
        signal.pthread_sigmask(signal.SIG_BLOCK, [self.signo])
        if self.parameters["mode"] != "itimer":
            event = Sigevent(signo=self.signo, notify=SIGEV_SIGNAL)
            timer = ctypes.c_void_p()
            self._call("timer_create", CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer))
            self.timer = timer
        return {}

    def run(self, turn: Turn) -> dict[str, int]:
        """Arm and receive."""
        if self.parameters["mode"] == "periodic":
            return self._periodic(turn)
        done, seconds = 0, self.parameters["microseconds"] / 1e6
        posix = self.parameters["mode"] == "oneshot"
        wait, signals = max(10.0, seconds * 10), [self.signo]
        while turn.more(done):
            if posix:
                self._arm(self.parameters["microseconds"], 0)
            else:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            if signal.sigtimedwait(signals, wait) is None:
                raise Failed(f"a timer of {seconds} s did not expire within {wait} s")
            done += 1
        return {"timer_settime" if posix else "setitimer": done, "expiry": done, "signal": done}

    def clean_up(self) -> None:
        """No timer stays armed."""
        if self.timer is not None:
            self.libc.timer_delete(self.timer)
            self.timer = None

    def _periodic(self, turn: Turn) -> dict[str, int]:
        if turn.operations is not None:
            raise Failed("a periodic timer can't do an exact number: give seconds, or mode oneshot")
        received = overruns = 0
        period = self.parameters["microseconds"]
        self._arm(period, period)
        while turn.more(received):
            if signal.sigtimedwait([self.signo], 0.05) is not None:
                received += 1
                overruns += self.libc.timer_getoverrun(self.timer)
        self._arm(0, 0)
        while signal.sigtimedwait([self.signo], 0) is not None:
            received += 1
            overruns += self.libc.timer_getoverrun(self.timer)
        return {"timer_settime": 2, "expiry": received + overruns, "signal": received}

    def _arm(self, microseconds: int, period: int) -> None:
        def span(value: int) -> Timespec:
            return Timespec(value // 1_000_000, value % 1_000_000 * 1000)

        spec = Itimerspec(span(period), span(microseconds))
        self._call("timer_settime", self.timer, 0, ctypes.byref(spec), None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self.libc, name)(*arguments) != 0:
            raise Failed(f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(Timers)
