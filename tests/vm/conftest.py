"""Guests for the tests: a clean one for each file, its kernel log read after each test."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import filelock
import pytest

from pyctl import Guest, Probes
from pyctl.module import SOURCE as KMOD
from pyctl.verify.judgements import Judgements, read_judgements
from pyctl.verify.liveness import Kernel, read_kernel
from vm import keeper
from vm.settings import Settings
from vm.state import guests


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.from_env()


@pytest.fixture(autouse=True)
def tidy(settings: Settings) -> Iterator[None]:
    """Remove the traces of guests that a test let crash; not those of another test run."""
    before = {state.instance for state in guests(settings.cache)}
    yield
    for state in guests(settings.cache):
        ours = state.owner_pid == os.getpid()
        if ours and state.instance not in before and state.phase != "up":
            keeper.down(state.instance, settings)


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """A guest restored from the snapshot, with djprobes loaded; one for each file."""
    with Guest.boot("bookworm-cloud") as it:
        it.load()
        yield it


def judge() -> Judgements:
    with Guest.boot("bookworm-cloud") as it:
        it.load()
        return read_judgements(it.transport)


@pytest.fixture(scope="session")
def judgements(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Judgements:
    """What the module makes of every instruction. All guests of one snapshot have the same
    text at the same addresses, so one of them is asked; where several processes run tests, by
    the first that wants to know."""
    if worker_id == "master":
        return judge()
    kept = tmp_path_factory.getbasetemp().parent / "judgements"
    with filelock.FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(judge()))
    found = pickle.loads(kept.read_bytes())
    assert isinstance(found, Judgements)
    return found


@pytest.fixture(scope="session")
def kernel(judgements: Judgements) -> Kernel:
    """All text, unprobed, and which flags are live by an oracle of ours; the same in all guests
    of one snapshot."""
    with Guest.boot("bookworm-cloud") as it:
        return read_kernel(it.transport, judgements)


@pytest.fixture
def watched(guest: Guest) -> Iterator[Guest]:
    """The file's guest; fails if its kernel complained during the test."""
    log = guest.kernel_log()
    yield guest
    log.check()


@pytest.fixture
def probes(watched: Guest) -> Iterator[Probes]:
    """The guest's probes; those that a test leaves behind are removed."""
    with watched.probes() as it:
        yield it
        it.remove_all()


@pytest.fixture(scope="module")
def targets(guest: Guest) -> None:
    """Load the module whose functions are made to be probed."""
    guest.load_extra("djp_test", source=KMOD)
