"""ELF objects without code, made by binutils: what they need is all there is to them."""

import subprocess
from pathlib import Path

_MACHINES = {64: ("--64", "elf_x86_64"), 32: ("--32", "elf_i386")}


def link(into: Path, name: str, *options: str, bits: int = 64) -> Path:
    """A shared library, or what `options` for ld make of it; its needed libraries lie in `into` as well."""
    assembler, machine = _MACHINES[bits]
    subprocess.run(["as", assembler, "-o", "empty.o", "/dev/null"], cwd=into, check=True)
    argv = ["ld", "-m", machine, "-o", name, "empty.o", *(options or ("-shared",))]
    subprocess.run(argv, cwd=into, check=True)
    return into / name


def link_library(into: Path, name: str, *options: str, bits: int = 64) -> Path:
    """A shared library that goes by its name."""
    return link(into, name, "-shared", "-soname", name, *options, bits=bits)
