"""Where a loaded shared library keeps the addresses of the functions that it calls: the slots of its GOT.

Linux, x86-64 and aarch64. The file says which slots there are, /proc/self/maps where it was loaded.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23

# Relocations that put the address of a symbol into a slot: (in the GOT, of a lazily bound call, a plain pointer).
ADDRESSES: Final = {"x86_64": (6, 7, 1), "aarch64": (1025, 1026, 257)}


def slots(library: str, functions: Collection[str]) -> Iterator[tuple[str, int]]:
    """Each of `functions` that the library calls, with the address of a slot that leads to it."""
    base = _base(library)
    for name, address in _relocations(Path(library).read_bytes()):
        if name in functions:
            yield name, base + address


def read(address: int) -> int:
    """The pointer in a slot."""
    return int(ctypes.c_uint64.from_address(address).value)


def write(address: int, pointer: int) -> None:
    """Put a pointer into a slot, which is made writable first."""
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_uint64.from_address(address).value = pointer


def _base(library: str) -> int:
    """Where the library's address 0 is in memory."""
    path = str(Path(library).resolve())
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *name = line.split(maxsplit=5)
        if name == [path] and int(offset, 16) == 0:
            return int(span.split("-")[0], 16)
    raise LookupError(f"{path} is not loaded")


def _relocations(elf: bytes) -> Iterator[tuple[str, int]]:
    """Pairs of symbol and virtual address, of all slots that hold the address of a symbol."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise LookupError("expected a 64-bit little-endian ELF file")
    at, size, n = struct.unpack_from("<Q14xHH", elf, 32)
    segments = [struct.unpack_from("<IIQQQQQQ", elf, at + i * size) for i in range(n)]

    def offset(address: int) -> int:
        for kind, _, start, virtual, _, in_file, *_ in segments:
            if kind == PT_LOAD and virtual <= address < virtual + in_file:
                return int(start + address - virtual)
        raise LookupError(f"address {address:#x} is not in the file")

    _, _, start, _, _, in_file, *_ = next(one for one in segments if one[0] == PT_DYNAMIC)
    table = dict(struct.iter_unpack("<QQ", elf[start : start + in_file]))
    symbols, strings = offset(table[DT_SYMTAB]), offset(table[DT_STRTAB])
    kinds = ADDRESSES[platform.machine()]
    for address, length in ((DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)):
        if address not in table:
            continue
        start = offset(table[address])
        for slot, info, _ in struct.iter_unpack("<QQq", elf[start : start + table[length]]):
            if info & 0xFFFFFFFF in kinds:
                name = strings + struct.unpack_from("<I", elf, symbols + (info >> 32) * 24)[0]
                yield elf[name : elf.index(b"\0", name)].decode(), int(slot)
