"""What a program's loader opens is fetched before it asks: objects that ld made, in an image on a server."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.image.libraries import find_path
from tests.support.layers import Dir, Entry, File, Symlink
from tests.support.mounting import wait_until
from tests.support.objects import link, link_library
from tests.t3_layers.images import Image, Place, lazy, whole

# more than travels along with another file
_PADDING = 200_000
LIBRARIES = {
    "usr/lib/multi/ld.so": (),
    "usr/lib/multi/libdeep.so": (),
    "usr/lib/multi/libfound.so": ("libdeep.so",),
    "opt/own/libown.so": ("libfound.so",),
    "usr/lib/multi/libother.so": ("libdeep.so",),
    "usr/lib/libplain.so": (),
}


def padded(path: Path) -> bytes:
    return path.read_bytes() + random.Random(path.name).randbytes(_PADDING)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    root = tmp_path_factory.mktemp("objects")
    made: list[Entry] = [
        Symlink("lib", "usr/lib"),
        Symlink("lib64", "usr/lib"),
        Symlink("usr/lib/ld.so", "multi/ld.so"),
    ]
    for path, needed in LIBRARIES.items():
        name = path.rpartition("/")[2]
        made.append(File(path, padded(link_library(root, name, *needed))))
    options = ["-pie", "-e", "0", "--dynamic-linker", "/lib64/ld.so", "--allow-shlib-undefined"]
    options += ["-rpath", "$ORIGIN/../opt/own", "libown.so", "libplain.so"]
    program = link(root, "program", *options)
    return [*made, Dir("bin"), File("bin/program", padded(program))]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def is_here(image: Image, path: str) -> bool:
    return image.reader.find_cached(image.find(path.encode()), 100, 1) is not None


def test_first_read_of_a_program_brings_what_its_loader_opens(place: Place, entries: list[Entry]) -> None:
    place.push("app", lazy(entries))
    with place.open("app") as image:
        image.read(b"bin/program", 0, 4096)
        wanted = set(LIBRARIES) - {"usr/lib/multi/libother.so"}
        wait_until(lambda: {path for path in LIBRARIES if is_here(image, path)} == wanted, 10)
        # and a second look needs none
        asked = len(place.blob_ranges())
        image.read(b"bin/program", 0, 4096)
        image.settle()
        assert len(place.blob_ranges()) == asked


def test_what_a_library_is_known_to_read_comes_with_it(place: Place, tmp_path: Path) -> None:
    link_library(tmp_path, "libcrypto.so.3")
    program = padded(link(tmp_path, "program", "-pie", "-e", "0", "libcrypto.so.3"))
    config = File("etc/ssl/openssl.cnf", random.Random("config").randbytes(_PADDING))
    other = File("etc/ssl/other.cnf", random.Random("other").randbytes(_PADDING))
    linked = Symlink("usr/lib/ssl", "../../etc/ssl")
    place.push("app", lazy([File("bin/program", program), linked, config, other]))
    with place.open("app") as image:
        image.read(b"bin/program", 0, 4096)
        wait_until(lambda: is_here(image, config.name), 10)
        image.settle()
        assert not is_here(image, other.name)


def test_what_names_the_libraries_may_arrive_later(place: Place, entries: list[Entry]) -> None:
    place.push("app", lazy(entries, chunk_size=8 << 10))
    with place.open("app") as image:
        image.read(b"bin/program", 0, 4096)
        for _ in range(40):
            image.settle()
        head = image.reader.find_cached(image.find(b"opt/own/libown.so"), 0, 100)
        assert head is not None


def test_whole_layers_have_nothing_to_fetch(place: Place, entries: list[Entry]) -> None:
    place.push("app", whole(entries))
    with place.open("app") as image:
        asked = len(place.blob_ranges())
        assert image.read(b"bin/program", 0, 4)[:4] == b"\x7fELF"
        image.settle()
        assert len(place.blob_ranges()) == asked


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/a/b/f", b"a/b/f"),
        (b"a//b/./../b/f", b"a/b/f"),
        (b"/../../a/b/f", b"a/b/f"),
        (b"/absolute/f", b"a/b/f"),
        (b"/a/relative/f", b"a/b/f"),
        (b"/a/up/a/b/f", b"a/b/f"),
        (b"/a/b/f/x", None),
        (b"/a/none", None),
        (b"/loop/f", None),
    ],
)
def test_paths_are_followed(place: Place, path: bytes, found: bytes | None) -> None:
    links = {"absolute": "/a/b", "a/relative": "b", "a/up": "..", "loop": "loop"}
    place.push("app", lazy([File("a/b/f", b"x"), *(Symlink(name, target) for name, target in links.items())]))
    with place.open("app") as image:
        assert find_path(image.tree, path) == (image.find(found) if found else 0)
