"""Several ranges in one request: of Debian's docker-registry, of servers that do as they like, and of none."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benches.registry import registry
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.http import Http
from crfs.blobs.multipart import Parts, parse_boundary
from crfs.blobs.need import Need
from crfs.blobs.push import RegistryPush
from crfs.blobs.ranges import RangeFetcher
from crfs.blobs.registriesconf import RegistriesConf
from crfs.blobs.registry import RegistryImage
from crfs.errors import FormatError
from crfs.formats import mediatypes
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.reference import parse_image
from tests.support.faults import CutBody, Fault, FaultProxy, FlipByte, IgnoreRange, SetHeaders, Status
from tests.support.fetching import with_http

LAYER = os.urandom(2_000_000)
DIGEST = sha256_digest(LAYER)
DESCRIPTOR = Descriptor(mediatypes.OCI_LAYER, DIGEST, len(LAYER))
# further apart than what is read and dropped
WANTED = [(start, start + 1000 + start % 7) for start in range(5, len(LAYER) - 10_000, 300_000)]


def body_of(parts: list[tuple[int, bytes]], boundary: bytes = b"b0") -> bytes:
    heads = (
        b"--%s\r\nContent-Type: x/y\r\nContent-Range: bytes %d-%d/99999\r\n\r\n%s\r\n"
        % (boundary, off, off + len(data) - 1, data)
        for off, data in parts
    )
    return b"".join(heads) + b"--" + boundary + b"--\r\n"


_PARTS = st.lists(st.tuples(st.integers(0, 9999), st.binary(min_size=1, max_size=200)), max_size=6)


@settings(max_examples=200, deadline=None)
@given(sent=_PARTS, cuts=st.lists(st.integers(0, 1500), max_size=12))
def test_parts_arrive_however_they_are_cut(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    body = body_of(sent)
    ends = [*sorted(cut for cut in cuts if cut < len(body)), len(body)]
    parts = Parts(b"b0")
    came: list[tuple[int, bytes]] = []
    for start, end in zip([0, *ends], ends, strict=False):
        came += parts.feed(body[start:end])
    whole = {off + at: data[at] for off, data in sent for at in range(len(data))}
    assert b"".join(piece for _, piece in came) == b"".join(data for _, data in sent)
    assert {off for off, _ in came} <= whole.keys() | {off for off, _ in sent}


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), at=st.integers(0, 200), value=st.integers(0, 255))
def test_damage_is_found_or_harmless(data: bytes, at: int, value: int) -> None:
    body = bytearray(body_of([(5, b"five"), (900, b"nine hundred")]))
    body[at % len(body)] = value
    for each in (bytes(body), data, body_of([])[:-2] + data):
        with contextlib.suppress(FormatError):
            list(Parts(b"b0").feed(each))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("multipart/byteranges; boundary=3d6b6a416f9b5", b"3d6b6a416f9b5"),
        ('Multipart/ByteRanges; charset=x; boundary="a b"', b"a b"),
        ("application/octet-stream", None),
        ("multipart/byteranges", None),
        (None, None),
    ],
)
def test_boundaries(text: str | None, found: bytes | None) -> None:
    assert parse_boundary(text) == found


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A docker-registry with one layer."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    with registry(tmp_path_factory.mktemp("registry")) as served:

        async def push(http: Http) -> None:
            access = Access(http, CredentialStore(environ={"HOME": "/nonexistent"}), None)
            target = RegistryPush(parse_image(f"{served.host}/web"), access, RegistriesConf())
            await target.push_blob(LAYER, DIGEST)

        with_http(push)
        yield f"http://{served.host}"


def fetch(proxy: FaultProxy, times: int = 1) -> list[list[bytes]]:
    """All that is wanted at once, as often as is said; the requests for it are told apart by their ranges."""

    async def work(http: Http) -> list[list[bytes]]:
        access = Access(http, CredentialStore(environ={"HOME": "/nonexistent"}), None)
        image = RegistryImage(parse_image(f"{proxy.host}/web"), access, RegistriesConf())
        blob, fetcher = image.open_blob(DESCRIPTOR), RangeFetcher()
        found = []
        for _ in range(times):
            wants = (fetcher.fetch(blob, *want, Need.LIKELY) for want in WANTED)
            found.append([bytes(one) for one in await asyncio.gather(*wants)])
        return found

    return with_http(work)


EXPECTED = [LAYER[start:end] for start, end in WANTED]


def ranges(proxy: FaultProxy) -> list[int]:
    """How many ranges each request for the blob asked for."""
    return [seen.headers["Range"].count("-") for seen in proxy.seen("GET", "/blobs/")]


def test_what_is_wanted_ahead_is_one_request(upstream: str) -> None:
    with FaultProxy(upstream) as proxy:
        assert fetch(proxy, times=2) == [EXPECTED, EXPECTED]
        assert ranges(proxy) == [len(WANTED)] * 2


@pytest.mark.parametrize(
    "fault",
    [
        CutBody(after=3000, times=1),
        CutBody(after=0, times=1),
        Status(status=503, times=1),
        Status(status=429, headers={"Retry-After": "0"}, times=1),
        FlipByte(at=2, times=1),
        FlipByte(at=30, times=1),
        SetHeaders(headers={"Content-Type": "multipart/byteranges; boundary=other"}, times=1),
        Status(status=404, times=1),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_does_not_come_is_asked_for_alone(upstream: str, fault: Fault) -> None:
    with FaultProxy(upstream) as proxy:
        proxy.use(fault)
        assert fetch(proxy) == [EXPECTED]
        together, *alone = ranges(proxy)
        assert together == len(WANTED)
        assert set(alone) == {1}


@pytest.mark.parametrize(
    "fault", [IgnoreRange(times=1), SetHeaders(headers={"Content-Type": "x/y"}, times=1)]
)
def test_servers_that_give_one_range_are_asked_once(upstream: str, fault: Fault) -> None:
    with FaultProxy(upstream) as proxy:
        proxy.use(fault)
        assert fetch(proxy, times=2) == [EXPECTED, EXPECTED]
        assert ranges(proxy) == [len(WANTED)] + [1] * 2 * len(WANTED)
