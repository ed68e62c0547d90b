"""ELF objects: what ld writes, judged by readelf, and what nobody would write."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.errors import FormatError
from crfs.formats.elf import Elf, parse_dynamic, parse_elf
from tests.support.objects import link_library

# what there is on every machine: programs, with an interpreter, and libraries
SYSTEM = [Path("/bin/ls"), Path("/bin/sh"), *sorted(Path("/usr/lib").glob("*-linux-gnu/lib[cmz].so.*"))]


def string(data: bytes, off: int) -> str:
    return data[off:].partition(b"\0")[0].decode()


def libraries(data: bytes) -> tuple[list[str], str | None]:
    """(libraries needed, run path)"""
    elf = parse_elf(data)
    assert elf.dynamic is not None
    dynamic = parse_dynamic(elf, data[elf.dynamic.off : elf.dynamic.off + elf.dynamic.size])
    run_path = None if dynamic.run_path is None else string(data, dynamic.run_path)
    return [string(data, off) for off in dynamic.needed], run_path


def oracle(path: Path) -> tuple[list[str], str | None]:
    said = subprocess.run(["readelf", "-dW", path], check=True, capture_output=True, text=True).stdout
    run_path = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", said)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", said), run_path[0] if run_path else None


@pytest.mark.parametrize("path", SYSTEM, ids=str)
def test_objects_of_this_machine(path: Path) -> None:
    assert libraries(path.read_bytes()) == oracle(path)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_libraries_and_run_path(tmp_path: Path, bits: int, tags: str) -> None:
    link_library(tmp_path, "liba.so", bits=bits)
    link_library(tmp_path, "libb.so", bits=bits)
    options = ("liba.so", "libb.so", "-rpath", "$ORIGIN/../x:/y", tags)
    made = link_library(tmp_path, "libc.so", *options, bits=bits)
    assert libraries(made.read_bytes()) == (["liba.so", "libb.so"], "$ORIGIN/../x:/y") == oracle(made)


def test_interpreter() -> None:
    data = Path("/bin/ls").read_bytes()
    elf = parse_elf(data)
    assert elf.interpreter is not None
    said = subprocess.run(["readelf", "-lW", "/bin/ls"], check=True, capture_output=True, text=True).stdout
    assert f"interpreter: {string(data, elf.interpreter.off)}]" in said
    loads = re.findall(r"^ +LOAD .* ([RWE ]{3}) 0x", said, re.M)
    assert [load.writable for load in elf.loads] == ["W" in flags for flags in loads]


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(59), b"\x7fELF" + b"\xff" * 200]
)
def test_should_fail_what_is_no_object(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_elf(data)


_LS = Path("/bin/ls").read_bytes()[:4096]
_DAMAGE = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(damage=_DAMAGE, section=st.binary(max_size=400))
def test_damage_is_found_or_harmless(damage: list[tuple[int, int]], section: bytes) -> None:
    head = bytearray(_LS)
    for off, value in damage:
        head[off] = value
    try:
        elf: Elf = parse_elf(bytes(head))
        parse_dynamic(elf, section)
    except FormatError:
        pass
