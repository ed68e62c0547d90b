"""What modules import: the standard library's, judged by ast, and the .pyc files of nine versions of CPython."""

import ast
import contextlib
import importlib.util
import marshal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.errors import FormatError
from crfs.formats.pyimports import Import, is_compiled, parse_compiled, parse_source

_HEAD = importlib.util.MAGIC_NUMBER + bytes(12)
_LIBRARY = Path(ast.__file__).parent
_SOURCES = sorted([*_LIBRARY.glob("*.py"), *_LIBRARY.glob("asyncio/*.py"), *_LIBRARY.glob("email/*.py")])
_PYCS = Path(__file__).with_name("pycs")


def compiled(source: str) -> bytes:
    return _HEAD + marshal.dumps(compile(source, "module.py", "exec"))


def told(imports: list[Import]) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(one.level, one.name, tuple(one.names)) for one in imports]


def is_aside(test: ast.expr) -> bool:
    return any(text in ast.unparse(test) for text in ("TYPE_CHECKING", "__name__", "False"))


def iter_imports(body: list[ast.stmt], aside: bool = False) -> Iterator[tuple[bool, Import]]:
    """Those that are made when a module is loaded, and whether they stand behind a test."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((aside, Import(0, name.name, ())) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(name.name for name in node.names if name.name != "*")
            yield aside, Import(node.level, node.module or "", names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = aside or (isinstance(node, ast.If) and is_aside(node.test))
            for part in ("body", "handlers", "orelse", "finalbody"):
                for each in getattr(node, part, ()):
                    is_handler = isinstance(each, ast.ExceptHandler)
                    yield from iter_imports(each.body if is_handler else [each], inner)


@pytest.mark.parametrize("path", _SOURCES, ids=lambda path: path.stem)
def test_modules_of_the_standard_library(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = set(told(parse_compiled(compiled(source))))
    every = list(iter_imports(ast.parse(source).body))
    assert found <= set(told([one for _, one in every]))
    assert found >= set(told([one for aside, one in every if not aside]))


@pytest.mark.parametrize("path", sorted(_PYCS.glob("*.pyc")), ids=lambda path: path.stem)
def test_versions(path: Path) -> None:
    data = path.read_bytes()
    assert is_compiled(data)
    assert told(parse_compiled(data)) == [
        (0, "__future__", ("annotations",)),
        (0, "os", ()),
        (0, "a.b.c", ()),
        (0, "x.y", ()),
        (0, "typing", ("TYPE_CHECKING",)),
        (0, "typing", ()),
        (1, "", ("p", "q")),
        (2, "r.s", ("t", "u")),
        (0, "v", ()),
        (0, "unchecked", ()),
        (0, "w", ()),
    ]


def test_long_modules() -> None:
    many = [f"name_{number}" for number in range(400)]
    source = "\n".join(f"{name} = '{name}'" for name in many) + f"\nfrom package import {', '.join(many)}\n"
    assert told(parse_compiled(compiled(source))) == [(0, "package", tuple(many))]


def test_source() -> None:
    source = b"""\
import os, a.b.c
import x as y; z = 1
from . import p, q as r
from ..s.t import (
    u,
    v as w,
)
from aa import *
#import no1
def f():
    import no2
important = 1
"""
    assert told(parse_source(source)) == [
        (0, "os", ()),
        (0, "a.b.c", ()),
        (0, "x", ()),
        (1, "", ("p", "q")),
        (2, "s.t", ("u", "v")),
        (0, "aa", ()),
    ]


@pytest.mark.parametrize("path", _SOURCES[::7], ids=lambda path: path.stem)
def test_sources_of_the_standard_library(path: Path) -> None:
    """What begins a line, up to comments in the midst of a statement; and nothing but what is there."""
    source = path.read_bytes()
    found = {(level, name) for level, name, _ in told(parse_source(source))}
    top = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert found >= {(one.level, one.name) for _, one in iter_imports(list(top))}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"import os\n",
        _HEAD,
        _HEAD[:4],
        b"\xff\xff\r\n" + bytes(12) + b"c",
        _HEAD + b"N",
        _HEAD + b"c" + bytes(20) + b"s" + struct.pack("<i", -1),
        # a tuple in a tuple in a tuple
        _HEAD + b"c" + bytes(20) + b"s" + bytes(4) + b")\x01" * 100_000,
        # more names than there are bytes
        _HEAD + b"c" + bytes(20) + b"s" + bytes(4) + b")\x00(" + struct.pack("<I", 1 << 31),
    ],
)
def test_should_fail_what_is_no_module(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_compiled(data)


_MODULE = (_PYCS / "cpython-311.pyc").read_bytes()
_DAMAGE = st.lists(st.tuples(st.integers(16, len(_MODULE) - 1), st.integers(0, 255)), max_size=6)


@settings(max_examples=500, deadline=None)
@given(damage=_DAMAGE, cut=st.integers(0, len(_MODULE)))
def test_damage_is_found_or_harmless(damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(_MODULE)
    for off, value in damage:
        data[off] = value
    for each in (bytes(data), bytes(data[:cut])):
        with contextlib.suppress(FormatError):
            parse_compiled(each)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), version=st.sampled_from(sorted(_PYCS.glob("*.pyc"))))
def test_noise_is_found_or_harmless(data: bytes, version: Path) -> None:
    head = version.read_bytes()[:16]
    parse_source(data)
    for begun in (head, head + b"\xe3" + bytes(20) + b"s"):
        with contextlib.suppress(FormatError):
            parse_compiled(begun + data)


def test_what_refers_to_one_long_tuple_again_and_again_is_read_in_no_time() -> None:
    """Quadratic were it all followed: 100,000 constants that are each the same 100,000 names."""
    names = b"\xa8" + struct.pack("<I", 100_000) + b"z\x01a" * 100_000
    constants = b"(" + struct.pack("<I", 100_001) + names
    # TYPE_REF to the first shared object
    constants += (b"r" + bytes(4)) * 100_000
    code = b"d\x00d\x01l\x00" * 50_000
    data = _HEAD + b"c" + bytes(20) + b"s" + struct.pack("<I", len(code)) + code + constants + b")\x01z\x01b"
    assert parse_compiled(data) == []
