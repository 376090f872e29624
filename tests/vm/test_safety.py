"""What must not be waited for, and what must not be offered.

That nobody is patched under his feet, by any strategy, is in test_adversaries.py.
"""

from __future__ import annotations

import pytest

from pyctl import ControlError, Guest, Reason
from pyctl.errors import DjprobesError
from pyctl.module import SOURCE as KMOD
from pyctl.timing import Deadline, attempts
from pyctl.verify.adversaries import FUNCTION, Victim, Way
from pyctl.verify.testmodules import Peers, Targets

pytestmark = pytest.mark.vm

VICTIM = f"djp_test:{FUNCTION}"
KPROBES = "/sys/kernel/debug/kprobes/list"
#: Bytes that an optimised kprobe on djp_test_victim displaces.
VICTIM_REGION = 5
#: Seconds: longer than it takes to see what others do meanwhile.
HELD = 300.0
#: More than the kernel's template and five bytes.
OPTPROBE_BUFFER = 256


def test_a_stalled_optimiser_is_not_waited_for() -> None:
    """Kprobes' optimiser keeps everybody from writing text while a task stands in the buffer
    of a kprobe that was removed. We say so, and go on when it is over."""
    with Guest.boot("bookworm-cloud") as guest, guest.probes() as probes:
        log = guest.kernel_log()
        guest.load_extra("djp_test", source=KMOD)
        targets, peers, victim = Targets(guest), Peers(guest), Victim(guest)
        start = targets.address("djp_test_victim")
        region = targets.text(start, VICTIM_REGION)
        peers.add_kprobe(start)
        assert peers.optimised(start), "the kernel did not optimise the kprobe"
        jump = targets.text(start, 5)
        buffer = start + 5 + int.from_bytes(jump[1:], "little", signed=True)
        copied = targets.text(buffer, OPTPROBE_BUFFER).index(region[2:])
        victim.hold(Way.PREEMPT, buffer + copied, seconds=HELD)
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
        # It calls without ever sleeping: let go alone, it would hold up RCU-tasks still.
        assert victim.stop().wrong == 0
        if early:  # it came before the optimiser began to wait
            early.remove()
        for _ in attempts(Deadline.after(60)):
            kprobes = guest.transport.read(KPROBES).decode()
            if not kprobes and targets.text(start, VICTIM_REGION) == region:
                break
        assert not kprobes
        # Its landing, +5, is in the JTPR of this one.
        behind = probes.add(f"{VICTIM}+2", name="behind")
        assert probes.commit().complete
        assert targets.call(FUNCTION, 100) == 0
        assert (behind.state, behind.hits) == ("jump", 100)
        log.check()


def test_unsafe_strategies_are_not_offered(guest: Guest) -> None:
    with guest.probes() as probes:
        sound = ("auto", "rendezvous", "fixup", "stackscan", "freezer", "rcu_tasks")
        assert probes.strategies == sound
        with pytest.raises(DjprobesError):
            probes.strategy = "none"
