"""Plans A and B break the rules that docs/plans.md says they break; djprobes on the same
functions, under the same conditions, do not.

kmod/test/plans.c; the kernel has to be one that preempts (preempt=full).
"""

from __future__ import annotations

import pytest

from pyctl import ControlError, Guest, Probes, Reason
from pyctl.errors import DjprobesError
from pyctl.verify.plans import Outcome, Plan, Plans, State, Trouble

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

TIMES = 60
TROUBLES = [Trouble.NESTING, Trouble.PREEMPTION, Trouble.MIGRATION]
#: How many of the calls plan B gives a wrong result.
WRONG = {State.FLAGS: TIMES * 2 // 3, State.IF: TIMES, State.CLI: TIMES, State.STACK: TIMES}


@pytest.fixture
def plans(watched: Guest) -> Plans:
    return Plans(watched)


def outcome(*, met: int, strayed: int) -> Outcome:
    return Outcome(calls=TIMES, met=met, right=TIMES - strayed, strayed=strayed, other=0)


@pytest.mark.parametrize("plan", [Plan.PUSH_RET, Plan.IRET])
def test_plan_a_works_as_long_as_nothing_happens(plans: Plans, plan: Plan) -> None:
    assert plans.run(plan, Trouble.PLAIN, TIMES) == outcome(met=0, strayed=0)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("plan", [Plan.PUSH_RET, Plan.IRET])
def test_plan_a_goes_on_at_the_wrong_place(plans: Plans, plan: Plan, trouble: Trouble) -> None:
    assert plans.run(plan, trouble, TIMES) == outcome(met=TIMES, strayed=TIMES)


@pytest.mark.parametrize("committed", [False, True], ids=["bypass", "jump"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_djprobe_goes_on_at_the_right_place(
    plans: Plans, probes: Probes, trouble: Trouble, committed: bool
) -> None:
    one, two = probes.add_many([f"djp_test:djp_plan_{number}" for number in ("one", "two")])
    if committed:
        assert probes.commit().complete
    displaced = {entry.offset: entry.address for entry in probes.explain(one.target).entries}
    done = plans.run(Plan.CALL, trouble, TIMES, displaced=displaced[2])
    assert done == outcome(met=TIMES, strayed=0)
    others = 0 if trouble is Trouble.MIGRATION else TIMES
    assert (one.hits, two.hits) == (TIMES, others)


@pytest.mark.parametrize("state", State)
def test_plan_b_changes_what_displaced_instructions_see_and_set(plans: Plans, state: State) -> None:
    assert plans.run(Plan.PUSHF, state, TIMES) == outcome(met=0, strayed=WRONG[state])


@pytest.mark.parametrize("committed", [False, True], ids=["bypass", "jump"])
@pytest.mark.parametrize("state", State)
def test_a_djprobe_does_not(plans: Plans, probes: Probes, state: State, committed: bool) -> None:
    probe = probes.add(f"djp_test:djp_plan_{state}_probe")
    if committed:
        assert probes.commit().complete
        assert probe.state == "jump"
    assert plans.run(Plan.CALL, state, TIMES) == outcome(met=0, strayed=0)
    assert probe.hits == TIMES


@pytest.mark.parametrize("plan", [Plan.PUSH_RET, Plan.IRET, Plan.PUSHF])
def test_no_plan_can_be_chosen(probes: Probes, plan: Plan) -> None:
    """Neither as a strategy nor as a method."""
    with pytest.raises(DjprobesError):
        probes.strategy = str(plan)
    with pytest.raises(ControlError) as caught:
        probes.control.submit([f"p:one vfs_read method={plan}"])
    assert caught.value.reason is Reason.NOT_SUPPORTED
