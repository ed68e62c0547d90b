"""What a run touches is recorded, merged, kept, and fetched ahead of the next run."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import FormatError, UsageError
from crfs.image.runs import RUN_MAX, Span, plan_runs
from crfs.image.trace import Touch, encode_trace, merge_traces, parse_trace
from tests.support.faults import CutBody, Fault, Status
from tests.support.layers import Dir, File
from tests.support.mounting import wait_until
from tests.t3_layers.images import Place, lazy, whole

BIG = 3 << 20
FILES = [
    Dir("a"),
    *(File(f"a/{number}", random.Random(number).randbytes(60_000)) for number in range(30)),
    File("big", random.Random(99).randbytes(BIG)),
    File("last", random.Random(98).randbytes(200_000)),
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        place.push("web", lazy(FILES, chunk_size=1 << 20), whole([File("w", b"w" * 1000)]))
        yield place


def record(place: Place, to: Path, *paths: bytes) -> list[Touch]:
    with place.open("web", record=to) as image:
        for path in paths:
            image.read(path)
    return parse_trace(to.read_bytes())


def test_first_touches_in_their_order(place: Place, tmp_path: Path) -> None:
    found = record(place, tmp_path / "t", b"big", b"w", b"a/3", b"big", b"a/1")
    assert [(touch.path, touch.chunk) for touch in found] == [
        ("big", 0),
        ("big", 1 << 20),
        ("big", 2 << 20),
        ("w", 0),
        ("a/3", 0),
        ("a/1", 0),
    ]
    assert [touch.ms for touch in found] == sorted(touch.ms for touch in found)
    line = json.loads((tmp_path / "t").read_bytes().splitlines()[0])
    assert set(line) == {"path", "layer", "chunk", "ms", "blob", "digest"}
    assert line["layer"].startswith("sha256:")


def test_runs_are_merged(place: Place, tmp_path: Path) -> None:
    record(place, tmp_path / "t", b"a/1", b"a/2")
    found = record(place, tmp_path / "t", b"a/3", b"a/1")
    assert sorted(touch.path for touch in found) == ["a/1", "a/2", "a/3"]


def test_what_a_trace_names_comes_by_itself(place: Place, tmp_path: Path) -> None:
    names = [f"a/{number}".encode() for number in range(0, 30, 3)]
    record(place, tmp_path / "t", *names)
    shutil.rmtree(place.cache)
    place.forget()
    with place.open("web", trace=tmp_path / "t") as image:
        wait_until(lambda: all(image.reader.find_cached(image.find(name), 0, 9) for name in names), 10)
        asked = len(place.proxy.requests)
        for name in names:
            assert image.read(name) == random.Random(int(name[2:])).randbytes(60_000)
        assert len(place.proxy.requests) == asked


def test_bytes_of_a_trace_come_once_and_before_the_tree(place: Place, tmp_path: Path) -> None:
    """They are asked for while the layers are being opened, together, and again by nobody."""
    names = [f"a/{number}".encode() for number in (0, 1, 2, 9, 28)]
    record(place, tmp_path / "t", *names, b"big")
    shutil.rmtree(place.cache)
    place.forget()
    with place.open("web", trace=tmp_path / "t") as image:
        wait_until(lambda: all(image.reader.find_cached(image.find(name), 0, 9) for name in names), 10)
        wait_until(lambda: image.reader.find_cached(image.find(b"big"), BIG - 9, 9) is not None, 10)
    asked = place.blob_spans()
    assert all(one[1] < two[0] for one, two in itertools.pairwise(asked)), asked


def test_trace_that_lies_about_the_blob_does_no_harm(place: Place, tmp_path: Path) -> None:
    found = record(place, tmp_path / "t", b"a/1", b"a/2")
    lies = [(-5, 10), (10, 5), (0, 1 << 50), (1 << 40, (1 << 40) + 5), (0, 10)]
    touches = [msgspec.structs.replace(found[0], blob=lie, digest="no") for lie in lies]
    (tmp_path / "t").write_bytes(encode_trace(touches))
    shutil.rmtree(place.cache)
    with place.open("web", trace=tmp_path / "t") as image:
        assert image.read(b"a/1") == random.Random(1).randbytes(60_000)


@pytest.mark.parametrize(
    "fault",
    [
        CutBody(path="/blobs/", after=50_000, skip=3, times=2),
        Status(path="/blobs/", status=429, headers={"Retry-After": "0"}, skip=3, times=2),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_faults_on_the_way_of_a_trace_are_made_good(place: Place, tmp_path: Path, fault: Fault) -> None:
    names = [f"a/{number}".encode() for number in range(0, 30, 3)]
    record(place, tmp_path / "t", *names, b"big")
    shutil.rmtree(place.cache)
    # the layers' tails, and what shows that one of them has no TOC, come first
    place.proxy.use(fault)
    with place.open("web", trace=tmp_path / "t") as image:
        for name in names:
            assert image.read(name) == random.Random(int(name[2:])).randbytes(60_000)
        assert image.read(b"big") == random.Random(99).randbytes(BIG)


def test_kept_trace_is_used_by_itself(place: Place) -> None:
    with place.open("web", traces=True) as image:
        image.read(b"a/7")
    assert len(list((place.cache / "traces").iterdir())) == 1
    shutil.rmtree(place.cache / "chunks")
    with place.open("web", traces=True) as image:
        wait_until(lambda: image.reader.find_cached(image.find(b"a/7"), 0, 9) is not None, 10)
    with place.open("web") as image:
        assert image.reader.find_cached(image.find(b"a/7"), 0, 9) is None


@pytest.mark.warns("line 1 is no line of a trace: .*; it is dropped")
def test_kept_trace_that_is_none_is_dropped(place: Place) -> None:
    with place.open("web", traces=True) as image:
        image.read(b"a/7")
    (path,) = (place.cache / "traces").iterdir()
    path.write_bytes(b"{}\n")
    with place.open("web", traces=True):
        wait_until(lambda: not path.exists(), 10)


def test_should_fail_trace_that_is_none(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}/none: No such file"):
        place.open("web", trace=tmp_path / "none")
    (tmp_path / "t").write_bytes(b'{"path": "a", "layer": "l", "chunk": 0, "ms": 1}\n[]\n')
    with pytest.raises(FormatError, match=f"^{tmp_path}/t: line 2 is no line of a trace"):
        place.open("web", trace=tmp_path / "t")


def test_trace_of_another_image_does_no_harm(place: Place, tmp_path: Path) -> None:
    touches = [Touch(path, "l", chunk, 1.0) for path in ("", "x/y", "a", "a/1") for chunk in (0, 1 << 40)]
    (tmp_path / "t").write_bytes(encode_trace(touches))
    with place.open("web", trace=tmp_path / "t") as image:
        wait_until(lambda: image.reader.find_cached(image.find(b"a/1"), 0, 9) is not None, 10)


def test_runs_lie_together(place: Place) -> None:
    with place.open("web") as image:
        tree, layers = image.tree, image.resolved.layers
        wanted = list(range(tree.chunks))[::-1]
        spans = [
            Span(at.layer, at.blob_off, at.blob_end, at.id)
            for at in map(tree.chunk, wanted)
            if layers[at.layer].lazy
        ]
        runs = [[span.chunk for span in run] for run in plan_runs(spans)]
        assert sorted(chunk for run in runs for chunk in run) == [
            chunk for chunk in sorted(wanted) if layers[tree.chunk(chunk).layer].lazy
        ]
        for run in runs:
            places = [tree.chunk(chunk) for chunk in run]
            assert len({at.layer for at in places}) == 1
            assert len(run) == 1 or places[-1].blob_end - places[0].blob_off <= RUN_MAX
        assert spans[0].chunk in runs[0]


_TOUCHES = st.lists(
    st.builds(Touch, st.sampled_from(["a", "b/c", "d"]), st.just("l"), st.integers(0, 2), st.integers(0, 99)),
    max_size=8,
)


@given(_TOUCHES, _TOUCHES)
def test_merged_traces_have_the_earliest_touch_of_each(one: list[Touch], two: list[Touch]) -> None:
    merged = merge_traces(one, two)
    keys = [(touch.path, touch.chunk) for touch in merged]
    assert len(set(keys)) == len(keys)
    wanted = {key: min(t.ms for t in (*one, *two) if (t.path, t.chunk) == key) for key in keys}
    assert {(touch.path, touch.chunk): touch.ms for touch in merged} == wanted
    assert {(t.path, t.chunk) for t in (*one, *two)} == set(keys)
    assert parse_trace(encode_trace(merged)) == merged
