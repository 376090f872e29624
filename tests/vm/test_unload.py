"""Unloading while a task stands in a retired detour: refused, with the task's name."""

from __future__ import annotations

import pytest

from pyctl import BusyError, Guest, Probes
from pyctl.errors import ControlError, ModuleError
from pyctl.quiescence import BlockerKind
from pyctl.timing import Deadline, attempts
from pyctl.verify.adversaries import FUNCTION, MODULE, Victim, Way, places

pytestmark = pytest.mark.vm

TARGET = f"{MODULE}:{FUNCTION}"
RECLAIM_SECONDS = 30.0


def test_unload_names_who_is_in_a_detour(watched: Guest, targets: None, probes: Probes) -> None:
    with Victim(watched) as victim:
        probe = probes.add(TARGET)
        assert probes.commit().complete
        held = victim.hold(Way.PREEMPT, places(probes.control, TARGET).detour_copy)
        probe.remove()
        with pytest.raises(BusyError) as caught:
            watched.unload()
        assert victim.held.state == "held"
        assert caught.value.owner == f"djp_victim[{held.pid}]"
        (blocker,) = caught.value.blockers
        assert (blocker.kind, blocker.pid) == (BlockerKind.RECLAIM, held.pid)
        assert f"djp_victim[{held.pid}] has yet to leave" in str(caught.value)
        assert probes.stats().detours_retired == 1

        victim.release()
        for _ in attempts(Deadline.after(RECLAIM_SECONDS)):
            try:
                probes.reclaim()
                break
            except ControlError:  # it takes a moment to go on
                continue
        assert probes.stats().detours_retired == 0
    # Nobody stands in our memory any more, but a module still uses our functions.
    with pytest.raises(ModuleError, match="in use by: djp_test") as refused:
        watched.unload()
    assert not isinstance(refused.value, BusyError)
    watched.transport.run(["rmmod", MODULE])
    watched.unload()
    assert not watched.loaded
    watched.load()
