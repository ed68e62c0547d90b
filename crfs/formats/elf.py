"""ELF objects, as far as a dynamic loader's next steps can be told from them. Pure; the source is elf(5)."""

import struct
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crfs.errors import FormatError

MAGIC = b"\x7fELF"
_HEADER_MAX = 64
# more program headers, dynamic entries or libraries than these are not looked at
_PROGRAM_HEADERS_MAX = 64
_DYNAMIC_MAX = 512
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_WRITABLE = 2
_NULL, _NEEDED, _STRTAB, _RPATH, _RUNPATH = 0, 1, 5, 15, 29


class Segment(Struct, frozen=True):
    """Bytes [off, off + size) of the file, which are seen at `address`."""

    off: int
    size: int
    address: int
    writable: bool = False


class Elf(Struct, frozen=True):
    """Where an object's parts lie in its file; `byte_order` and `word` (4 or 8 bytes) are how it is written."""

    byte_order: str
    word: int
    loads: Sequence[Segment]
    dynamic: Segment | None
    interpreter: Segment | None

    def file_off(self, address: int) -> int | None:
        """The offset in the file of what is seen at `address`."""
        for load in self.loads:
            if load.address <= address < load.address + load.size:
                return load.off + address - load.address
        return None


class Dynamic(Struct, frozen=True):
    """Offsets in the file of strings that end with NUL: libraries needed, and directories to look in."""

    needed: Sequence[int]
    run_path: int | None


def parse_elf(head: bytes) -> Elf:
    """What the first bytes of a file say; its program headers must lie in them. FormatError where they don't."""
    if head[:4] != MAGIC or len(head) < _HEADER_MAX:
        raise FormatError("no ELF object")
    wide = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    table, entry_size, count = (
        struct.unpack_from(f"{order}Q14x2H", head, 32)
        if wide
        else struct.unpack_from(f"{order}I10x2H", head, 28)
    )
    layout = f"{order}2I4Q" if wide else f"{order}8I"
    if (
        count > _PROGRAM_HEADERS_MAX
        or entry_size < struct.calcsize(layout)
        or table + count * entry_size > len(head)
    ):
        raise FormatError("an ELF object whose program headers are not at its start")
    segments = [
        _segment(struct.unpack_from(layout, head, table + number * entry_size), wide)
        for number in range(count)
    ]
    return Elf(
        order,
        8 if wide else 4,
        [segment for kind, segment in segments if kind == _LOAD],
        next((segment for kind, segment in segments if kind == _DYNAMIC), None),
        next((segment for kind, segment in segments if kind == _INTERPRETER), None),
    )


def _segment(fields: tuple[int, ...], wide: bool) -> tuple[int, Segment]:
    if wide:
        kind, flags, off, address, _, size = fields
    else:
        kind, off, address, _, size, _, flags, _ = fields
    return kind, Segment(off, size, address, bool(flags & _WRITABLE))


def parse_dynamic(elf: Elf, section: bytes) -> Dynamic:
    """The dynamic section's libraries. FormatError where its strings are not in the file."""
    needed, run_path, strings = [], None, None
    for tag, value in _entries(elf, section):
        if tag == _NEEDED:
            needed.append(value)
        elif tag == _RUNPATH or (tag == _RPATH and run_path is None):
            run_path = value
        elif tag == _STRTAB:
            strings = elf.file_off(value)
    if strings is None:
        raise FormatError("an ELF object without strings")
    return Dynamic([strings + off for off in needed], None if run_path is None else strings + run_path)


def _entries(elf: Elf, section: bytes) -> Iterator[tuple[int, int]]:
    layout = struct.Struct(f"{elf.byte_order}2{'Q' if elf.word == 8 else 'I'}")
    usable = min(len(section) // layout.size, _DYNAMIC_MAX) * layout.size
    for tag, value in layout.iter_unpack(section[:usable]):
        if tag == _NULL:
            return
        yield tag, value
