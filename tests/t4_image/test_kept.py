"""An image that was opened before: what is asked for again, what is believed, and what is not."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import Stall
from tests.support.layers import Dir, File
from tests.t3_layers.images import Image, Place, lazy, whole, without_annotations

FILES = [Dir("d"), File("d/a", b"a" * 5000), File("b", b"b" * 100_000)]

INDEX = b"""{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1, "digest": "%s",
 "platform": {"os": "linux", "architecture": "amd64"}},
{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1, "digest": "%s",
 "platform": {"os": "linux", "architecture": "arm64"}}]}"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def read_all(image: Image) -> None:
    assert image.read(b"d/a") == b"a" * 5000
    assert image.read(b"b") == b"b" * 100_000


def open_once(place: Place, source: str) -> None:
    with place.open(source) as image:
        read_all(image)
    place.forget()


def tree_file(place: Place) -> Path:
    (path,) = (place.cache / "trees").iterdir()
    return path


def test_by_digest_nothing_is_asked_for(place: Place) -> None:
    digest = place.push("web", lazy(FILES))
    open_once(place, f"web@{digest}")
    with place.open(f"web@{digest}") as image:
        read_all(image)
        assert image.resolved.digest == digest
    assert place.proxy.requests == []


def test_by_tag_only_the_tag_is_asked_for(place: Place) -> None:
    place.push("web", lazy(FILES[:2]), whole(FILES[2:]))
    open_once(place, "web")
    with place.open("web") as image:
        read_all(image)
    assert [seen.path for seen in place.proxy.requests] == ["/v2/web/manifests/1"]


def test_tag_that_was_seen_is_not_asked_for(place: Place) -> None:
    place.push("web", lazy(FILES))
    open_once(place, "web")
    with place.open("web", pull="missing") as image:
        read_all(image)
    assert place.proxy.requests == []


def test_tag_that_names_something_else_now(place: Place) -> None:
    place.push("web", lazy(FILES))
    open_once(place, "web")
    place.push("web", lazy([File("new", b"new")]))
    with place.open("web") as image:
        assert image.read(b"new") == b"new"
    place.forget()
    with place.open("web", pull="missing") as image:
        assert image.read(b"new") == b"new"
    assert place.proxy.requests == []


@pytest.mark.warns("going on with sha256:.*, which docker://.*/web:1 was before")
def test_registry_that_is_gone(place: Place) -> None:
    place.push("web", lazy(FILES))
    open_once(place, "web")
    place.proxy.use(Stall())
    with place.open("web") as image:
        read_all(image)


def test_platform_of_an_index_is_found_again(place: Place) -> None:
    one, two = (place.push("web", lazy([File("f", data)])) for data in (b"amd64", b"arm64"))
    index = place.put("web", INDEX % (one.encode(), two.encode()))
    for platform in ("linux/amd64", "linux/arm64"):
        for _ in range(2):
            with place.open(f"web@{index}", platform=platform) as image:
                assert image.read(b"f") == platform[6:].encode()
    # the index, and of each platform manifest, tail and chunk
    assert len(place.proxy.requests) == 7


def test_another_image_of_the_same_bytes_has_a_tree_of_its_own(place: Place) -> None:
    for name, extra in (("one", b"1"), ("two", b"2")):
        place.push(name, lazy(FILES), lazy([File("e", extra)]))
        for _ in range(2):
            with place.open(name) as image:
                read_all(image)
                assert image.read(b"e") == extra


@pytest.mark.warns("does not match its digest; it is made anew")
def test_damaged_tree_after_a_crash_is_not_believed(place: Place) -> None:
    digest = place.push("web", lazy(FILES))
    open_once(place, f"web@{digest}")
    crash(place.cache)
    data = bytearray(tree_file(place).read_bytes())
    data[-9] ^= 1
    tree_file(place).write_bytes(data)
    open_once(place, f"web@{digest}")
    open_once(place, f"web@{digest}")


@pytest.mark.parametrize("damage", [lambda data: data[:30], lambda data: b"x" + data[1:], lambda data: b""])
@pytest.mark.warns("it is made anew")
def test_tree_that_is_none_is_made_anew(place: Place, damage: object) -> None:
    digest = place.push("web", lazy(FILES))
    open_once(place, f"web@{digest}")
    assert callable(damage)
    tree_file(place).write_bytes(damage(tree_file(place).read_bytes()))
    open_once(place, f"web@{digest}")


def crash(cache: Path) -> None:
    """A process that uses the cache, and is killed."""
    program = (
        "import os, signal, sys; from pathlib import Path; from crfs.blobs.store import open_store\n"
        "store = open_store(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(cache)], check=False)
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.warns("is dropped and fetched again")
def test_damaged_layer_after_a_crash_is_fetched_again(place: Place) -> None:
    digest = place.push("web", whole(FILES))
    open_once(place, f"web@{digest}")
    crash(place.cache)
    (tar,) = (place.cache / "layers").iterdir()
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    open_once(place, f"web@{digest}")


def test_layer_that_somebody_removed_is_fetched_again(place: Place) -> None:
    digest = place.push("web", whole(FILES))
    open_once(place, f"web@{digest}")
    (tar,) = (place.cache / "layers").iterdir()
    tar.unlink()
    open_once(place, f"web@{digest}")


@pytest.mark.warns("does not match|has the digest")
def test_damaged_documents_are_fetched_again(place: Place) -> None:
    digest = place.push("web", lazy(FILES))
    open_once(place, f"web@{digest}")
    for path in (place.cache / "documents").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    open_once(place, f"web@{digest}")


@pytest.mark.warns("nothing ties its TOC to the manifest")
def test_what_is_not_verified_is_not_kept(place: Place) -> None:
    digest = place.push("web", without_annotations(lazy(FILES)))
    with place.open(f"web@{digest}", allow_unverified=True) as image:
        read_all(image)
    assert list((place.cache / "trees").iterdir()) == []


def test_nothing_of_the_network_is_loaded(place: Place) -> None:
    digest = place.push("web", lazy(FILES), whole(FILES))
    open_once(place, f"web@{digest}")
    program = f"""
import sys
from pathlib import Path
from crfs.cli.compose import open_image
from crfs.cli.services import Settings, open_services
from crfs.formats.reference import parse_source
settings = Settings(Path({str(place.cache)!r}), platform="linux/amd64")
services = open_services(settings)
image = open_image(services, settings, parse_source("docker://{place.proxy.host}/web@{digest}"))
assert image.reader.read(image.tree.find(1, b"b"), 0, 10) == b"b" * 10
services.close()
print(*sorted({{"asyncio", "aiohttp", "ssl", "zstandard", "crfs.blobs.registry"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_cache_that_is_full_or_read_only_still_opens(place: Place) -> None:
    digest = place.push("web", lazy(FILES))
    open_once(place, f"web@{digest}")
    with contextlib.ExitStack() as stack:
        for part in ("trees", "documents", "refs", "believed", "sessions", "tmp"):
            os.chmod(place.cache / part, 0o500)
            stack.callback(os.chmod, place.cache / part, 0o700)
        open_once(place, f"web@{digest}")
