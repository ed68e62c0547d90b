"""What a Python module imports when it is loaded: out of its .pyc, or out of its source. Pure.

Imports in functions are not looked at, nor what is for type checkers and for programs alone. The sources are CPython's
Python/marshal.c, Lib/importlib/_bootstrap_external.py (magic numbers) and opcodes of each version.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crfs._native.pycode import Code
from crfs.errors import FormatError

# names that are tested before what is not for those who import: type checkers, and programs
_ASIDE = ("TYPE_CHECKING", "__name__")
# more imports, or dots before one, than these are not looked at
_IMPORTS_MAX, _LEVEL_MAX = 1000, 100
# instructions from such a name to the jump behind the test
_TEST_MAX = 20


class Import(Struct, frozen=True):
    """`from {level dots}{name} import {names}`, as IMPORT_NAME has it: level 0 is absolute."""

    level: int
    name: str
    names: Sequence[str] = ()


class _Version(Struct, frozen=True):
    """How a version of CPython writes a module: the .pyc's head, its code objects' shape, and opcodes.

    `name_bits`: bits of LOAD_ATTR's argument before the name. `forward`: a jump's argument counts from the jump on.
    """

    head: int
    longs: int
    behind: int
    import_name: int = 108
    load_const: int = 100
    load_small_int: int = -1
    load_name: int = 101
    load_attr: int = 106
    name_bits: int = 0
    extended: int = 144
    jump_if_false: int = 114
    unit: int = 2
    forward: bool = False


# by the magic numbers of releases, which come before CR LF
_VERSIONS = {
    3379: _Version(12, 5, 1, unit=1),
    3394: _Version(16, 5, 1, unit=1),
    3413: _Version(16, 6, 1, unit=1),
    3425: _Version(16, 6, 1, unit=1),
    3439: _Version(16, 6, 1),
    3495: _Version(16, 5, 2, forward=True),
    3531: _Version(16, 5, 2, name_bits=1, forward=True),
    3571: _Version(
        16,
        5,
        2,
        import_name=75,
        load_const=83,
        load_name=92,
        load_attr=82,
        name_bits=1,
        extended=71,
        jump_if_false=97,
        forward=True,
    ),
    3627: _Version(
        16,
        5,
        2,
        import_name=73,
        load_const=82,
        load_small_int=94,
        load_name=93,
        load_attr=80,
        name_bits=1,
        extended=69,
        jump_if_false=100,
        forward=True,
    ),
}


def is_compiled(head: bytes) -> bool:
    """Whether a file that begins like this is a .pyc whose imports can be told."""
    return head[2:4] == b"\r\n" and int.from_bytes(head[:2], "little") in _VERSIONS


def parse_compiled(data: bytes) -> list[Import]:
    """The imports of a .pyc, in their order; FormatError where it is none of a known version, or damaged."""
    version = _VERSIONS.get(int.from_bytes(data[:2], "little")) if data[2:4] == b"\r\n" else None
    if version is None:
        raise FormatError("no .pyc of a known version")
    code = Code(data, version.head, version.longs, version.behind)
    found: list[Import] = []
    end = 0
    for at, argument in itertools.islice(_iter_instructions(version, code), _IMPORTS_MAX):
        if at < end:
            continue
        if code.instructions[at] == version.import_name:
            found += _read_import(version, code, at, argument)
        else:
            end = _end_of_aside(version, code.instructions, at)
    return found


def _iter_instructions(version: _Version, code: Code) -> Iterator[tuple[int, int]]:
    """(offset, argument) of each import, and of what loads a name that sets things aside; in their order."""
    aside = {number for number, name in enumerate(code.names) if name in _ASIDE}
    wanted = [version.import_name, *((version.load_name, version.load_attr) if aside else ())]
    pattern = re.compile(b"[" + b"".join(re.escape(bytes([opcode])) for opcode in wanted) + b"]")
    for match in pattern.finditer(code.instructions[::2]):
        at = 2 * match.start()
        argument, opcode = _argument(version, code.instructions, at), code.instructions[at]
        if opcode == version.import_name or argument >> _shift(version, opcode) in aside:
            yield at, argument


def _read_import(version: _Version, code: Code, at: int, argument: int) -> Iterator[Import]:
    """The import at an offset, if it is one: a level and a tuple of names are loaded before it."""
    level, listed = _what_is_loaded(version, code, at)
    name = code.names[argument] if argument < len(code.names) else None
    if name is not None and isinstance(level, int) and 0 <= level <= _LEVEL_MAX:
        parts = listed if isinstance(listed, tuple) else ()
        yield Import(level, name, [part for part in parts if part and part != "*"])


def _shift(version: _Version, opcode: int) -> int:
    return version.name_bits if opcode == version.load_attr else 0


def _argument(version: _Version, code: bytes, at: int) -> int:
    """With what the instructions before it add."""
    argument, shift = code[at + 1] if at + 1 < len(code) else 0, 8
    while at >= 2 and code[at - 2] == version.extended and shift < 32:
        at -= 2
        argument |= code[at + 1] << shift
        shift += 8
    return argument


def _what_is_loaded(version: _Version, code: Code, at: int) -> tuple[object, object]:
    """The two constants that are loaded before an instruction."""
    found: list[object] = []
    while len(found) < 2 and at >= 2:
        at -= 2
        opcode = code.instructions[at]
        if opcode == version.load_const:
            found.append(code.constant(_argument(version, code.instructions, at)))
        elif opcode == version.load_small_int:
            found.append(code.instructions[at + 1])
        elif opcode != version.extended:
            break
    return (found[1], found[0]) if len(found) == 2 else (None, None)


def _end_of_aside(version: _Version, code: bytes, at: int) -> int:
    """The offset where the test that begins here jumps to when it is false; 0 where it is no test."""
    for jump in range(at + 2, min(at + 2 * _TEST_MAX, len(code) - 1), 2):
        if code[jump] == version.jump_if_false:
            argument = _argument(version, code, jump)
            return jump + 2 + 2 * argument if version.forward else argument * version.unit
        if code[jump] in (version.load_name, version.import_name):
            return 0
    return 0


_STATEMENT = re.compile(
    rb"^(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^()#]*\)|[^\n;#\\]*)|import[ \t]+([\w., \t]+))",
    re.MULTILINE,
)
_WORDS = re.compile(rb"([\w.]+)(?:[ \t\n]+as[ \t]+\w+)?")


def parse_source(data: bytes) -> list[Import]:
    """The imports in the source of a module, as far as they begin a line."""
    found = []
    for dots, package, names, modules in _STATEMENT.findall(data):
        if modules:
            found += [Import(0, _text(name)) for name in _WORDS.findall(modules)]
        elif dots or package:
            found.append(Import(len(dots), _text(package), [_text(name) for name in _WORDS.findall(names)]))
    return found


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
