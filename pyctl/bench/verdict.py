"""Is a strategy sound? A task is held inside the bytes that a jump would cover, and the
strategy is asked for that jump."""

from __future__ import annotations

from pyctl.bench.rows import KPROBES, Verdict
from pyctl.errors import DjprobesError
from pyctl.guest import Guest
from pyctl.methods import State
from pyctl.probes import Probes
from pyctl.timing import Deadline, attempts
from pyctl.verify.adversaries import Victim, VictimKind, Way, places, ways_in_code
from pyctl.verify.preemption import Preemption
from pyctl.verify.testmodules import Peers

#: How long a victim is held at most, and how long a strategy may patch meanwhile, in
#: seconds before scaling. Mainline's optimiser begins its work within a tenth of one.
HELD_SECONDS = 20.0
WATCHED_SECONDS = 1.0
#: Calls that the victim makes when it is free again: it has to come to harm, or not; and
#: how long it may take for them, in seconds before scaling.
CALLS = 100
CALLS_SECONDS = 30.0
#: How long it may take until a dead kernel is known to be dead.
CRASH_SECONDS = 10.0


def judge(guest: Guest, strategy: str, model: Preemption) -> Verdict:
    """Run the adversary in every way that this preemption model allows. The guest may be
    dead afterwards: see :meth:`Guest.crashed`. The model must be in use, and djprobes
    loaded (with ``unsafe=1`` for a strategy that needs it), without probes."""
    attack = _attack_kprobes if strategy == KPROBES else _attack_djprobes
    try:
        unharmed = all(attack(guest, way, strategy) for way in ways_in_code(model))
    except DjprobesError:
        # The connection ends before the emulator has told that the kernel died.
        if any(guest.crashed() for _ in attempts(Deadline.after(CRASH_SECONDS))):
            return Verdict.UNSOUND
        raise
    return Verdict.SOUND if unharmed else Verdict.UNSOUND


def _attack_djprobes(guest: Guest, way: Way, strategy: str) -> bool:
    """Whether the victim came through."""
    probes = Probes(guest.transport)
    probes.strategy = strategy
    with Victim(guest, VictimKind.KTHREAD) as victim:
        moved = probes.stats().tasks_moved
        inside = places(probes.control, victim.target).jtpr
        wrong = victim.calls.wrong
        _hold(victim, way, inside)
        probe = probes.add(victim.target)
        probes.commit()
        patched = probe.state is State.JUMP and victim.held.state == "held"
        pulled = patched and probes.stats().tasks_moved == moved
        victim.release()
        victim.wait_until_free()
        _go_on(victim)
        hurt = victim.stop().wrong - wrong
        probe.remove()
        return not hurt and not pulled


def _attack_kprobes(guest: Guest, way: Way, _strategy: str) -> bool:
    """The same against mainline: a kprobe that its optimiser would make a jump."""
    peers = Peers(guest)
    probes = Probes(guest.transport)
    with Victim(guest, VictimKind.KTHREAD) as victim:
        start = victim.address
        inside = places(probes.control, victim.target).jtpr
        wrong = victim.calls.wrong
        _hold(victim, way, inside)
        peers.add_kprobe(start)
        pulled = peers.optimised(start, WATCHED_SECONDS) and victim.held.state == "held"
        victim.release()
        victim.wait_until_free()
        _go_on(victim)
        hurt = victim.stop().wrong - wrong
        peers.remove_kprobe(start)
        return not hurt and not pulled


def _hold(victim: Victim, way: Way, address: int) -> None:
    """For no longer than a way that blocks a CPU may."""
    victim.hold(way, address, seconds=None if way.blocks else HELD_SECONDS)


def _go_on(victim: Victim) -> None:
    """Let it pass the place some more times. It never sleeps, so whoever waits for RCU-tasks
    goes on waiting."""
    enough = victim.calls.calls + CALLS
    for _ in attempts(Deadline.after(CALLS_SECONDS)):
        if victim.calls.calls >= enough:
            return
