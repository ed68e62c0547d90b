"""What the demo's image is made of: the Python that runs, with all that it needs to run somewhere else.

Called by demo.py. Reads the machine, changes nothing on it.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from crfs.convert.entries import TarEntry
from crfs.convert.tree import TreeReader
from crfs.errors import UnsupportedError

# where Python lives in the image
HOME = "opt/python"
INTERPRETER = f"{HOME}/bin/python3"
LIBRARIES = f"{HOME}/lib"
LOADER = f"{LIBRARIES}/ld.so"
STDLIB = f"{HOME}/{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = f"{STDLIB}/site-packages"

_PACKAGE_FILES = 2500
_PACKAGE_BYTES = 30 << 20
_LARGE = 12 << 20
# nothing that a program imports; sitecustomize is the host's own business
_LEFT_OUT = re.compile(
    r"/(site-packages|dist-packages|tests?|idlelib|ensurepip|turtledemo|config-[^/]*|sitecustomize\.py)$"
    r"|\.opt-[12]\.pyc$"
)
_LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def collect(progress: Callable[[int], None]) -> list[TarEntry]:
    """The image's entries; `progress` hears how many there are so far. OSError, UnsupportedError."""
    reader = TreeReader()
    entries: list[TarEntry] = []
    binaries = [os.path.realpath(sys.executable)]
    for path, entry in _iter_files(reader, binaries[0]):
        entries.append(entry)
        progress(len(entries))
        if path.endswith(".so"):
            binaries.append(path)
    for name, library in sorted(_find_libraries(binaries).items()):
        found = reader.find_entry(library, f"{LIBRARIES}/{name}")
        if found is not None:
            entries.append(found)
    return entries


def _iter_files(reader: TreeReader, interpreter: str) -> Iterator[tuple[str, TarEntry]]:
    """Interpreter, standard library and packages, each with its path on this machine."""
    binary = reader.find_entry(interpreter, INTERPRETER)
    if binary is not None:
        yield interpreter, binary
    yield from _iter_tree(reader, sysconfig.get_path("stdlib"), STDLIB)
    for package in _choose_packages(sysconfig.get_path("purelib")):
        yield from _iter_tree(reader, package, f"{PACKAGES}/{os.path.basename(package)}")


def _iter_tree(reader: TreeReader, root: str, name: str) -> Iterator[tuple[str, TarEntry]]:
    for entry in reader.iter_tree(root, name, _is_wanted):
        yield root + entry.info.name.removeprefix(name), entry


def _is_wanted(path: str) -> bool:
    return not _LEFT_OUT.search(path)


def _choose_packages(directory: str) -> Iterator[str]:
    """Installed packages by name, until there are enough of them for a demo; huge ones are passed over."""
    files = size = 0
    for path in sorted(Path(directory).iterdir()):
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        fits = files + len(sizes) <= _PACKAGE_FILES and size + sum(sizes) <= _PACKAGE_BYTES
        if sizes and fits and sum(sizes) <= _LARGE:
            files, size = files + len(sizes), size + sum(sizes)
            yield str(path)


def _find_libraries(binaries: Iterable[str]) -> dict[str, str]:
    """File name in the image -> path here: all shared libraries of the binaries, and the dynamic loader."""
    try:
        listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"ldd is needed to find Python's shared libraries: {error}") from error
    found = {}
    for name, path in _LIBRARY.findall(listed.stdout):
        found[name if name and "/" not in name else "ld.so"] = os.path.realpath(path)
    if "ld.so" not in found:
        raise UnsupportedError(f"{sys.executable} has no dynamic loader that ldd knows of")
    return found
