"""The compact file: the same counts as `probes` has, of the right probes, whatever changes."""

from __future__ import annotations

import pytest

from pyctl import Guest, Probes
from pyctl.control import DEBUGFS, parse_hits
from pyctl.options import Options
from pyctl.verify.bulk import find_targets

pytestmark = pytest.mark.vm

COUNT = 1000
#: Reached by every program that is started.
HOT = ("vfs_read", "vfs_write", "vfs_open", "do_exit")


@pytest.fixture(scope="module")
def functions(guest: Guest) -> tuple[str, ...]:
    return find_targets(guest.transport, COUNT, HOT).functions


def column(probes: Probes) -> list[int]:
    """HITS of `probes`."""
    return [status.hits for status in probes.list()]


def by_name(probes: Probes) -> dict[str, int]:
    return {status.name: status.hits for status in probes.list()}


def test_it_has_the_hits_of_probes(
    watched: Guest, probes: Probes, functions: tuple[str, ...]
) -> None:
    made = probes.add_many(functions)
    probes.commit()
    watched.workload("fileio").run(operations=200)

    # While they are hit, each lies between what `probes` had before and has afterwards.
    low, compact, high = column(probes), probes.control.hits().hits, column(probes)
    assert len(compact) == COUNT
    for before, hits, after in zip(low, compact, high, strict=True):
        assert before <= hits <= after

    probes.disable(*made)  # then they are the same
    assert sum(probe > 0 for probe in column(probes)) >= len(HOT)
    assert list(probes.control.hits().hits) == column(probes)
    assert probes.read_hits() == by_name(probes) == probes.hits()
    assert len(set(by_name(probes).values())) > 20, "that they differ is what tells them apart"


def test_a_generation_is_a_table(
    watched: Guest, probes: Probes, functions: tuple[str, ...]
) -> None:
    def generation() -> int:
        return probes.control.hits().generation

    seen = [generation()]
    one, two = probes.add_many(functions[:2])
    seen.append(generation())
    probes.commit()
    watched.workload("fileio").run(operations=10)
    probes.disable(one)
    probes.enable(one)
    probes.commit()
    assert generation() == seen[-1], "nothing was added or removed"
    three = probes.add(functions[2])
    seen.append(generation())
    probes.remove(two)
    seen.append(generation())
    probes.control.submit([f"-:{three.name}", f"p:{three.name} {functions[3]}"])
    seen.append(generation())
    probes.remove_all()
    seen.append(generation())
    assert len(set(seen)) == len(seen)


def test_names_follow_removals(watched: Guest, probes: Probes, functions: tuple[str, ...]) -> None:
    made = probes.add_many(functions)
    watched.workload("fileio").run(operations=100)
    probes.disable(*made)
    before = probes.read_hits()
    assert before == by_name(probes)
    gone = {probe.name for probe in made[::3]}
    probes.remove(*gone)
    after = probes.read_hits()
    assert after == {name: hits for name, hits in before.items() if name not in gone}
    # Somebody else takes a name, and the place of another at the end of the table.
    other = Probes(watched.transport)
    name = made[0].name
    other.add(HOT[0], name=name)
    watched.transport.run(["cat", "/proc/version"])
    other.disable(name)
    assert probes.read_hits() == by_name(probes)
    assert probes.read_hits()[name] > 0
    other.remove(name)


def test_readers_while_the_table_changes(
    watched: Guest, probes: Probes, functions: tuple[str, ...]
) -> None:
    """Each reading is whole, and no name has the hits of another."""
    quiet = probes.add_many(functions[:200])
    watched.workload("fileio").run(operations=50)
    probes.disable(*quiet)
    kept = by_name(probes)
    script = (
        "while True:\n"
        "    for text in ('p:passing vfs_read\\n', '-:passing\\n'):\n"
        "        with open('/sys/kernel/debug/djprobes/control', 'wb', 0) as control:\n"
        "            control.write(text.encode())\n"
        "    print('done', flush=True)\n"
    )
    counts = set()
    with watched.transport.spawn(["python3", "-c", script]) as changer:
        for _ in range(20):
            assert changer.read_line(60) == "done"
            raw = watched.transport.read(f"{DEBUGFS}/hits").decode()
            counts.add(len(parse_hits(raw).hits))
            found = probes.read_hits()
            assert {name: hits for name, hits in found.items() if name != "passing"} == kept
    assert counts <= {200, 201}
    probes.remove_all()


def test_a_module_that_was_loaded_anew(watched: Guest, functions: tuple[str, ...]) -> None:
    """Its first table must not be taken for the one before."""
    watched.unload()  # so that both loads see as many changes
    with watched.probes() as probes:
        first = probes.add(functions[0], name="first")
        assert set(probes.read_hits()) == {"first"}
        first.remove()
        watched.unload()
        watched.load()
        with Probes(watched.transport) as others:
            others.add(functions[0], name="second")
            assert set(probes.read_hits()) == {"second"}


def test_only_what_counts_is_in_it(watched: Guest, probes: Probes) -> None:
    """A condition that never holds, and one that always does."""
    never, always = (
        probes.add("vfs_read", name=name, options=Options(condition=condition))
        for name, condition in (("never", "%di == 0"), ("always", "%di != 0"))
    )
    watched.workload("fileio").run(operations=100)
    probes.disable(never, always)
    assert probes.read_hits() == {"never": 0, "always": always.hits}
    assert always.hits >= 100
