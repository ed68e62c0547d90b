"""Layers made into one, and files put first, against what tarfile reads."""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator

from crfs.convert.entries import TarEntry
from crfs.convert.flatten import Flat
from crfs.convert.plain import tar_pieces
from crfs.convert.tarstream import TarStream
from crfs.convert.wanted import Wanted, iter_wanted_first
from tests.support.layers import Dir, Entry, File, Hardlink, make_tar, opaque, whiteout


def opener(entries: Iterable[Entry]) -> Callable[[], contextlib.AbstractContextManager[Iterable[TarEntry]]]:
    tar = make_tar(entries)

    @contextlib.contextmanager
    def opened() -> Iterator[Iterable[TarEntry]]:
        yield TarStream(io.BytesIO(tar))

    return opened


def read(entries: Iterable[TarEntry]) -> dict[str, bytes]:
    """Names in their order, and the bytes of files, over links."""
    data = b"".join(tar_pieces(entries))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for info in tar:
            file = tar.extractfile(info) if info.isreg() or info.islnk() else None
            found[info.name] = file.read() if file else b""
        return found


def test_upper_layers_hide() -> None:
    lower = [Dir("d"), File("d/a", b"a"), File("d/b", b"b"), Dir("o"), File("o/x", b"x"), File("kept", b"k")]
    upper = [whiteout("d/a"), File("d/b", b"B"), opaque("o"), File("o/y", b"y")]
    found = read(Flat([opener(lower), opener(upper)]).iter_entries())
    assert found == {"d": b"", "d/b": b"B", "o": b"", "o/y": b"y", "kept": b"k"}


def test_link_of_a_hidden_file_becomes_the_file() -> None:
    lower = [File("f", b"old"), Hardlink("g", "f"), Hardlink("h", "f")]
    found = read(Flat([opener(lower), opener([File("f", b"new")])]).iter_entries())
    assert found == {"f": b"new", "g": b"old", "h": b"old"}


def test_wanted_files_come_first_with_what_they_need() -> None:
    layer = [Dir("d"), File("d/a", b"1"), File("d/z", b"2"), File("d/a", b"3"), Hardlink("l", "d/z")]
    found = read(iter_wanted_first(opener(layer), Wanted(("l",), ("d/a*",))))
    assert list(found) == ["d", "d/z", "l", "d/a", ".prefetch.landmark"]
    assert (found["d/a"], found["l"]) == (b"3", b"2")
