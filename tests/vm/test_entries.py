"""A probe behind the ftrace site of a function that others attach to and leave.

Each of them and the probe have to count every call, however often it comes and goes, and
whether the probe is an int3 or a jump by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from pyctl import Guest, Probes
from pyctl.verify.bcc import FentryCounter
from pyctl.verify.testmodules import Peers, Targets
from pyctl.verify.tracefs import TRACEFS
from pyctl.workloads import FileIo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

#: A function with an ftrace site at its entry and a DCR behind it.
ENTERED = "djp_test_entered"
#: A kernel function, called once for each pwrite of a workload, and not by bcc.
PWRITE = "__x64_sys_pwrite64"
STATES = ("bypass", "jump")
#: Times that each peer comes and goes under load, in each state.
ROUNDS = 8


@dataclass(frozen=True)
class Peer:
    """Somebody who attaches to a function; ``count`` is valid while attached."""

    attach: Callable[[], object]
    detach: Callable[[], object]
    count: Callable[[], int]


@contextmanager
def function_tracer(guest: Guest) -> Iterator[Peer]:
    """The function tracer, with a filter. It counts events: those in its buffers, and those
    that the buffers have lost."""
    transport = guest.transport
    cpus = transport.run(["ls", f"{TRACEFS}/per_cpu"]).text.split()

    def write(file: str, text: str) -> None:
        transport.write(f"{TRACEFS}/{file}", text.encode())

    def count() -> int:
        total = 0
        for cpu in cpus:
            rows = transport.read(f"{TRACEFS}/per_cpu/{cpu}/stats").decode().splitlines()
            stats = dict(row.split(": ") for row in rows)
            total += int(stats["entries"]) + int(stats["overrun"])
        return total

    write("set_ftrace_filter", ENTERED)
    try:
        yield Peer(
            lambda: write("current_tracer", "function"),
            lambda: write("current_tracer", "nop"),
            count,
        )
    finally:
        write("current_tracer", "nop")
        write("set_ftrace_filter", f"!{ENTERED}")


@contextmanager
def entry_kprobe(guest: Guest) -> Iterator[Peer]:
    """A kprobe at the entry: the kernel makes it one of ftrace."""
    target = f"djp_test:{ENTERED}"
    with guest.tracefs() as events:

        def attach() -> None:
            events.attach([target])
            listed = guest.transport.read("/sys/kernel/debug/kprobes/list").decode()
            assert f"{ENTERED}+0x0  djp_test [FTRACE]" in listed

        yield Peer(attach, events.detach, lambda: events.read()[target])


@contextmanager
def direct_call(guest: Guest) -> Iterator[Peer]:
    """A direct call from the ftrace site, past ftrace's own trampoline."""
    peers = Peers(guest)
    address = Targets(guest).address(ENTERED)
    yield Peer(lambda: peers.attach_direct(address), peers.detach_direct, peers.direct_hits)


PEERS = (function_tracer, entry_kprobe, direct_call)


@pytest.fixture
def functions(guest: Guest) -> Targets:
    return Targets(guest)


@pytest.mark.parametrize("make", PEERS)
def test_the_probe_and_a_peer_count_the_same_calls(
    watched: Guest,
    probes: Probes,
    functions: Targets,
    make: Callable[[Guest], AbstractContextManager[Peer]],
) -> None:
    start = functions.address(ENTERED)
    before = functions.text(start, 16)
    probe = probes.add(f"djp_test:{ENTERED}")
    assert probe.address == start + 5
    calls = 0
    with make(watched) as peer:
        for state in STATES:
            if state == "jump":
                assert probes.commit().complete
            assert probe.state == state

            with functions.load(ENTERED, ENTERED) as load:
                for _ in range(ROUNDS):
                    peer.attach()
                    peer.detach()
            assert load.wrong == 0
            calls += load.calls(ENTERED)
            assert probe.hits == calls

            peer.attach()
            attached = functions.text(start, 5)
            assert attached != before[:5], "the peer has changed the ftrace site"
            seen = peer.count()
            assert functions.call(ENTERED, 300) == 0
            assert peer.count() - seen == 300
            assert probe.hits == calls + 300
            peer.detach()
            assert functions.call(ENTERED, 50) == 0
            calls += 350
            assert probe.hits == calls

        # The other order: the peer is there first, and stays longer.
        probe.remove()
        peer.attach()
        seen = peer.count()
        again = probes.add(f"djp_test:{ENTERED}")
        assert again.address == start + 5
        assert functions.call(ENTERED, 20) == 0
        assert probes.commit().complete
        assert functions.call(ENTERED, 30) == 0
        assert again.hits == 50
        again.remove()
        assert functions.call(ENTERED, 40) == 0
        assert peer.count() - seen == 90
        peer.detach()
    assert functions.text(start, 16) == before


def test_the_probe_and_a_bpf_trampoline_count_the_same_calls(
    watched: Guest, probes: Probes
) -> None:
    """fentry, on a kernel function: a module of ours has no BTF."""
    probe = probes.add(PWRITE)
    calls = 0
    with (
        FentryCounter(watched.transport, PWRITE) as fentry,
        FileIo().prepare(watched.transport) as work,
    ):
        for state in STATES:
            if state == "jump":
                assert probes.commit().complete
            assert probe.state == state

            work.start()
            for _ in range(ROUNDS // 2):  # each takes long
                fentry.attach()
                fentry.detach()
            calls += work.stop().operations["pwrite"]
            assert probe.hits == calls

            fentry.attach()
            seen = fentry.read()
            assert work.go(operations=300).operations["pwrite"] == 300
            assert fentry.read() - seen == 300
            fentry.detach()
            assert work.go(operations=50).operations["pwrite"] == 50
            calls += 350
            assert probe.hits == calls


def test_what_a_livepatch_takes_is_not_ours(
    watched: Guest, probes: Probes, functions: Targets
) -> None:
    """While a livepatch is there, calls go from the ftrace site to the new function and do not
    reach the probe. Each call is counted once: by the probe or by the new function."""
    start = functions.address(ENTERED)
    before = functions.text(start, 16)
    peers = Peers(watched)
    probe = probes.add(f"djp_test:{ENTERED}")
    calls = replaced = 0
    for state in STATES:
        if state == "jump":
            assert probes.commit().complete
        assert probe.state == state

        with functions.load(ENTERED, ENTERED) as load:
            peers.enable_livepatch()
            replaced += peers.disable_livepatch()
        assert load.wrong == 0
        calls += load.calls(ENTERED)
        assert probe.hits + replaced == calls

        peers.enable_livepatch()
        reached = probe.hits
        assert functions.call(ENTERED, 100) == 0
        assert (probe.hits, peers.livepatch_calls()) == (reached, 100)
        if state == "jump":
            # A probe can be made, committed and removed behind a livepatch too.
            probe.remove()
            probe = probes.add(f"djp_test:{ENTERED}", name="later")
            assert probes.commit().complete
            reached = 0
        assert peers.disable_livepatch() == 100
        assert functions.call(ENTERED, 50) == 0
        assert probe.hits == reached + 50
        calls += 150
        replaced += 100
    probe.remove()
    assert functions.text(start, 16) == before


def test_behind_endbr64(watched: Guest, probes: Probes, functions: Targets) -> None:
    """The probe goes behind the ftrace site, and so behind the endbr64 before it.

    A kernel without IBT never changes such a site, so nobody can be attached here.
    """
    start = functions.address("djp_test_endbr")
    before = functions.text(start, 24)
    assert before[:4] == bytes.fromhex("f30f1efa")
    probe = probes.add("djp_test:djp_test_endbr")
    assert probe.address == start + 4 + 5
    assert probes.explain(f"{start + 4:#x}").address == probe.address
    calls = 0
    for state in STATES:
        if state == "jump":
            assert probes.commit().complete
        assert probe.state == state
        with functions.load("djp_test_endbr", "djp_test_endbr") as load:
            assert functions.call("djp_test_endbr", 500) == 0
        assert load.wrong == 0
        calls += load.calls("djp_test_endbr") + 500
        assert probe.hits == calls
    assert functions.text(start, 9) == before[:9]
    probe.remove()
    assert functions.text(start, 24) == before
