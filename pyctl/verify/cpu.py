"""A CPU that runs a few bytes of kernel code from a random state: unicorn, in kernel mode,
without paging. Memory comes into being when it is used, with contents that follow from its
address and the state's seed; so two CPUs that start from one state see the same memory.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unicorn import Uc, UcError
from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86

from pyctl.errors import OracleError

PAGE = 4096
MASK = (1 << 64) - 1
INT3 = b"\xcc"
#: An instruction that repeats (rep movsb) takes a step each time.
MAX_STEPS = 5000
#: The longest that an instruction can be.
MAX_INSN = 15

GENERAL: Mapping[str, int] = {
    name: getattr(x86, f"UC_X86_REG_{name.upper()}")
    for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    )
}  # fmt: skip
VECTOR: Mapping[str, int] = {f"xmm{n}": getattr(x86, f"UC_X86_REG_XMM{n}") for n in range(16)}
BASES: Mapping[str, int] = {
    "fs_base": x86.UC_X86_REG_FS_BASE,
    "gs_base": x86.UC_X86_REG_GS_BASE,
}
REGISTERS: Mapping[str, int] = {**GENERAL, **VECTOR, **BASES}

#: Bits of rflags that a state chooses.
FLAGS: Mapping[str, int] = {
    "CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "IF": 9, "DF": 10, "OF": 11, "AC": 18, "ID": 21,
}  # fmt: skip
#: Always set.
FLAGS_FIXED = 1 << 1
#: The CPU single-steps. No state begins so, but popf may find it in memory.
TRAP_FLAG = 1 << 8

#: CR4: FSGSBASE, OSXSAVE and the two for SSE are set, as in a kernel.
CR4_BITS = 1 << 16 | 1 << 18 | 1 << 10 | 1 << 9

EXCEPTIONS: Mapping[int, str] = {
    0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS",
    11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM",
}  # fmt: skip

#: ``leaves(address)`` is asked before each instruction: does the run end here?
Leaves = Callable[[int], bool]


@dataclass(frozen=True)
class State:
    """Where a run starts; ``registers`` by the names of REGISTERS, ``seed`` for memory."""

    seed: int
    registers: Mapping[str, int]
    flags: int

    def page(self, address: int) -> bytes:
        """The contents of the page at an address."""
        return hashlib.shake_128(f"{self.seed} {address}".encode()).digest(PAGE)

    def memory(self, address: int, size: int) -> bytes:
        """``size`` bytes of memory as they are at the start; not of pages with code."""
        places = [(address + n) & MASK for n in range(size)]
        return bytes(self.page(at & -PAGE & MASK)[at % PAGE] for at in places)


@dataclass(frozen=True)
class Ending:
    """The state in which a run ended, at the address ``next``, behind the instruction at
    ``last``; that is 0 if there was none.

    ``memory`` has each byte that was written, by its address; ``ports`` number, size in
    bytes and value of each output. ``exception`` is the name of the one that ended it,
    ``endless`` says that it did not end, ``unknown`` has the bytes of an instruction that
    the emulator does not know.
    """

    next: int
    registers: Mapping[str, int]
    flags: int
    memory: Mapping[int, int]
    ports: tuple[tuple[int, int, int], ...]
    exception: str | None = None
    endless: bool = False
    unknown: bytes | None = None
    last: int = 0


def draw_state(draw: random.Random, *, short: bool) -> State:
    """Registers with values that a kernel has: addresses, small numbers, anything. ``short``
    makes %rcx small, for code that repeats."""
    kinds: tuple[Callable[[], int], ...] = (
        lambda: draw.getrandbits(64),
        lambda: 0xFFFF888000000000 + draw.getrandbits(32),
        lambda: draw.getrandbits(32),
        lambda: draw.getrandbits(6),
    )
    registers = {name: draw.choice(kinds)() for name in GENERAL}
    registers |= {name: draw.getrandbits(128) for name in VECTOR}
    registers["rsp"] = 0xFFFFC90000000000 + (draw.getrandbits(28) & ~7)
    registers["fs_base"] = 0
    registers["gs_base"] = 0xFFFF888100000000 + (draw.getrandbits(8) << 20)
    if short:
        registers["rcx"] = draw.getrandbits(5)
    flags = sum(draw.getrandbits(1) << bit for bit in FLAGS.values())
    return State(draw.getrandbits(64), registers, flags | FLAGS_FIXED)


class Cpu:
    """One CPU with some code, given as pairs of address and bytes, in its memory.

    ``start`` it in a state, then ``run`` it, in several goes if need be.
    """

    def __init__(self, code: Sequence[tuple[int, bytes]]) -> None:
        self._code = tuple(code)
        self._uc = Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
        # One that has SMAP (stac, clac) and FSGSBASE.
        self._uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        # Else addresses are cut to the width of the CPU's physical ones.
        self._uc.ctl_set_tlb_mode(uc_const.UC_TLB_VIRTUAL)
        self._uc.reg_write(x86.UC_X86_REG_CR4, self._uc.reg_read(x86.UC_X86_REG_CR4) | CR4_BITS)
        self._fresh = self._uc.context_save()
        self._data: set[int] = set()
        self._code_pages = {
            page
            for address, data in code
            for page in range(address & -PAGE, address + len(data), PAGE)
        }
        for page in self._code_pages:
            self._uc.mem_map(page, PAGE)
        self._put_code()
        self._forget()
        self._hook()

    def start(self, state: State, memory: Mapping[int, int] | None = None) -> None:
        """Take on a state; what earlier runs did is undone. ``memory`` has bytes that are
        other than the state's, by their addresses; none among the code."""
        if any(address & -PAGE in self._code_pages for address in self._written):
            self._put_code()
            self._uc.ctl_flush_tb()
        for page in self._data:
            self._uc.mem_unmap(page, PAGE)
        self._data.clear()
        self._forget()
        self._state = state
        self._uc.context_restore(self._fresh)
        self._uc.reg_write_batch([(REGISTERS[n], value) for n, value in state.registers.items()])
        self._uc.reg_write(x86.UC_X86_REG_RFLAGS, state.flags)
        for address, byte in (memory or {}).items():
            self._map(address)
            self._uc.mem_write(address, bytes([byte]))

    def run(self, address: int, leaves: Leaves) -> Ending:
        """Run from an address until ``leaves`` says so, or something else ends it."""
        self._leaves = leaves
        self._last = self._at = 0
        error = None
        try:
            self._uc.emu_start(address, MASK)
        except UcError as caught:
            error = caught.errno
        rip = int(self._uc.reg_read(x86.UC_X86_REG_RIP))
        unknown = None
        if error == uc_const.UC_ERR_INSN_INVALID:
            unknown = bytes(self._uc.mem_read(rip, min(MAX_INSN, PAGE - rip % PAGE)))
        elif error is not None and self._exception is None:
            raise OracleError(f"the emulator fails at {rip:#x}: {UcError(error)}")
        values = self._uc.reg_read_batch(list(REGISTERS.values()))
        return Ending(
            next=rip,
            registers=dict(zip(REGISTERS, values, strict=True)),
            flags=int(self._uc.reg_read(x86.UC_X86_REG_RFLAGS)),
            memory={at: self._uc.mem_read(at, 1)[0] for at in sorted(self._written)},
            ports=tuple(self._ports),
            exception=self._exception,
            endless=self._steps > MAX_STEPS,
            unknown=unknown,
            last=self._last,
        )

    def leave_call(
        self, flags: int, clobbered: Mapping[str, int], memory: Mapping[int, int]
    ) -> int:
        """A function that was called, and that is nowhere in the code, has returned with these
        flags, registers and bytes of memory and changed nothing else. Where to."""
        rsp = int(self._uc.reg_read(x86.UC_X86_REG_RSP))
        self._uc.reg_write(x86.UC_X86_REG_RSP, (rsp + 8) & MASK)
        for name, value in clobbered.items():
            self._uc.reg_write(REGISTERS[name], value)
        self._uc.reg_write(x86.UC_X86_REG_RFLAGS, flags)
        for address, byte in memory.items():
            self._map(address)
            self._uc.mem_write(address, bytes([byte]))
        return int.from_bytes(self._uc.mem_read(rsp, 8), "little")

    def _forget(self) -> None:
        self._written: set[int] = set()
        self._ports: list[tuple[int, int, int]] = []
        self._exception: str | None = None
        self._steps = 0

    def _put_code(self) -> None:
        for page in self._code_pages:
            self._uc.mem_write(page, INT3 * PAGE)
        for address, data in self._code:
            self._uc.mem_write(address, data)

    def _map(self, address: int) -> None:
        page = address & -PAGE & MASK
        if page not in self._data and page not in self._code_pages:
            self._uc.mem_map(page, PAGE)
            self._uc.mem_write(page, self._state.page(page))
            self._data.add(page)

    def _hook(self) -> None:
        data = (
            uc_const.UC_HOOK_MEM_READ_UNMAPPED
            | uc_const.UC_HOOK_MEM_WRITE_UNMAPPED
            | uc_const.UC_HOOK_MEM_FETCH_UNMAPPED
        )
        self._uc.hook_add(data, self._on_missing)
        self._uc.hook_add(uc_const.UC_HOOK_MEM_WRITE, self._on_write)
        self._uc.hook_add(uc_const.UC_HOOK_CODE, self._on_instruction)
        self._uc.hook_add(uc_const.UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(uc_const.UC_HOOK_INSN, self._on_in, aux1=x86.UC_X86_INS_IN)
        self._uc.hook_add(uc_const.UC_HOOK_INSN, self._on_out, aux1=x86.UC_X86_INS_OUT)

    def _on_missing(
        self, _uc: Uc, _kind: int, address: int, size: int, _value: int, _data: object
    ) -> bool:
        self._map(address)
        self._map(address + size - 1)
        return True

    def _on_write(
        self, _uc: Uc, _kind: int, address: int, size: int, _value: int, _data: object
    ) -> None:
        self._written.update((address + n) & MASK for n in range(size))

    def _on_instruction(self, uc: Uc, address: int, _size: int, _data: object) -> None:
        self._steps += 1
        self._last, self._at = self._at, address & MASK
        if self._steps > MAX_STEPS or self._leaves(address & MASK):
            uc.emu_stop()

    def _on_exception(self, uc: Uc, number: int, _data: object) -> None:
        self._exception = EXCEPTIONS.get(number, f"interrupt {number:#x}")
        uc.emu_stop()

    def _on_in(self, _uc: Uc, port: int, size: int, _data: object) -> int:
        return (port * 0x01010101 ^ self._state.seed) & ((1 << 8 * size) - 1)

    def _on_out(self, _uc: Uc, port: int, size: int, value: int, _data: object) -> None:
        self._ports.append((port, size, value))
