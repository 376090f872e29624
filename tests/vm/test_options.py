"""Probes with options count what others count: the kernel's own events with filters, tasks that
know what they called, on which CPU and how often. Equal, not close."""

from __future__ import annotations

import errno
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from pyctl import Guest, Probes, Reason
from pyctl.errors import ControlError
from pyctl.maps import MapKind, bucket_of
from pyctl.options import Options
from pyctl.probes import Probe
from pyctl.verify.judgements import Judgements, MethodCode, SiteFlag
from pyctl.verify.jumps import commit_all
from pyctl.verify.livetext import peek
from pyctl.verify.nesting import INNER, OUTER, Action, Event, Form, Nest, Place
from pyctl.verify.taken import TARGET, Take, Takers, Task, TracedArguments
from pyctl.workloads import FileIo

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600), pytest.mark.usefixtures("targets")]

log = logging.getLogger(__name__)

CPUS = (0, 1)
#: How a probe takes control; bypass is an int3 that waits for its jump.
FORMS = ("bypass", "jump", "int3", "kprobe")
#: Keys that a map has room for on one CPU.
KEYS = 1024
#: Where nothing can be read: no memory, a user's, not canonical, around the end, vsyscall.
NOWHERE = (
    0, 8, 0x10000, 0x7FFFFFFFF000, 1 << 63, 0xFFFF7FFFFFFFFFFF, (1 << 64) - 1, (1 << 64) - 8,
    0xFFFFFFFFFF600000, 0xFFFFFFFF00000000,
)  # fmt: skip


@pytest.fixture(scope="module")
def takers(guest: Guest, targets: None) -> Iterator[Takers]:
    with Takers(guest) as it:
        yield it


@pytest.fixture
def seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    log.info("seed %d", seed)
    return seed


def put(probes: Probes, form: str, options: Sequence[Options], target: str = TARGET) -> list[Probe]:
    """A probe for each, all of that form."""
    method = form if form in {"int3", "kprobe"} else None
    made = probes.add_many([target] * len(options), options=options, method=method)
    if form == "jump":
        commit_all(probes, [probe.name for probe in made])
    assert {probe.state for probe in made} == {form}
    return made


def hits(probes: Probes, made: Sequence[Probe]) -> list[int]:
    """Of each, by one reading; the file hits has the same."""
    live = {status.name: status.hits for status in probes.list()}
    assert probes.read_hits() == live
    return [live[probe.name] for probe in made]


def table(probes: Probes, probe: Probe) -> dict[tuple[str, str], int]:
    """Its lines in maps, by kind and key; they add up to its hits."""
    found = {(str(e.kind), e.key): e.count for e in probes.maps() if e.name == probe.name}
    assert sum(found.values()) == probe.hits
    assert 0 not in found.values()
    return found


@dataclass(frozen=True)
class Case:
    """A condition, ours and that of the kernel's filter."""

    field: str
    event_field: str
    operator: str
    value: int

    @property
    def options(self) -> Options:
        return Options(f"{self.field} {self.operator} {self.value}")

    @property
    def filter(self) -> str:
        return f"{self.event_field} {self.operator} {self.value}"


#: Ours, and the kernel's name and definition of the same.
TYPES = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64")
FIELDS = {
    **{f"%si:{kind}": (f"a_{kind}", f"%si:{kind}") for kind in TYPES},
    **{f"+0(%di):{kind}": (f"m_{kind}", f"+0(%di):{kind}") for kind in TYPES},
    "-8(%di):u64": ("before", "-8(%di):u64"),
    "+8(%di):s32": ("behind", "+8(%di):s32"),
    "%dx:u16": ("b_u16", "%dx:u16"),
}
OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "&")


def draw_cases(draw: random.Random) -> list[Case]:
    """One for each operator and field."""
    cases = []
    for field, (name, definition) in FIELDS.items():
        kind = definition.rpartition(":")[2]
        bits = int(kind[1:])
        for operator in OPERATORS:
            value = draw.getrandbits(draw.choice((bits, 8, 7)) - 1)
            if kind[0] == "s" and operator != "&":
                value = draw.choice((value, -value - 1))
                value = max(-(1 << bits - 1), value)
            elif operator == "&":
                value |= 1 << draw.randrange(bits - 1)
            elif draw.randrange(3) == 0:
                value = (1 << bits) - 1 - draw.getrandbits(bits - 2)
            cases.append(Case(field, name, operator, value))
    return cases


def draw_takes(draw: random.Random, cases: Sequence[Case]) -> list[Take]:
    """Values around those of the cases, with whatever above them."""
    takes = []
    for case in cases:
        for near in (-1, 0, 1):
            value = case.value + near
            above = draw.choice((0, (1 << 64) - 1, draw.getrandbits(64)))
            bits = int(FIELDS[case.field][1].rpartition(":")[2][1:])
            mask = (1 << bits) - 1
            mixed = (above & ~mask) | (value & mask)
            other = ~mixed if case.event_field == "before" else mixed
            takes.append(Take(other, draw.choice((mixed, draw.getrandbits(64)))))
    return takes


def test_conditions_hold_as_often_as_the_kernels_filters(
    guest: Guest, probes: Probes, takers: Takers, seed: int
) -> None:
    draw = random.Random(seed)
    cases = draw_cases(draw)
    takes = draw_takes(draw, cases)
    definitions = [f"{name}={definition}" for name, definition in FIELDS.values()]
    before = [0] * len(cases)
    with TracedArguments(guest.transport, definitions) as traced:
        watches = [traced.watch(case.filter) for case in cases]
        for form in FORMS:
            made = put(probes, form, [case.options for case in cases])
            takers.run([Task(takes[cpu::2], cpu=cpu) for cpu in CPUS])
            tables = traced.read()
            after = [sum(tables[watch].values()) for watch in watches]
            theirs = [new - old for old, new in zip(before, after, strict=True)]
            before = after
            wrong = [
                f"{form}: {case.options}: {mine}, not {other}"
                for case, mine, other in zip(cases, hits(probes, made), theirs, strict=True)
                if mine != other
            ]
            assert not wrong
            assert sum(0 < count < len(takes) for count in theirs) > len(cases) * 0.8, theirs
            assert {status.unreadable for status in probes.list()} == {0}
            probes.remove_all()


def test_a_field_of_a_file(guest: Guest, probes: Probes) -> None:
    """Flags of the struct file that vfs_read() gets: wherever they are, at least one of these
    offsets has bits that differ from file to file."""
    offsets = range(0x20, 0x60, 4)
    with (
        FileIo().prepare(guest.transport) as running,
        TracedArguments(
            guest.transport,
            [f"o{offset:x}=+{offset}(%di):u32" for offset in offsets],
            function="vfs_read",
        ) as traced,
    ):
        pid = int(running.about["pid"])
        bits = [(offset, 1 << bit) for offset in offsets for bit in (0, 1, 15)]
        watches = [traced.watch(f"o{offset:x} & {bit}") for offset, bit in bits]
        options = [Options(f"+{offset}(%di):u32 & {bit}", by="pid") for offset, bit in bits]
        made = put(probes, "jump", options, "vfs_read")
        running.go(operations=200)
        tables = traced.read()
        maps = probes.maps()
    counted = [tables[watch].get(pid, 0) for watch in watches]
    ours = {entry.name: entry.count for entry in maps if entry.key == str(pid)}
    assert [ours.get(probe.name, 0) for probe in made] == counted
    assert 0 < sum(count > 0 for count in counted) < len(counted)


@pytest.mark.parametrize("form", FORMS)
def test_what_can_not_be_read_is_no_hit(probes: Probes, takers: Takers, form: str) -> None:
    """And the kernel does not complain: the fixture sees to that."""
    options = [
        Options("+0(%di):u64 != 12345"),
        Options("+0(%di):u8 >= 0"),
        Options("+0(%di):u32 >= 0", sample=2),
        Options(hist="+0(%di):u16"),
    ]
    made = put(probes, form, options)
    readable = [Take(number, times=3) for number in range(10)]
    takers.run([Task([*readable, *(Take(where=where) for where in NOWHERE)], cpu=1)])
    assert hits(probes, made) == [30, 30, 15, 30]
    assert [probe.unreadable for probe in made] == [len(NOWHERE)] * 4
    assert sum(table(probes, made[3]).values()) == 30


def test_histograms_have_each_value_in_its_bucket(
    guest: Guest, probes: Probes, takers: Takers, seed: int
) -> None:
    draw = random.Random(seed)
    fields = {
        "%si:u8": "a_u8", "%si:u16": "a_u16", "%si:u32": "a_u32", "%si": "a_u64",
        "+8(%di):u16": "m_u16", "+0(%di)": "m_u64",
    }  # fmt: skip
    values = [0, *((1 << bit) + off for bit in range(64) for off in (0, -1))]
    takes = [Take(value, draw.choice(values), times=draw.randrange(1, 4)) for value in values]
    definitions = [
        *(f"a_u{bits}=%si:u{bits}" for bits in (8, 16, 32, 64)),
        "m_u16=+8(%di):u16",
        "m_u64=+0(%di):u64",
    ]
    before: list[Counter[int]] = [Counter() for _ in fields]
    with TracedArguments(guest.transport, definitions) as traced:
        watches = [traced.watch(keys=name) for name in fields.values()]
        for form in FORMS:
            made = put(probes, form, [Options(hist=field) for field in fields])
            takers.run([Task(takes[cpu::2], cpu=cpu) for cpu in CPUS])
            tables = traced.read()
            after = [Counter(tables[watch]) for watch in watches]
            for probe, old, new in zip(made, before, after, strict=True):
                theirs: Counter[tuple[str, str]] = Counter()
                for value, count in (new - old).items():
                    theirs["hist", bucket_of(value)] += count
                assert table(probes, probe) == theirs, (form, probe.options)
            assert len(table(probes, made[3])) == 65
            before = after
            probes.remove_all()


@pytest.mark.parametrize("form", ["jump", "kprobe"])
def test_hits_by_cpu_and_task(guest: Guest, probes: Probes, takers: Takers, form: str) -> None:
    names = ("one", "two words", "back\\slash", "new\nline", "fifteen letters", "a")
    tasks = [
        Task([Take(number, times=10 + number)], cpu=CPUS[number % 2], comm=name)
        for number, name in enumerate(names)
    ]
    tasks.append(Task([Take(5, times=2)], cpu=1, comm="a", threads=20))
    with TracedArguments(guest.transport, ["a=%si:u64"]) as traced:
        watch, busy = traced.watch(), traced.watch("a >= 2")
        every = [Options(by=by) for by in ("cpu", "pid", "comm")]
        options = [*every, Options("%si >= 2", by="pid")]
        cpu, pid, comm, some = put(probes, form, options)
        ids = takers.run(tasks)
        tables = traced.read()
    calls = sum(task.calls for task in tasks)
    assert cpu.hits == pid.hits == comm.hits == calls
    by_cpu = {
        ("cpu", str(number)): sum(task.calls for task in tasks if task.cpu == number)
        for number in CPUS
    }
    assert table(probes, cpu) == by_cpu
    by_pid = {
        ("pid", str(each)): task.calls // len(found)
        for task, found in zip(tasks, ids, strict=True)
        for each in found
    }
    assert table(probes, pid) == by_pid
    assert by_pid == {("pid", str(key)): count for key, count in tables[watch].items()}
    assert table(probes, some) == {("pid", str(key)): count for key, count in tables[busy].items()}
    by_comm: Counter[tuple[str, str]] = Counter()
    for task in tasks:
        # The threads are made by the named one, and inherit its name.
        by_comm["comm", task.comm or ""] += task.calls
    assert table(probes, comm) == by_comm


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_is_each_nth_of_its_cpu(probes: Probes, takers: Takers, form: str) -> None:
    rates = (2, 3, 7, 16, 1000, 32768)
    made = put(probes, form, [Options(sample=rate) for rate in rates])
    odd = put(probes, form, [Options("%si:u8 & 1", sample=3)])[0]
    done = [0, 0]
    for first, second in ((1, 0), (1, 5), (997, 2), (1, 1000), (33_000, 4095)):
        takers.run(
            [Task([Take(times=times)], cpu=cpu) for cpu, times in enumerate((first, second))]
        )
        done = [done[0] + first, done[1] + second]
        assert hits(probes, made) == [sum(count // rate for count in done) for rate in rates]
    assert odd.hits == 0
    takers.run([Task([Take(number) for number in range(100)], cpu=1)])
    assert odd.hits == 50 // 3


@pytest.mark.parametrize("form", FORMS)
def test_once_is_once_on_all_cpus(probes: Probes, takers: Takers, form: str) -> None:
    (address,) = {probe.address for probe in put(probes, "bypass", [Options()])}
    probes.remove_all()
    (before,) = peek(probes.control.transport, [address], 16)
    (probe,) = put(probes, form, [Options(once=True)])
    hammer = [Task([Take(times=2000)], cpu=cpu) for cpu in (*CPUS, *CPUS)]
    for expected in (1, 2, 3):
        assert probe.state == form
        takers.run(hammer)
        assert probe.hits == expected
        probes.commit()
        assert probe.state == "spent"
        takers.run(hammer)
        assert probe.hits == expected
        assert peek(probes.control.transport, [address], 16) == [before]
        probe.enable()
        if form == "jump":
            commit_all(probes, [probe.name])


def test_once_with_a_condition_waits_for_it(probes: Probes, takers: Takers) -> None:
    (probe,) = put(probes, "jump", [Options("%si == 77", once=True)])
    takers.run([Task([Take(number) for number in range(77)], cpu=cpu) for cpu in CPUS])
    probes.commit()
    assert (probe.hits, probe.state) == (0, "jump")
    takers.run([Task([Take(77, times=50)], cpu=cpu) for cpu in CPUS])
    probes.commit()
    assert (probe.hits, probe.state) == (1, "spent")


def test_the_sweep_takes_out_what_is_spent(probes: Probes, takers: Takers) -> None:
    """Any batch does, one that adds another probe too; and a spent one next to others."""
    spent, other = put(probes, "jump", [Options(once=True), Options()])
    takers.run([Task([Take(times=10)], cpu=0)])
    third = probes.add("djp_test:djp_test_plain")
    assert (spent.state, spent.hits) == ("spent", 1)
    assert other.state in {"jump", "bypass"}
    takers.run([Task([Take(times=10)], cpu=0)])
    assert (spent.hits, other.hits, third.hits) == (1, 20, 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_soft_probe_stands_still_and_its_text_too(
    probes: Probes, takers: Takers, form: str
) -> None:
    soft, plain = put(probes, form, [Options(soft=True), Options()])
    calls = [Task([Take(times=50)], cpu=cpu) for cpu in CPUS]

    def text() -> list[bytes]:
        detour = soft.status.detour
        assert form == "kprobe" or detour is not None
        place = (detour.address, detour.length) if detour else (soft.address, 1)
        return [*peek(probes.control.transport, [soft.address], 16),
                *peek(probes.control.transport, [place[0]], place[1])]  # fmt: skip

    takers.run(calls)
    before = text()
    for number in (1, 2, 3):
        soft.disable()
        assert soft.state == "disabled"
        assert text() == before
        takers.run(calls)
        assert (soft.hits, plain.hits) == (100 * number, 100 * (2 * number))
        soft.enable()
        assert soft.state == form
        assert text() == before
        takers.run(calls)
        assert (soft.hits, plain.hits) == (100 * (number + 1), 100 * (2 * number + 1))


def test_a_soft_probe_that_is_not_soft_is_seen(probes: Probes) -> None:
    """Were the text the same whatever is disabled, the test above would prove nothing."""
    (plain,) = put(probes, "jump", [Options()])
    before = peek(probes.control.transport, [plain.address], 16)
    plain.disable()
    assert peek(probes.control.transport, [plain.address], 16) != before


def test_a_map_that_is_full_counts_the_rest_too(probes: Probes, takers: Takers) -> None:
    (pid,) = put(probes, "jump", [Options(by="pid")])
    (ids,) = takers.run([Task([Take(times=2)], cpu=0, threads=KEYS + 76)])
    assert len(set(ids)) == len(ids)
    assert pid.hits == 2 * len(ids)
    found = table(probes, pid)
    assert found.pop((MapKind.OTHER, "-")) == 2 * 76
    assert found == {("pid", str(each)): 2 for each in ids[:KEYS]}
    takers.run([Task([Take()], cpu=1)])
    found = table(probes, pid)
    assert found[MapKind.OTHER, "-"] == 2 * 76, "the other CPU has room"


#: What both probes of a nesting have, and how many of so many calls are hits.
NESTED = {
    "sample=3": (Options(sample=3), lambda calls: calls // 3),
    "sample=2": (Options(sample=2), lambda calls: calls // 2),
    "once": (Options(once=True), lambda _calls: 1),
    "soft": (Options(soft=True), lambda calls: calls),
    "hist": (Options(hist="%di"), lambda calls: calls),
    "hist in memory": (Options(hist="+0(%sp)"), lambda calls: calls),
    "pid": (Options(by="pid"), lambda calls: calls),
    "comm": (Options(by="comm"), lambda calls: calls),
    "if": (Options("%sp:s64 < 0"), lambda calls: calls),
}
EVENTS = [(Event.TIMER, Place.ANYWHERE), (Event.NMI, Place.ANYWHERE), (Event.NMI, Place.COPIED)]
TIMES = 50


@pytest.mark.parametrize("name", NESTED)
def test_hits_inside_hits_are_counted_exactly(watched: Guest, probes: Probes, name: str) -> None:
    options, expected = NESTED[name]
    nest = Nest(watched)
    for form in ("bypass", "jump"):
        for event, place in EVENTS:
            outer = put(probes, form, [options], f"djp_test:{OUTER}")[0]
            inner = put(probes, form, [options], f"djp_test:{INNER}")[0]
            done = nest.run(Form.GIVEN, event, place, TIMES, action=Action.COUNT)
            log.info("%s %s %s: %s", form, event, place, done)
            assert (done.landed, done.wrong) == (TIMES, 0)
            counted = (inner.hits, outer.hits)
            assert counted == (expected(done.inner_calls), expected(done.outer_calls))
            assert {status.missed for status in probes.list()} == {0}
            for probe in (inner, outer):
                if options.hist or options.by:
                    table(probes, probe)
            probes.remove_all()


@pytest.mark.parametrize("name", ["sample=3", "hist", "soft", "if", "pid"])
def test_a_breakpoint_at_each_instruction_of_a_detour(
    watched: Guest, probes: Probes, name: str
) -> None:
    """The nested hit comes between any two of them."""
    from iced_x86 import Decoder

    options, expected = NESTED[name]
    nest = Nest(watched)
    outer = put(probes, "jump", [options], f"djp_test:{OUTER}")[0]
    inner = put(probes, "jump", [options], f"djp_test:{INNER}")[0]
    detour = outer.status.detour
    assert detour is not None
    (code,) = peek(watched.transport, [detour.address], detour.length)
    before, inner_calls, outer_calls = 0, 0, 0
    for offset in [insn.ip for insn in Decoder(64, code)]:
        done = nest.run(
            Form.GIVEN, Event.DEBUG, Place.DETOUR, 20, action=Action.COUNT, offset=offset, cpu=0
        )
        inner_calls, outer_calls = inner_calls + done.inner_calls, outer_calls + done.outer_calls
        assert done.wrong == 0
        assert (inner.hits, outer.hits) == (expected(inner_calls), expected(outer_calls)), offset
        before += done.landed
    assert before > 100


def test_many_probes_with_options_in_one_batch(
    watched: Guest, probes: Probes, takers: Takers, judgements: Judgements, seed: int
) -> None:
    """All over the kernel, under load; then the text is as it was."""
    draw = random.Random(seed)
    part = judgements.parts[0]
    can = (part.method == MethodCode.JUMP) & (part.flags & SiteFlag.PADDING == 0)
    addresses = sorted(
        draw.sample(part.address[can & (part.flags & SiteFlag.FTRACE == 0)].tolist(), 400)
    )
    apart = [a for a, b in zip(addresses, [*addresses[1:], 1 << 64], strict=True) if b - a > 32]
    kinds = [
        Options("%di:u32 >= 5"), Options(sample=16), Options(hist="%si:u32"), Options(by="comm"),
        Options("+8(%di):u16 & 1", soft=True), Options(once=True), Options(soft=True, sample=3),
        Options("%ax:s8 < 0", hist="%bx"), Options(by="cpu"), Options(hist="-4(%sp):u32"),
        Options("%r15 != 0x123456789abcdef0"), Options("%sp & 8"),
    ]  # fmt: skip
    with watched.kernel_text() as text, FileIo().background(watched.transport):
        text.save()
        options = [kinds[number % len(kinds)] for number in range(len(apart))]
        made = probes.add_many([hex(address) for address in apart], options=options)
        assert [probe.options for probe in made[: len(kinds)]] == kinds
        commit_all(probes, [p.name for p, o in zip(made, options, strict=True) if not o.once])
        takers.run([Task([Take(times=2000)], cpu=cpu) for cpu in CPUS])
        found: Counter[str] = Counter()
        hit = probes.hits()
        for entry in probes.maps():
            found[entry.name] += entry.count
        later = probes.hits()
        assert all(hit[name] <= count <= later[name] for name, count in found.items())
        assert sum(later.values()) > 0
        probes.remove_all()
        assert text.diff().unaccounted_bytes == 0


#: A command, the reason and the token that it is refused for, and the errno.
BAD = {
    "p T if %di >=": (Reason.SYNTAX, None),
    "p T if": (Reason.SYNTAX, None),
    "p T if %di => 5": (Reason.SYNTAX, "=>"),
    "p T if %xx == 5": (Reason.BAD_FIELD, "%xx"),
    "p T if di == 5": (Reason.BAD_FIELD, "di"),
    "p T if %di:u7 == 5": (Reason.BAD_FIELD, "%di:u7"),
    "p T if %di:x64 == 5": (Reason.BAD_FIELD, "%di:x64"),
    "p T if +8(%zz) == 5": (Reason.BAD_FIELD, "+8(%zz)"),
    "p T if +8(%di == 5": (Reason.BAD_FIELD, "+8(%di"),
    "p T if +8+(%di) == 5": (Reason.BAD_FIELD, "+8+(%di)"),
    "p T if +0x100000000(%di) == 5": (Reason.BAD_FIELD, "+0x100000000(%di)"),
    "p T if +8(+8(%di)) == 5": (Reason.BAD_FIELD, "+8(+8(%di))"),
    "p T if %di:u8 == 256": (Reason.BAD_VALUE, "256"),
    "p T if %di:s8 == 128": (Reason.BAD_VALUE, "128"),
    "p T if %di:s8 == -129": (Reason.BAD_VALUE, "-129"),
    "p T if %di == -1": (Reason.BAD_VALUE, "-1"),
    "p T if %di == 0x10000000000000000": (Reason.BAD_VALUE, "0x10000000000000000"),
    "p T if %di == five": (Reason.BAD_VALUE, "five"),
    "p T if %di == 5x": (Reason.BAD_VALUE, "5x"),
    "p T sample=1": (Reason.BAD_VALUE, None),
    "p T sample=0": (Reason.BAD_VALUE, None),
    "p T sample=32769": (Reason.BAD_VALUE, None),
    "p T sample=": (Reason.BAD_VALUE, None),
    "p T sample=x": (Reason.BAD_VALUE, None),
    "p T hist=%di:s32": (Reason.NOT_SUPPORTED, None),
    "p T hist=": (Reason.BAD_FIELD, None),
    "p T hist=%flags": (Reason.BAD_FIELD, None),
    "p T by=tid": (Reason.BAD_VALUE, None),
    "p T by=": (Reason.BAD_VALUE, None),
    "p T if %di == 010": (Reason.BAD_VALUE, "010"),
    "p T if +010(%di) == 1": (Reason.BAD_FIELD, "+010(%di)"),
    "p T sample=010": (Reason.BAD_VALUE, None),
    "p T once sample=2": (Reason.NOT_SUPPORTED, None),
    "p T once hist=%di": (Reason.NOT_SUPPORTED, None),
    "p T by=cpu once": (Reason.NOT_SUPPORTED, None),
    "p T by=cpu hist=%di": (Reason.NOT_SUPPORTED, None),
    "p T soft soft": (Reason.NOT_SUPPORTED, None),
    "p T sample=2 sample=2": (Reason.NOT_SUPPORTED, None),
    "p T if %di == 1 if %di == 2": (Reason.NOT_SUPPORTED, None),
    "p T twice": (Reason.NOT_SUPPORTED, "twice"),
    "p T once=1": (Reason.NOT_SUPPORTED, None),
}


def test_bad_options_are_refused_and_nothing_is_done(probes: Probes) -> None:
    good = f"p:good {TARGET} soft if %di >= 5 hist=%si"
    probes.control.submit([f"p:kept {TARGET}"])
    for line, (reason, token) in BAD.items():
        with pytest.raises(ControlError) as caught:
            probes.control.submit([good, line.replace(" T ", f" {TARGET} "), "-:kept"])
        error = caught.value
        assert (error.reason, error.line) == (reason, 2), (line, error)
        assert error.token is not None
        assert error.token == token or (token is None and error.token in line), (line, error)
        if reason in {Reason.BAD_FIELD, Reason.BAD_VALUE}:
            assert error.errno == errno.EINVAL
        assert [(s.name, s.hits) for s in probes.list()] == [("kept", 0)], line


def test_options_are_shown_as_they_were_given(probes: Probes) -> None:
    lines = {
        "soft if %di >= 5 sample=16 hist=%si:u32": "soft,if:%di>=5,sample=16,hist=%si:u32",
        "by=pid if +0x8(%di):s8 == -0x1 soft": "soft,if:+8(%di):s8==-1,by=pid",
        "once if -8(%r15):u16 & 0xff": "if:-8(%r15):u16&255,once",
        "if 16(%sp) != 0xffffffffffffffff": "if:+16(%sp)!=18446744073709551615",
        "hist=%di:u64": "hist=%di",
        "by=cpu sample=32768": "sample=32768,by=cpu",
        "count": "-",
    }
    for number, words in enumerate(lines):
        probes.control.submit([f"p:n{number} {TARGET} {words}"])
    assert [str(status.options) for status in probes.list()] == list(lines.values())
