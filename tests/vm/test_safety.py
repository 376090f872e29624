"""Who is in the way of text that is to be written, and what is not offered.

What a strategy does about tasks in the way is in test_adversaries.py.
"""

from __future__ import annotations

import pytest

from pyctl import ControlError, Guest, Probes, Reason
from pyctl.errors import UsageError
from pyctl.quiescence import AUTO
from pyctl.timing import Deadline, attempts
from pyctl.verify.adversaries import FUNCTION, MODULE, Victim, Way
from pyctl.verify.testmodules import Peers, Targets

pytestmark = pytest.mark.vm

VICTIM = f"{MODULE}:{FUNCTION}"
KPROBES = "/sys/kernel/debug/kprobes/list"
#: Bytes that an optimised kprobe on djp_test_victim displaces.
VICTIM_REGION = 5
#: More than the kernel's template and five bytes.
OPTPROBE_BUFFER = 256


def wait_for_jump(probes: Probes, name: str, seconds: float) -> None:
    for _ in attempts(Deadline.after(seconds)):
        if probes.status(name).state == "jump":
            return
    pytest.fail(f"{name} is still in bypass: {probes.stats()}")


def test_a_stalled_optimiser_is_not_waited_for(guest: Guest, targets: None, probes: Probes) -> None:
    """Kprobes' optimiser keeps everybody from writing text while a task stands in the buffer
    of a kprobe that was removed. We say so, and go on when it is over."""
    text, peers = Targets(guest), Peers(guest)
    with Victim(guest) as victim:
        start = victim.address
        region = text.text(start, VICTIM_REGION)
        peers.add_kprobe(start)
        assert peers.optimised(start), "the kernel did not optimise the kprobe"
        jump = text.text(start, 5)
        buffer = start + 5 + int.from_bytes(jump[1:], "little", signed=True)
        copied = text.text(buffer, OPTPROBE_BUFFER).index(region[2:])
        victim.hold(Way.PREEMPT, buffer + copied, seconds=60)
        # It may not come back before the victim is let go.
        removal = f"(echo -{start:#x} > /sys/kernel/debug/djp_peer/kprobe) >/dev/null 2>&1 &"
        guest.transport.run(["sh", "-c", removal])

        refused = early = None
        for _ in attempts(Deadline.after(30)):
            try:
                if early:
                    early.remove()
                early = None
                early = probes.add(f"{VICTIM}+2", name="early")
            except ControlError as error:
                refused = error.reason
                if refused is Reason.KPROBES_BUSY:
                    break
        assert refused is Reason.KPROBES_BUSY
        victim.release()
        if early:  # it came before the optimiser began to wait
            early.remove()
        for _ in attempts(Deadline.after(60)):
            kprobes = guest.transport.read(KPROBES).decode()
            if not kprobes and text.text(start, VICTIM_REGION) == region:
                break
        assert not kprobes
        # Its landing, +5, is in the JTPR of this one.
        probes.add(f"{VICTIM}+2", name="behind")
        probes.commit()
        wait_for_jump(probes, "behind", seconds=60)
        before = victim.calls.calls
        for _ in attempts(Deadline.after(30)):
            if victim.calls.calls > before:
                break
        end = victim.stop()
        assert end.calls > before
        assert end.wrong == 0


def test_unsafe_strategies_are_not_offered(guest: Guest) -> None:
    with guest.probes() as probes:
        assert probes.strategies == (
            AUTO,
            "rendezvous",
            "fixup",
            "stackscan",
            "freezer",
            "rcu_tasks",
        )
        with pytest.raises(UsageError):
            probes.strategy = "none"
