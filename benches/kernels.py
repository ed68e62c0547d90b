"""Time crfs's kernels, or what Python has for the same, in a process of its own. Prints measures as JSON.

`python -m benches.kernels crfs|python`. A digest of all results is printed too: both sides have to agree.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import stat
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from crfs._native.index import Tree
from crfs._native.inflate import inflate
from crfs._native.layerindex import LayerIndex
from crfs._native.pagecache import PageCache
from crfs._native.union import merge

_MEMBER = 1 << 20
_NAMES = 100_000
_LOOKUPS = 200_000
_PAGES, _PAGE = 2000, 16384


def main() -> None:
    """All three kernels of one side."""
    crfs = sys.argv[1] == "crfs"
    digest = hashlib.sha256()
    measures = {
        "inflate_MBps": _time_inflate(crfs, digest.update),
        "lookup_ns": _time_lookup(crfs, digest.update),
        "page_ns": _time_pages(crfs, digest.update),
    }
    print(json.dumps({"measures": measures, "digest": digest.hexdigest()}))


def _time_inflate(crfs: bool, see: Callable[[bytes], None]) -> float:
    """Millions of bytes of output a second, of one gzip member of text and program code."""
    data = _content()
    packed, rounds = gzip.compress(data, 6, mtime=0), 60
    unpack: Callable[[], bytes] = (
        (lambda: inflate(packed, len(data))) if crfs else (lambda: zlib.decompress(packed, 31))
    )
    begun = time.perf_counter()
    for _ in range(rounds):
        out = unpack()
    seconds = time.perf_counter() - begun
    see(out)
    return rounds * len(data) / seconds / 1e6


def _time_lookup(crfs: bool, see: Callable[[bytes], None]) -> float:
    """Nanoseconds to find a name of a directory among 100,000 names, the loop's included."""
    index, root = LayerIndex(), 1
    names = [b"module_%06d.py" % number for number in range(_NAMES)]
    for name in names:
        index.add(name, stat.S_IFREG | 0o644, 0, 0, 0, 0, 0, b"", None)
    index.seal(0)
    tree = Tree(merge([index]))
    table = {(root, name): tree.find(root, name) for name in names}
    find: Callable[[tuple[int, bytes]], int] = (lambda key: tree.find(*key)) if crfs else table.__getitem__
    keys = [(root, name) for name in random.Random(1).choices(names, k=_LOOKUPS)]
    begun = time.perf_counter()
    found = list(map(find, keys))
    seconds = time.perf_counter() - begun
    see(repr(found).encode())
    return seconds / _LOOKUPS * 1e9


def _time_pages(crfs: bool, see: Callable[[bytes], None]) -> float:
    """Nanoseconds to have 4 KiB of one of 2,000 pages."""
    pages = {key: random.Random(key).randbytes(_PAGE) for key in range(_PAGES)}
    cache = PageCache(2 * _PAGES * _PAGE, _PAGE)
    for key, page in pages.items():
        cache.insert(key, page)
    read: Callable[[int], bytes | None] = (
        (lambda key: cache.read(key, 4096, 4096)) if crfs else (lambda key: pages[key][4096:8192])
    )
    keys = random.Random(1).choices(range(_PAGES), k=_LOOKUPS)
    begun = time.perf_counter()
    for key in keys:
        out = read(key)
    seconds = time.perf_counter() - begun
    see(out or b"")
    return seconds / _LOOKUPS * 1e9


def _content() -> bytes:
    half = _MEMBER // 2
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    code = Path(sys.executable).resolve().read_bytes()
    return text[:half] + code[-half:]


if __name__ == "__main__":
    main()
