"""Byte ranges over HTTP from servers that misbehave: retries, resumption, redirects, TLS."""

import asyncio
import gzip
import logging
import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest
from yarl import URL

from crfs.blobs.http import Http, document_reason, find_proxy
from crfs.blobs.resource import ContentRange, parse_content_range
from crfs.blobs.tls import TlsSettings, is_loopback
from crfs.blobs.transport import RetryPolicy, parse_retry_after
from crfs.blobs.url import UrlBlob
from crfs.errors import AuthError, CrfsError, NotFoundError, TransportError, UsageError
from crfs.formats.reference import parse_url
from tests.support.faults import (
    CutBody,
    FaultProxy,
    IgnoreRange,
    OtherRange,
    Redirect,
    SetHeaders,
    ShortRange,
    Slow,
    Stall,
    Status,
    make_certificate,
)
from tests.support.fetching import collect, take, with_http

DATA = random.Random(1).randbytes(300_000)
FILES = {"/blob": DATA, "/empty": b"", "/packed": gzip.compress(DATA)}


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(FILES) as served:
        yield served


def blob_at(http: Http, proxy: FaultProxy, path: str = "/blob", size: int | None = None) -> UrlBlob:
    return UrlBlob(parse_url(proxy.url + path), http, size=size, verify=False)


def fetch_range(proxy: FaultProxy, start: int, end: int, size: int | None = None) -> bytes:
    return with_http(lambda http: blob_at(http, proxy, size=size).fetch_range(start, end))


def fetch_tail(
    proxy: FaultProxy, count: int, path: str = "/blob", size: int | None = None
) -> tuple[bytes, int]:
    return with_http(lambda http: blob_at(http, proxy, path, size).fetch_tail(count))


def fetch_body(proxy: FaultProxy, path: str = "/blob", size: int | None = None) -> bytes:
    return with_http(lambda http: collect(blob_at(http, proxy, path, size).iter_body()))


def test_ranges(proxy: FaultProxy) -> None:
    async def work(http: Http) -> None:
        blob = blob_at(http, proxy)
        assert await blob.fetch_range(0, 1) == DATA[:1]
        assert await blob.fetch_range(1000, 200_000) == DATA[1000:200_000]
        assert await blob.fetch_range(len(DATA) - 1, len(DATA)) == DATA[-1:]
        assert await blob.fetch_range(5, 5) == b""
        assert (http.stats.requests, http.stats.bytes) == (3, 199_002)

    with_http(work)
    assert [seen.headers["Range"] for seen in proxy.requests] == [
        "bytes=0-0",
        "bytes=1000-199999",
        "bytes=299999-299999",
    ]
    assert {seen.headers["Accept-Encoding"] for seen in proxy.requests} == {"identity"}


def test_one_request_for_a_tail(proxy: FaultProxy) -> None:
    assert fetch_tail(proxy, 51) == (DATA[-51:], len(DATA))
    assert [seen.headers["Range"] for seen in proxy.requests] == ["bytes=-51"]


@pytest.mark.parametrize("size", [None, 300_000])
def test_tail_longer_than_everything(proxy: FaultProxy, size: int | None) -> None:
    assert fetch_tail(proxy, 10**6, size=size) == (DATA, len(DATA))


@pytest.mark.parametrize("size", [None, 0])
def test_empty_blob(proxy: FaultProxy, size: int | None) -> None:
    assert fetch_tail(proxy, 10, "/empty", size) == (b"", 0)
    assert fetch_body(proxy, "/empty", size) == b""


def test_tail_of_nothing_tells_the_size(proxy: FaultProxy) -> None:
    assert fetch_tail(proxy, 0) == (b"", len(DATA))


def test_tail_by_absolute_range_when_the_size_is_known(proxy: FaultProxy) -> None:
    assert fetch_tail(proxy, 10, size=len(DATA)) == (DATA[-10:], len(DATA))
    assert proxy.requests[0].headers["Range"] == "bytes=299990-299999"


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Range": f"bytes */{len(DATA)}"}], ids=["size-untold", "size-told"]
)
def test_suffix_ranges_refused(proxy: FaultProxy, headers: dict[str, str]) -> None:
    proxy.use(Status(status=416, headers=headers, range="bytes=-"))
    assert fetch_tail(proxy, 10) == (DATA[-10:], len(DATA))


@pytest.mark.warns("ignores Range")
def test_suffix_ranges_ignored(proxy: FaultProxy) -> None:
    proxy.use(IgnoreRange(range="bytes=-"))
    assert fetch_tail(proxy, 10) == (DATA[-10:], len(DATA))


def test_suffix_answered_with_another_range(proxy: FaultProxy) -> None:
    proxy.use(SetHeaders(headers={"Content-Range": f"bytes 0-9/{len(DATA)}"}, range="bytes=-"))
    assert fetch_tail(proxy, 10) == (DATA[-10:], len(DATA))


def test_cut_range_is_resumed_where_it_broke(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=100_000, times=1))
    assert fetch_range(proxy, 0, 250_000) == DATA[:250_000]
    assert [seen.headers["Range"] for seen in proxy.requests] == ["bytes=0-249999", "bytes=100000-249999"]


def test_cut_body_is_resumed_where_it_broke(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=70_000, times=4))
    assert fetch_body(proxy) == DATA
    asked = [seen.headers.get("Range") for seen in proxy.requests]
    assert asked == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


@pytest.mark.warns("ignores Range")
def test_cut_body_is_resumed_without_ranges(proxy: FaultProxy) -> None:
    proxy.use(IgnoreRange(), CutBody(after=250_000, times=1))
    assert fetch_body(proxy) == DATA


def test_should_fail_cut_without_progress(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=0))
    with pytest.raises(TransportError, match=r"^GET http://127.0.0.1:\d+/blob: .*\(tried 4 times\)$"):
        fetch_range(proxy, 10, 20)
    assert len(proxy.requests) == 4


def test_should_fail_cut_after_a_few_bytes_each(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=10))
    with pytest.raises(TransportError):
        fetch_body(proxy)
    assert len(proxy.requests) == 4


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_server_errors_are_retried(proxy: FaultProxy, status: int) -> None:
    proxy.use(Status(status=status, times=2))
    assert fetch_range(proxy, 10, 20) == DATA[10:20]
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("value", ["1", "date"])
def test_retry_after_is_honoured(proxy: FaultProxy, value: str) -> None:
    value = formatdate(time.time() + 2, usegmt=True) if value == "date" else value
    proxy.use(Status(status=503, headers={"Retry-After": value}, times=1))
    started = time.monotonic()
    assert fetch_range(proxy, 10, 20) == DATA[10:20]
    assert 0.9 < time.monotonic() - started < 4


def test_should_fail_at_once_when_asked_to_wait_too_long(proxy: FaultProxy) -> None:
    proxy.use(Status(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(TransportError, match="429 Too Many Requests, which asks to wait 3600 s"):
        fetch_range(proxy, 10, 20)
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFoundError),
        (410, NotFoundError),
        (401, AuthError),
        (403, AuthError),
        (400, TransportError),
        (405, TransportError),
        (501, TransportError),
        (304, TransportError),
        (206, TransportError),
    ],
)
def test_should_fail_final_status(proxy: FaultProxy, status: int, kind: type[CrfsError]) -> None:
    proxy.use(Status(status=status))
    with pytest.raises(kind, match=r"^GET http://127.0.0.1:\d+/blob: "):
        fetch_range(proxy, 10, 20)
    assert len(proxy.requests) == (4 if status == 206 else 1)


def test_should_fail_with_the_registrys_own_words(proxy: FaultProxy) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"no\\n\\u001b[31m quota"}]}'
    proxy.use(Status(status=400, body=body))
    with pytest.raises(TransportError, match=r"400 Bad Request \(DENIED: no \[31m quota\)$"):
        fetch_range(proxy, 10, 20)


def test_stalled_body_is_resumed(proxy: FaultProxy) -> None:
    proxy.use(Stall(after=100_000, times=1))
    assert fetch_range(proxy, 0, 200_000) == DATA[:200_000]
    assert proxy.requests[1].headers["Range"] == "bytes=100000-199999"


def test_should_fail_stalled_for_ever(proxy: FaultProxy) -> None:
    proxy.use(Stall())
    started = time.monotonic()
    with pytest.raises(TransportError, match="timed out"):
        fetch_range(proxy, 0, 10)
    assert time.monotonic() - started < 5


def test_slow_is_not_stalled(proxy: FaultProxy) -> None:
    proxy.use(Slow(seconds=0.05))
    assert fetch_body(proxy) == DATA
    assert len(proxy.requests) == 1


def test_ignored_range_is_sliced(proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.use(IgnoreRange())
    assert fetch_range(proxy, 1000, 2000) == DATA[1000:2000]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.warns("ignores Range")
def test_ignored_range_is_read_no_further_than_needed(proxy: FaultProxy) -> None:
    proxy.use(IgnoreRange(), Slow(seconds=0.05))

    async def work(http: Http) -> int:
        assert await blob_at(http, proxy).fetch_range(10, 20) == DATA[10:20]
        return http.stats.bytes

    assert with_http(work) < len(DATA) // 2


def test_capped_ranges_are_put_together(proxy: FaultProxy) -> None:
    proxy.use(ShortRange(most=100_000))
    assert fetch_range(proxy, 5, 250_005) == DATA[5:250_005]
    assert len(proxy.requests) == 3


def test_should_fail_other_range_than_asked(proxy: FaultProxy) -> None:
    proxy.use(OtherRange(shift=100))
    with pytest.raises(TransportError, match="asked for bytes from 1000 on, got 'bytes 1100-1199/300000'"):
        fetch_range(proxy, 1000, 1100)


def test_other_range_once(proxy: FaultProxy) -> None:
    proxy.use(OtherRange(shift=100, times=1))
    assert fetch_range(proxy, 1000, 1100) == DATA[1000:1100]


@pytest.mark.parametrize("value", [None, "bytes 5-4/10", "pages 1-2/3", "bytes 0-9"])
def test_should_fail_no_content_range(proxy: FaultProxy, value: str | None) -> None:
    proxy.use(SetHeaders(headers={"Content-Range": value}))
    with pytest.raises(TransportError, match="a partial answer with the Content-Range"):
        fetch_range(proxy, 0, 10)


def test_should_fail_beyond_the_end(proxy: FaultProxy) -> None:
    with pytest.raises(TransportError, match=r"up to 300010 of 300000"):
        fetch_range(proxy, 299_990, 300_010)
    with pytest.raises(TransportError, match=r"no bytes at 300000 \(416\)"):
        fetch_range(proxy, 300_000, 300_010)


def test_should_fail_shorter_than_declared(proxy: FaultProxy) -> None:
    for fetch in (fetch_body, lambda proxy, size: fetch_range(proxy, 0, 10, size)):
        with pytest.raises(TransportError, match="has 300000 bytes, not 300001"):
            fetch(proxy, size=300_001)


def test_should_fail_longer_than_declared(proxy: FaultProxy) -> None:
    with pytest.raises(TransportError, match="has 300000 bytes, not 299999"):
        fetch_body(proxy, size=299_999)


def test_should_fail_no_range(proxy: FaultProxy) -> None:
    for start, end in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="not a range"):
            fetch_range(proxy, start, end)


def test_encoded_blob_is_not_inflated(proxy: FaultProxy) -> None:
    proxy.use(SetHeaders(headers={"Content-Encoding": "gzip"}))
    assert fetch_body(proxy, "/packed") == FILES["/packed"]


def test_body_may_be_left_early(proxy: FaultProxy) -> None:
    async def work(http: Http) -> None:
        assert DATA.startswith((await take(blob_at(http, proxy).iter_body(), 1))[0])
        assert await blob_at(http, proxy).fetch_range(1, 2) == DATA[1:2]

    with_http(work)


def test_many_ranges_at_once(proxy: FaultProxy) -> None:
    async def work(http: Http) -> None:
        blob = blob_at(http, proxy)
        found = await asyncio.gather(*(blob.fetch_range(at, at + 1000) for at in range(0, 300_000, 5000)))
        assert found == [DATA[at : at + 1000] for at in range(0, 300_000, 5000)]

    with_http(work)


def test_should_fail_connection_refused() -> None:
    with pytest.raises(
        TransportError, match=r"^GET http://127.0.0.1:1/x: Connection refused \(tried 3 times\)$"
    ):
        with_http(lambda http: UrlBlob(parse_url("http://127.0.0.1:1/x"), http).fetch_range(0, 1))


def test_redirect_is_followed_without_credentials(proxy: FaultProxy) -> None:
    with FaultProxy(FILES) as other:
        proxy.use(Redirect(to=other.url, signed=True))
        url = parse_url(proxy.url.replace("//", "//user:secret@") + "/blob")
        data = with_http(lambda http: UrlBlob(url, http).fetch_range(3, 9))
        assert data == DATA[3:9]
        assert proxy.requests[0].headers["Authorization"].startswith("Basic ")
        assert "Authorization" not in other.requests[0].headers
        assert other.requests[0].headers["Range"] == "bytes=3-8"


def test_credentials_come_back_with_the_origin(proxy: FaultProxy) -> None:
    proxy.use(Status(status=302, headers={"Location": "/blob"}, path="^/old"))
    url = parse_url(proxy.url.replace("//", "//user:secret@") + "/old")
    assert with_http(lambda http: UrlBlob(url, http).fetch_range(3, 9)) == DATA[3:9]
    assert all("Authorization" in seen.headers for seen in proxy.requests)


def test_should_fail_redirects_without_end(proxy: FaultProxy) -> None:
    proxy.use(Redirect(to=proxy.url))
    with pytest.raises(TransportError, match="redirected more than 10 times"):
        fetch_range(proxy, 0, 1)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://["])
def test_should_fail_redirect_to_nowhere(proxy: FaultProxy, location: str) -> None:
    proxy.use(Status(status=302, headers={"Location": location}))
    with pytest.raises(TransportError, match="redirected to"):
        fetch_range(proxy, 0, 1)
    assert len(proxy.requests) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_should_fail_untrusted_certificate(certificate: tuple[Path, Path]) -> None:
    with FaultProxy(FILES, tls=certificate) as server:
        url = parse_url(server.url + "/blob")
        with pytest.raises(TransportError, match=r"the certificate is not trusted: .*self.signed"):
            with_http(lambda http: UrlBlob(url, http).fetch_range(0, 1))


def test_verification_can_be_given_up(certificate: tuple[Path, Path]) -> None:
    with FaultProxy(FILES, tls=certificate) as server:
        assert fetch_range(server, 0, 9) == DATA[:9]


def test_certificates_of_a_host(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with FaultProxy(FILES, tls=certificate) as server:
        directory = tmp_path / server.host
        directory.mkdir()
        (directory / "ca.crt").write_bytes(certificate[0].read_bytes())
        url = parse_url(server.url + "/blob")
        assert with_http(lambda http: UrlBlob(url, http).fetch_range(0, 9), certs=tmp_path) == DATA[:9]


def test_should_fail_broken_certificates_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "h:1").mkdir()
    (tmp_path / "h:1" / "client.cert").write_text("none")
    with pytest.raises(UsageError, match="can't be loaded"):
        TlsSettings([tmp_path]).context("h:1", True)


def test_should_fail_redirect_from_https_to_http(proxy: FaultProxy, certificate: tuple[Path, Path]) -> None:
    with FaultProxy(FILES, Redirect(to=proxy.url), tls=certificate) as server:

        async def ask(http: Http) -> int:
            async with http.open("GET", server.url + "/blob", verify=False) as response:
                return response.status

        with pytest.raises(TransportError, match="refusing the redirect from https to 'http://"):
            with_http(ask)
    assert proxy.requests == []


def test_should_fail_plain_http_where_https_was_asked(proxy: FaultProxy) -> None:
    url = parse_url(proxy.url.replace("http:", "https:") + "/blob")
    with pytest.raises(TransportError, match="no TLS"):
        with_http(lambda http: UrlBlob(url, http).fetch_range(0, 1))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        (" 0 ", 0.0),
        ("9" * 40, 9999999999.0),
        ("-1", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, now=10.0) == seconds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes 0-9/10", ContentRange(0, 9, 10)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("bytes */10", ContentRange(None, None, 10)),
        ("bytes 0-10/10", None),
        ("bytes 9-5/10", None),
        ("bytes=0-9/10", None),
        ("bytes 0-9", None),
        ("", None),
        (None, None),
    ],
)
def test_content_range(text: str | None, found: ContentRange | None) -> None:
    assert parse_content_range(text) == found


def test_delays_grow_and_are_bounded() -> None:
    policy = RetryPolicy(base_delay=1.0, max_delay=5.0)
    delays = [policy.delay(failures) for failures in (1, 2, 3, 30)]
    assert all(full / 2 <= delay <= full for full, delay in zip((1, 2, 4, 5), delays, strict=True))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "a.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["example.com", "10.0.0.1", "127.0.0.1.example.com", "localhost.example", ""]
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test")
    assert find_proxy(URL("https://example.com/x")) == URL("http://proxy.test:3128")
    assert find_proxy(URL("http://example.com/x")) is None
    assert find_proxy(URL("https://a.inside.test/x")) is None
    assert find_proxy(URL("https://127.0.0.1:5000/x")) is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors":[]}', b'{"errors":[{}]}', b"\xff"])
def test_bodies_that_say_nothing(body: bytes) -> None:
    assert document_reason(body) == ""


def test_should_fail_trickling_answer(proxy: FaultProxy) -> None:
    proxy.use(Slow(seconds=0.3))

    async def ask(http: Http) -> None:
        http.limits = msgspec.structs.replace(http.limits, min_rate=10**9)
        async with http.open("GET", proxy.url + "/blob") as response:
            await response.read(len(DATA))

    started = time.monotonic()
    with pytest.raises(TransportError, match="timed out"):
        with_http(ask)
    assert time.monotonic() - started < 2
