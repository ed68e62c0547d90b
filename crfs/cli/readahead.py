"""What a mount loads is read from the disk by others, while the first of it is loaded here.

A few hundred small files, of which each would be waited for. Nothing is done where the kernel has them already.
"""

import os
import sys
from collections.abc import Iterator

_READERS = 2
# of the interpreter and of what we need, whole: most of each is loaded
_PACKAGES = (
    *(
        "collections",
        "re",
        "msgspec",
        "urllib",
        "logging",
        "ctypes",
        "concurrent",
        "lib-dynload",
        "asyncio",
        "json",
    ),
    *("email", "http", "multidict", "propcache", "yarl", "idna", "attr", "frozenlist", "aiosignal"),
    *("aiohappyeyeballs", "aiohttp"),
)
# of the interpreter, alone
_NAMES = (
    "__future__ _compat_pickle _compression _weakrefset argparse ast base64 bisect bz2 calendar contextlib contextvars "
    "copy copyreg dataclasses datetime decimal dis enum fnmatch functools gettext hashlib heapq hmac inspect ipaddress "
    "keyword linecache locale lzma mimetypes netrc numbers opcode operator pathlib pickle platform queue quopri random "
    "reprlib secrets selectors shlex shutil signal socket ssl string stringprep struct subprocess tarfile tempfile "
    "textwrap threading token tokenize traceback types typing typing_extensions uuid warnings weakref"
)
_MODULES = frozenset(_NAMES.split())
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"


def read_ahead() -> None:
    """Leave it to others, if it is worth that. Before any thread is there."""
    if not is_cold(os.path.join(_PACKAGE, "cli", "__pycache__", f"sources{_SUFFIX}")):
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        # nobody waits for them, nor for the files that they would keep open
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for part in range(_READERS):
            if os.fork() == 0:
                for number, path in enumerate(iter_files()):
                    if number % _READERS == part:
                        _read(path)
                break
    finally:
        os._exit(0)


def is_cold(path: str) -> bool:
    """Whether a file is there, and the kernel would have to read it from the disk."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        # no file system that can tell
        return False
    finally:
        os.close(file)
    return False


def iter_files() -> Iterator[str]:
    """Compiled modules and libraries, about in the order in which they are loaded."""
    for base in sys.path:
        yield from _compiled(os.path.join(base, "__pycache__"), _MODULES)
    yield from _below(_PACKAGE)
    for package in _PACKAGES:
        for base in sys.path:
            yield from _below(os.path.join(base, package))


def _below(directory: str) -> Iterator[str]:
    yield from _compiled(os.path.join(directory, "__pycache__"))
    for entry in _entries(directory):
        if entry.name.endswith(".so"):
            yield entry.path
        elif entry.name != "__pycache__" and entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)


def _compiled(directory: str, names: frozenset[str] | None = None) -> Iterator[str]:
    for entry in _entries(directory):
        if entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            if names is None or name in names:
                yield entry.path


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _read(path: str) -> None:
    """Have it read, and looked up what its source is, by which the interpreter tells whether it is stale."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
        os.close(file)
        if path.endswith(_SUFFIX):
            directory, name = os.path.split(path)
            os.stat(os.path.join(os.path.dirname(directory), name.removesuffix(_SUFFIX) + ".py"))
    except OSError:
        return
