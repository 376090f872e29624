"""Hits inside hits: interrupts, softirqs, NMIs, breakpoints and page faults that hit a probe
while the CPU stands in another one's handler or in its displaced instructions.

kmod/test/nest.c makes them and counts the calls; see docs/nesting.md for a table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from iced_x86 import Decoder

from pyctl import Guest, Probes
from pyctl.bench.rows import SOUND
from pyctl.errors import RemoteOSError
from pyctl.quiescence import AUTO
from pyctl.verify.nesting import OUTER, Action, Event, Form, Nest, Nested, Place
from pyctl.verify.preemption import Preemption, preemption
from pyctl.verify.testmodules import kprobe_optimisation

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)

TIMES = 100
#: Where each strategy has to do it under each model.
FEW = 20

IN_HANDLER = [(event, Place.HANDLER) for event in Event]
IN_COPIED = [(event, Place.COPIED) for event in Event if event is not Event.CALL]
IN_TRAP = [(Event.NMI, Place.TRAP)]
#: Between the instructions of a detour too.
ANYWHERE = [(event, Place.ANYWHERE) for event in (Event.TIMER, Event.NMI)]
OURS = [Form.JUMP, Form.BYPASS, Form.INT3]
#: A handler that a trap leads to has interrupts off; so has a single-stepped instruction.
INTERRUPTS = {Event.TIMER, Event.SOFTIRQ}


@pytest.fixture
def nest(watched: Guest) -> Nest:
    return Nest(watched)


@pytest.fixture
def optimised(watched: Guest) -> Iterator[None]:
    with kprobe_optimisation(watched.transport, on=True):
        yield


@pytest.fixture
def stepped(watched: Guest) -> Iterator[None]:
    with kprobe_optimisation(watched.transport, on=False):
        yield


def run(
    nest: Nest, form: Form, event: Event, place: Place, action: Action = Action.HANDLER
) -> Nested:
    done = nest.run(form, event, place, TIMES, action=action)
    log.info("%s %s %s %s: %s", form, action, event, place, done)
    assert done.wrong == 0
    return done


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize(
    ("form", "event", "place"),
    [(form, event, place) for form in OURS for event, place in IN_HANDLER + IN_COPIED + ANYWHERE]
    + [(form, event, place) for form in (Form.BYPASS, Form.INT3) for event, place in IN_TRAP],
)
def test_every_hit_is_counted(
    nest: Nest, form: Form, event: Event, place: Place, action: Action
) -> None:
    """In a handler, in copied instructions, and in the int3 handler that leads to either."""
    done = run(nest, form, event, place, action)
    assert done.first == (0xE9 if form is Form.JUMP else 0xCC)
    assert done.landed == TIMES
    assert done.inner_calls >= TIMES
    assert (done.inner_hits, done.inner_missed) == (done.inner_calls, 0)
    assert (done.outer_hits, done.outer_missed) == (done.outer_calls, 0)


@pytest.mark.parametrize("strategy", SOUND)
@pytest.mark.parametrize("model", list(Preemption))
def test_every_hit_is_counted_whoever_wrote_the_jump(
    nest: Nest, guest: Guest, probes: Probes, model: Preemption, strategy: str
) -> None:
    probes.strategy = strategy
    try:
        with preemption(guest.transport, model):
            for event, place in IN_HANDLER + IN_COPIED:
                done = nest.run(Form.JUMP, event, place, FEW)
                assert (done.first, done.landed, done.wrong) == (0xE9, FEW, 0), (event, place)
                assert (done.inner_hits, done.inner_missed) == (done.inner_calls, 0)
                assert (done.outer_hits, done.outer_missed) == (done.outer_calls, 0)
    finally:
        probes.strategy = AUTO


def test_every_hit_is_counted_at_each_instruction_of_a_detour(nest: Nest, probes: Probes) -> None:
    """An emulator takes interrupts between blocks of instructions only; a breakpoint is met
    wherever it is, also between what counts and what does not yet."""
    detour = probes.explain(f"djp_test:{OUTER}").detour
    assert detour is not None
    offsets = [insn.ip for insn in Decoder(64, detour.code)]
    assert len(offsets) >= 4
    for offset in offsets:
        done = nest.run(
            Form.JUMP, Event.DEBUG, Place.DETOUR, TIMES, action=Action.COUNT, offset=offset
        )
        log.info("+%d: %s", offset, done)
        assert (done.first, done.landed, done.wrong) == (0xE9, TIMES, 0)
        assert (done.inner_hits, done.outer_hits) == (done.inner_calls, done.outer_calls)


@pytest.mark.parametrize(("event", "place"), IN_HANDLER)
@pytest.mark.usefixtures("optimised")
def test_an_optimised_kprobe_loses_what_hits_in_a_handler(
    nest: Nest, event: Event, place: Place
) -> None:
    done = run(nest, Form.KPROBE, event, place)
    assert done.first == 0xE9
    assert done.landed == TIMES
    assert (done.inner_hits, done.inner_missed) == (0, TIMES)


@pytest.mark.parametrize(("event", "place"), IN_COPIED)
@pytest.mark.usefixtures("optimised")
def test_an_optimised_kprobe_counts_what_hits_in_copied_instructions(
    nest: Nest, event: Event, place: Place
) -> None:
    """So that the loss is the handlers', not the experiment's."""
    done = run(nest, Form.KPROBE, event, place)
    assert (done.first, done.landed) == (0xE9, TIMES)
    assert (done.lost, done.inner_missed) == (0, 0)
    assert done.outer_hits == done.outer_calls


@pytest.mark.parametrize(("event", "place"), IN_HANDLER + IN_COPIED)
@pytest.mark.usefixtures("stepped")
def test_a_stepped_kprobe_loses_what_hits_in_it(nest: Nest, event: Event, place: Place) -> None:
    """From its int3 to the end of the single step. Interrupts are off all that time, so they
    come later, and are counted."""
    done = run(nest, Form.KPROBE, event, place)
    assert done.first == 0xCC
    if event in INTERRUPTS:
        assert (done.landed, done.inner_missed) == (0, 0)
        return
    assert done.landed == TIMES
    assert (done.inner_hits, done.inner_missed) == (0, done.inner_calls)
    if (event, place) == (Event.FAULT, Place.COPIED):
        # kprobe_fault_handler() goes back to the int3: each call is two hits.
        assert done.outer_hits == 2 * done.outer_calls


@pytest.mark.usefixtures("stepped")
def test_a_stepped_kprobe_loses_what_hits_on_the_way_to_it(nest: Nest) -> None:
    """Before kprobes has noted that one is running, and after, it is not lost."""
    done = run(nest, Form.KPROBE, Event.NMI, Place.TRAP)
    assert done.landed == TIMES
    assert done.inner_missed > 0
    assert done.inner_hits + done.inner_missed == done.inner_calls


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (Event.CALL, Place.COPIED),
        (Event.TIMER, Place.TRAP),
        (Event.DEBUG, Place.ANYWHERE),
        (Event.NMI, Place.DETOUR),
    ],
)
def test_there_is_no_such_experiment(nest: Nest, event: Event, place: Place) -> None:
    with pytest.raises(RemoteOSError):
        nest.run(Form.JUMP, event, place, 1)
