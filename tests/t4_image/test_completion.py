"""What comes without being asked for: before the landmark at once, and the rest of the image while nobody reads."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.blobs.claims import Claim, try_claim
from crfs.cli import compose
from crfs.image import completion
from crfs.layers.layer import Layer
from tests.support.faults import Stall, Status
from tests.support.layers import File
from tests.support.mounting import wait_until
from tests.t3_layers.images import Image, Place, lazy, whole

FILES = [File(f"f{number:02}", random.Random(number).randbytes(200_000)) for number in range(12)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(completion, "QUIET_SECONDS", 0.3)
    monkeypatch.setattr(completion, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(completion, "RETRY_SECONDS", 0.2)
    with Place(tmp_path) as place:
        yield place


def missing(image: Image) -> list[bytes]:
    """The files of which something is not on the disk."""
    tree = image.tree
    spans = {file.path: tree.cover(image.find(file.path), 0, 1 << 30) for file in FILES}
    store = image.services.store
    return [
        path
        for path, parts in spans.items()
        if not all(store.has_chunk(tree.chunk(chunk).digest or b"") for chunk, _, _ in parts)
    ]


def layers_of(image: Image) -> list[Layer]:
    return list(image.resolved.layers)


def test_rest_of_the_image_comes_once_all_is_quiet(place: Place) -> None:
    place.push("web", lazy(FILES[:6], chunk_size=50_000), whole([File("w", b"w")]), lazy(FILES[6:]))
    with place.open("web", background_fetch=True) as image:
        assert len(missing(image)) == len(FILES)
        wait_until(lambda: not missing(image), 10)
        place.forget()
        for file in FILES:
            assert image.read(file.path) == file.payload()
        assert place.blob_ranges() == []


def is_to_be_completed() -> bool:
    """Whether there is a thread that will fetch the rest of an image."""
    return any(thread.name == "crfs-rest" for thread in threading.enumerate())


def test_nothing_comes_without_the_option(place: Place) -> None:
    place.push("web", lazy(FILES))
    with place.open("web"):
        assert not is_to_be_completed()
    with place.open("web", background_fetch=True):
        assert is_to_be_completed()
    assert not is_to_be_completed()


def test_nothing_comes_before_readers_are_quiet(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "QUIET_SECONDS", 1.0)
    place.push("web", lazy(FILES))
    with place.open("web", background_fetch=True) as image:
        image.read(b"f00")
        read = time.monotonic()
        wait_until(lambda: len(missing(image)) < len(FILES) - 1, 30)
        # the read may have waited from a little before on
        assert time.monotonic() - read > 0.5


def test_one_process_completes_an_image_for_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def try_and_tell(root: Path, name: str) -> Claim | None:
        found = try_claim(root, name)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(compose, "try_claim", try_and_tell)
    digest = place.push("web", lazy(FILES))
    # there is a cache then
    with place.open("web"):
        assert len(list(place.cache.iterdir())) > 0
    claim = try_claim(place.cache, f"rest-{digest.replace(':', '-')}")
    assert claim is not None
    with place.open("web", background_fetch=True) as image:
        wait_until(lambda: len(asked) > 1, 30)
        assert not any(asked)
        assert len(missing(image)) == len(FILES)
        claim.release()
        wait_until(lambda: not missing(image), 10)


def test_rate_is_kept(place: Place) -> None:
    place.push("web", lazy(FILES))
    began = time.monotonic()
    with place.open("web", background_fetch=True, background_rate=1_000_000) as image:
        wait_until(lambda: not missing(image), 30)
        # 2.4 MB, of which the last request, of a MiB at the most, makes nobody wait
        assert time.monotonic() - began > 1.3


def test_registry_that_fails_is_asked_again(place: Place) -> None:
    place.push("web", lazy(FILES))
    with place.open("web", background_fetch=True) as image:
        place.proxy.use(Status(status=404, times=3))
        wait_until(lambda: not missing(image), 10)


def test_end_while_the_rest_is_on_its_way(place: Place) -> None:
    place.push("web", lazy(FILES))
    with place.open("web", background_fetch=True):
        place.proxy.use(Stall())
        place.forget()
        wait_until(lambda: bool(place.blob_ranges()), 10)


def test_image_that_would_fill_the_cache_is_left_alone(place: Place) -> None:
    place.push("web", lazy(FILES))
    with place.open("web", background_fetch=True, cache_size=3_000_000):
        assert not is_to_be_completed()


def test_what_lies_before_the_landmark_comes_at_once(place: Place) -> None:
    place.push("web", lazy(FILES, prioritized=["f07", "f03"]), lazy([File("x", b"x" * 100)]))
    for _ in range(2):
        with place.open("web") as image:
            wait_until(lambda: len(missing(image)) == len(FILES) - 2, 10)
            assert set(missing(image)).isdisjoint({b"f07", b"f03"})
            assert [bool(layer.landmark) for layer in layers_of(image)] == [True, False]
        # the merged tree is kept, and knows it too
        for path in (place.cache / "chunks").rglob("*"):
            if path.is_file():
                path.unlink()
