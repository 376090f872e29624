"""The emulator runs the code that calls a handler, or leaves all to C code, passes it if it is
right and names what is wrong with others. All bytes are written by hand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from pyctl.errors import OracleError
from pyctl.transport import Completed, RecordingTransport
from pyctl.verify.emulate import STATUS, Site, Verdict, emulate
from pyctl.verify.emulate_actions import InC
from pyctl.verify.emulate_handlers import Entries, Handed, Handled, read_entries, read_handed
from pyctl.verify.emulate_options import Slot

IA = 0xFFFFFFFF81234FFB
DETOUR = 0xFFFFFFFFC0400010
ENTRY = 0xFFFFFFFFC0500020
THUNK, HANDLER = 0xFFFFFFFF81A01740, 0xFFFFFFFFC0601230
NESTED, RESCHED = 0xFFFFFFFFC0502000, 0xFFFFFFFFC0502100
MAP_HIT, DISPATCH = 0xFFFFFFFFC0502200, 0xFFFFFFFFC0502300
STRUCT, PROBE = 0xFFFF888012345600, 0xFFFF888023456700
COUNT, PREEMPTION, RUNNING = 0x1F040, 0x1FB40, 0x34000
STATES = 60
#: setb %cl; adc %rax,%rbx: CF is read, then nobody reads flags.
DCR = bytes.fromhex("0f92c14811c3")
#: mov %rax,%rbx; test %rax,%rax
DEAD_DCR = bytes.fromhex("4889c34885c0")
CALM = bytes.fromhex("0f01cafc")  # clac; cld
KEEPS = bytes.fromhex("488d6424109d488d642410")
DROPS = bytes.fromhex("488d642428")


def le(value: int) -> bytes:
    return struct.pack("<i", value)


def rel32(opcode: bytes, at: int, target: int) -> bytes:
    return opcode + le(target - at - len(opcode) - 4)


PUSHES = bytes.fromhex("5756525150415041514152415353554154415541564157")
CALLEE_SAVED = bytes.fromhex("415f415e415d415c5d5b")
CALLER_SAVED = bytes.fromhex("415b415a4159415858595a5e5f")
#: The parts of an entry, by name; those that depend on where they are are functions.
Part = bytes | Callable[[int], bytes]
PARTS: dict[str, Part] = {
    "clear": CALM,
    "save": PUSHES,
    "ss": bytes.fromhex("48c78424a000000018000000"),
    "regs": bytes.fromhex("4889e6"),  # mov %rsp,%rsi
    "note": bytes.fromhex("65ff3425") + le(PREEMPTION),  # push %gs:
    "off": bytes.fromhex("65ff0425") + le(PREEMPTION),  # incl %gs:
    "alone": bytes.fromhex("6548833c25") + le(RUNNING) + b"\0",  # cmpq $0,%gs:
    "jne_nested": b"\0\0",
    "detour": bytes.fromhex("488b4678488b40de"),  # orig_ax(%rsi), -34(%rax)
    "probe": bytes.fromhex("488b7858"),  # mov 88(%rax),%rdi
    "begin": bytes.fromhex("6548892425") + le(RUNNING),  # mov %rsp,%gs:
    "handler": bytes.fromhex("488b4718"),  # mov 24(%rdi),%rax
    "call": lambda at: rel32(b"\xe8", at, THUNK),
    "end": bytes.fromhex("6548c70425") + le(RUNNING) + le(0),  # movq $0,%gs:
    "on": bytes.fromhex("65ff0c25") + le(PREEMPTION),  # decl %gs:
    "jz_resched": b"\0\0",
    "drop": bytes.fromhex("4883c408"),
    "callee_saved": CALLEE_SAVED,
    "caller_saved": CALLER_SAVED,
    "ret": b"\xc3",
    "nested": lambda at: b"\x48\x89\xe7" + rel32(b"\xe8", at + 3, NESTED),
    "jmp_on": b"\0\0",
    "resched": lambda at: rel32(b"\xe8", at, RESCHED),
    "jmp_drop": b"\0\0",
}
#: Short jumps to parts.
JUMPS = {
    "jne_nested": (0x75, "nested"),
    "jz_resched": (0x74, "resched"),
    "jmp_on": (0xEB, "on"),
    "jmp_drop": (0xEB, "drop"),
}
#: What an entry for a handler that only reads has instead.
READER: dict[str, Part] = {"drop": bytes.fromhex("4883c438"), "callee_saved": b""}


def entries(**changed: Part) -> Entries:
    """An entry with other parts; or the right one."""
    places, code = {}, b""
    for name, part in (PARTS | changed).items():
        places[name] = len(code)
        code += part(ENTRY + len(code)) if callable(part) else part
    patched = bytearray(code)
    for name, (opcode, to) in JUMPS.items():
        at = places[name]
        patched[at : at + 2] = struct.pack("Bb", opcode, places[to] - at - 2)
    return Entries(ENTRY, bytes(patched), {ENTRY: "djp_handler_entry"}, NESTED, RESCHED)


def site(
    *,
    dcr: bytes = DCR,
    dead: int = STATUS & ~1,
    calm: bool = False,
    after: bytes = KEEPS,
    ip: int = IA,
    count: int = 1,
) -> Site:
    code = bytes.fromhex("54ff34249c")  # push %rsp; push (%rsp); pushfq
    code += (bytes.fromhex("6548ff0425") + le(COUNT)) * count
    code += b"\x6a\x10\x68" + le(ip - (1 << 64))
    code += rel32(b"\xe8", DETOUR + len(code), ENTRY) + after
    first = DETOUR + len(code)
    code += dcr
    code += rel32(b"\xe9", DETOUR + len(code), IA + len(dcr))
    live = rel32(b"\xe9", IA, DETOUR).ljust(len(dcr), b"\x90")
    return Site(IA, dcr, live, DETOUR, code, {0: first, 3: first + 3}, dead=dead, calm=calm)


def handed(handler: int = HANDLER, header: int = STRUCT) -> Handed:
    memory = {
        STRUCT: bytes(88) + struct.pack("<Q", PROBE),
        PROBE: bytes(24) + struct.pack("<Q", handler),
    }
    return Handed(PROBE, HANDLER, struct.pack("<Q", header), memory)


def run(
    made: Site, by: Entries, given: Handed | None = None, *, changes: bool = False
) -> tuple[Verdict, Handled]:
    action = Handled(made, by, given or handed(), changes=changes)
    return emulate(made, seed=3, states=STATES, action=action), action


RIGHT = {
    "handler": (site(), entries()),
    "reader": (site(), entries(**READER)),
    "direct call": (site(), entries(call=b"\xff\xd0")),
    "calm": (site(calm=True), entries(clear=b"")),
    "calm and dead": (
        site(dcr=DEAD_DCR, dead=STATUS, calm=True, after=DROPS),
        entries(clear=b""),
    ),
    # incl %gs:PREEMPTION: the displaced instructions write it too
    "preemption": (
        site(dcr=bytes.fromhex("65ff0425") + le(PREEMPTION), dead=STATUS), entries(),
    ),
    # sub $0xb8,%rsp: down to where the entry has left an address of its own
    "stack": (
        site(dcr=bytes.fromhex("4881ecb8000000"), dead=STATUS, calm=True, after=DROPS),
        entries(clear=b""),
    ),
    # lock addl $0,-4(%rsp)
    "barrier": (site(dcr=bytes.fromhex("f0834424fc00"), dead=STATUS), entries()),
}  # fmt: skip


@pytest.mark.parametrize("what", RIGHT)
def test_a_right_call_of_a_handler_passes(what: str) -> None:
    verdict, action = run(*RIGHT[what])
    assert verdict.differences == ()
    assert verdict.same
    assert action.arrivals == STATES
    assert 0 < action.nested < STATES / 2
    assert 0 < action.waited < STATES / 2


def swapped(code: bytes, one: bytes, other: bytes) -> bytes:
    return code.replace(one, b"?").replace(other, one).replace(b"?", other)


#: What is wrong, and what is said.
WRONG: dict[str, tuple[Site, Entries, str]] = {
    "ip": (site(ip=IA + 1), entries(), "ip is handed over as"),
    "DF": (site(), entries(clear=b"\x0f\x01\xca"), "with DF or AC set"),
    "AC": (site(), entries(clear=b"\xfc"), "with DF or AC set"),
    "a calm entry elsewhere": (site(), entries(clear=b""), "with DF or AC set"),
    "live flags": (site(calm=True, after=DROPS), entries(clear=b""), "rcx is"),
    "AC and DF not restored": (
        site(dcr=DEAD_DCR, dead=STATUS, after=DROPS), entries(), "is 0, not 1",
    ),
    "no popfq": (
        site(after=KEEPS.replace(b"\x9d", b"\x90")[:-1] + b"\x18"), entries(), "rcx is",
    ),
    "pushed in another order": (
        site(), entries(save=swapped(PUSHES, b"\x53", b"\x55")), "rbp is handed over as",
    ),
    "popped in another order": (
        site(), entries(caller_saved=swapped(CALLER_SAVED, b"\x59", b"\x5a")), "rdx is",
    ),
    "callee-saved popped in another order": (
        site(), entries(callee_saved=swapped(CALLEE_SAVED, b"\x41\x5c", b"\x41\x5f")), "r12 is",
    ),
    "a pop left out": (site(), entries(caller_saved=CALLER_SAVED.replace(b"\x59", b"\x90")), ""),
    "ss": (
        site(), entries(ss=bytes.fromhex("48c78424a000000010000000")), "ss is handed over as 0x10",
    ),
    "no ss": (site(), entries(ss=b""), "ss is handed over as"),
    "orig_ax": (
        site(), entries(regs=bytes.fromhex("4889e6" "488d7608")), "r15 is handed over as",
    ),
    "preemption stays on": (
        site(), entries(off=bytes.fromhex("65832c25") + le(PREEMPTION) + b"\0"),
        "the preemption count is",
    ),
    "preemption stays off": (
        site(), entries(on=bytes.fromhex("65833c25") + le(PREEMPTION) + b"\0"),
        "in the end, not",
    ),
    "not said to run": (site(), entries(begin=b""), "is said to be running"),
    "runs for ever": (site(), entries(end=b""), "in the end, not 0x0"),
    "nested as if alone": (
        site(), entries(alone=bytes.fromhex("6548833c25") + le(RUNNING) + b"\0" + b"\x39\xc0"),
        "while another handler runs",
    ),
    "rdi": (
        site(),
        entries(nested=lambda at: b"\x48\x89\xf7" + rel32(b"\xe8", at + 3, NESTED)),
        "rdi is",
    ),
    "nobody is let on": (site(), entries(resched=b"\x0f\x1f\x44\0\0"), "1 calls"),
    "something else for who waits": (
        site(), entries(resched=lambda at: rel32(b"\xe8", at, NESTED)),
        "when preemption was waited for",
    ),
    "another probe": (
        site(), entries(probe=bytes.fromhex("488b7850")), "the handler's probe is 0x0",
    ),
    "another function": (site(), entries(handler=bytes.fromhex("488b4710")), "not the handler"),
    "no call": (site(), entries(call=b"\x0f\x1f\x44\0\0"), " calls"),
    "not counted": (site(count=0), entries(), "has no counter"),
    "counted twice": (site(count=2), entries(), "the counter goes up by 2"),
    "deep below the stack": (
        site(), entries(regs=bytes.fromhex("4889e6" "48894424e0")), "which are not its own",
    ),
    "memory": (site(), entries(regs=bytes.fromhex("4889e6" "488903")), "which are not its own"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_call_of_a_handler_is_told(what: str) -> None:
    made, by, words = WRONG[what]
    verdict, _ = run(made, by)
    assert verdict.differences
    assert any(words in text for text in verdict.differences), verdict.differences


def test_what_a_handler_changes_is_found_by_what_was_displaced() -> None:
    for what, (made, by) in RIGHT.items():
        verdict, _ = run(made, by, changes=True)
        assert verdict.same == (what != "reader"), what
    lost = run(*RIGHT["reader"], changes=True)[0].differences
    assert any(name in text for text in lost for name in ("rbx is", "rbp is", "r1")), lost
    # live flags are those of its pt_regs, too
    unchanged = run(site(after=DROPS, calm=True), entries(clear=b""), changes=True)[0]
    assert not unchanged.same


def actions_entry(**changed: Part) -> Entries:
    """What leaves all to C code, with other parts; or the right one."""
    parts: dict[str, Part] = {
        "clear": CALM,
        "save": PUSHES,
        "ss": PARTS["ss"],
        "regs": bytes.fromhex("4889e7"),  # mov %rsp,%rdi
        "from": bytes.fromhex("488b742478"),  # mov orig_ax(%rsp),%rsi
        "call": lambda at: rel32(b"\xe8", at, DISPATCH),
        "callee_saved": CALLEE_SAVED,
        "caller_saved": CALLER_SAVED,
        "ret": b"\xc3",
    }
    code = b""
    for part in (parts | changed).values():
        code += part(ENTRY + len(code)) if callable(part) else part
    names = {ENTRY: "djp_actions_entry"}
    return Entries(ENTRY, code, names, NESTED, RESCHED, dispatch=DISPATCH)


#: A detour with a call, and nothing to count.
call = partial(site, count=0)


#: What is wrong with a detour or an entry that leaves all to C code, and what is said.
WRONG_CALLS: dict[str, tuple[Site, Entries, str]] = {
    "ip": (call(ip=IA + 1), actions_entry(), "ip is handed over as"),
    "DF": (call(), actions_entry(clear=b"\x0f\x01\xca"), "with DF or AC set"),
    "no call": (call(), actions_entry(call=b"\x0f\x1f\x44\0\0"), "1 arrivals, but 0 calls"),
    "stack": (call(after=b"\x9d" + KEEPS[6:]), actions_entry(), ""),
    "live flags": (call(after=DROPS, calm=True), actions_entry(), "rcx is"),
    "AC and DF not restored": (
        call(dcr=DEAD_DCR, dead=STATUS, after=DROPS), actions_entry(), "is 0, not 1",
    ),
    "another function": (
        call(), actions_entry(call=lambda at: rel32(b"\xe8", at, NESTED)), "not the function",
    ),
    "from elsewhere": (
        call(), actions_entry(**{"from": bytes.fromhex("488b742470")}), "it is told that",
    ),
    "popped in another order": (
        call(), actions_entry(caller_saved=swapped(CALLER_SAVED, b"\x59", b"\x5a")), "rdx is",
    ),
    "rbp not saved": (
        call(), actions_entry(save=swapped(PUSHES, b"\x53", b"\x55")), "rbp is handed over as",
    ),
}  # fmt: skip


def test_c_code_gets_the_state_of_the_arrival() -> None:
    for right in (call(), call(dcr=DEAD_DCR, dead=STATUS, calm=True, after=DROPS)):
        action = InC(right, actions_entry())
        verdict = emulate(right, seed=2, states=STATES, action=action)
        assert verdict.differences == ()
        assert verdict.same
        assert action.arrivals == STATES


@pytest.mark.parametrize("what", WRONG_CALLS)
def test_a_wrong_call_is_told(what: str) -> None:
    made, by, words = WRONG_CALLS[what]
    verdict = emulate(made, seed=2, states=STATES, action=InC(made, by))
    assert not verdict.same
    assert any(words in text for text in verdict.differences), verdict.differences


def test_another_handler_than_the_probe_has() -> None:
    verdict, _ = run(site(), entries(), handed(handler=HANDLER + 1))
    assert any("not the handler" in text for text in verdict.differences)
    verdict, _ = run(site(), entries(), handed(header=STRUCT + 8))
    assert verdict.differences


def test_the_slots_are_found_in_the_code() -> None:
    by = entries()
    assert by.preemption == Slot(PREEMPTION, 4)
    assert by.running == Slot(RUNNING, 8)
    assert by.called() == {THUNK, NESTED, RESCHED}
    assert by.entry("djp_handler_entry") == ENTRY
    assert ENTRY in by
    assert ENTRY + len(by.code) not in by
    two = replace(by, code=by.code + bytes.fromhex("65ff0425") + le(8))
    with pytest.raises(OracleError, match="2 slots"):
        _ = two.preemption


KALLSYMS = f"""\
{ENTRY:x} t djp_handler_entry\t[djprobes]
{ENTRY + 4:x} t djp_reader_entry\t[djprobes]
{ENTRY + 8:x} t djp_entries_end\t[djprobes]
{NESTED:x} t djp_dispatch_nested\t[djprobes]
{RESCHED:x} t djp_resched\t[djprobes]
{DISPATCH:x} t djp_dispatch\t[djprobes]
{MAP_HIT:x} t djp_map_hit\t[djprobes]
{RUNNING:x} a djp_running\t[djprobes]
"""


class Host(RecordingTransport):
    """Has some memory, by its address, and symbols."""

    def __init__(self, memory: Mapping[int, bytes], symbols: str) -> None:
        super().__init__(results={("grep",): (0, symbols.encode())})
        self.memory = memory

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002 (named as in subprocess.run)
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        if input:
            question = input[input.rindex(b'{"ranges"') :]
            ranges = json.loads(question)["ranges"]
            data = b"".join(self.memory[at].ljust(length, b"\0") for at, length in ranges)
            return Completed(tuple(argv), 0, zlib.compress(b"[]\n" + data), b"")
        return super().run(argv, input=input, timeout=timeout, check=check)


def test_the_code_is_read_from_the_host() -> None:
    by = read_entries(Host({ENTRY: bytes(range(8))}, KALLSYMS))
    assert by.code == bytes(range(8))
    assert by.names == {ENTRY: "djp_handler_entry", ENTRY + 4: "djp_reader_entry"}
    assert (by.nested, by.resched) == (NESTED, RESCHED)
    assert (by.map_hit, by.dispatch) == (MAP_HIT, DISPATCH)


def test_what_is_handed_over_is_read_from_the_host() -> None:
    right = handed()
    memory = {DETOUR - 8: right.header, **right.memory}
    there = Host(memory, f"{HANDLER:x} t a_handler\t[djp_test]\n")
    (found,) = read_handed(there, [site()], {IA: PROBE}, "a_handler")
    assert (found.probe, found.handler, found.header) == (PROBE, HANDLER, right.header)
    assert run(site(), entries(), found)[0].same
