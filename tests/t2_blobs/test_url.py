"""Single layer blobs on a web server."""

import logging
from collections.abc import Iterator

import pytest

from crfs.blobs.http import Http
from crfs.blobs.url import UrlBlob
from crfs.errors import AuthError, NotFoundError, TransportError
from crfs.formats.reference import UrlSource, parse_url
from tests.support.faults import CutBody, FaultProxy, NeedBasic, SetHeaders, Status
from tests.support.fetching import collect, with_http

DATA = bytes(range(256)) * 1000


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy({"/a b/layer": DATA}, etag='"1"') as served:
        yield served


def source(proxy: FaultProxy, userinfo: str = "") -> UrlSource:
    return parse_url(proxy.url.replace("//", f"//{userinfo}") + "/a%20b/layer?token=hunter2%2F")


def test_whole_and_parts(proxy: FaultProxy) -> None:
    async def work(http: Http) -> None:
        blob = UrlBlob(source(proxy), http)
        assert await collect(blob.iter_body()) == DATA
        assert await blob.fetch_tail(47) == (DATA[-47:], len(DATA))
        assert await blob.fetch_range(9, 99) == DATA[9:99]
        blob.close()

    with_http(work)
    assert {seen.path for seen in proxy.requests} == {"/a%20b/layer?token=hunter2%2F"}
    assert not any("Authorization" in seen.headers for seen in proxy.requests)


def test_user_name_and_password(proxy: FaultProxy) -> None:
    proxy.use(NeedBasic(username="ü ser", password="p:w@"))
    there = source(proxy, "%C3%BC%20ser:p:w%40@")
    assert with_http(lambda http: UrlBlob(there, http).fetch_range(0, 9)) == DATA[:9]


def test_should_fail_wrong_password_untold(proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.use(NeedBasic(username="user", password="right"))
    with pytest.raises(AuthError, match="401 Unauthorized") as caught:
        with_http(lambda http: UrlBlob(source(proxy, "user:wrong@"), http).fetch_range(0, 9))
    assert "wrong" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caplog.text
    assert len(proxy.requests) == 1


def test_secrets_stay_out_of_the_log(proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    proxy.use(CutBody(after=70_000, times=1), Status(status=503, skip=1, times=1))
    blob_name = with_http(lambda http: _read(UrlBlob(source(proxy, "user:wrong@"), http)))
    assert "trying again" in caplog.text
    assert "hunter2" not in caplog.text + blob_name
    assert "wrong" not in caplog.text + blob_name


async def _read(blob: UrlBlob) -> str:
    assert await collect(blob.iter_body()) == DATA
    return blob.name


def test_should_fail_changed_between_reads(proxy: FaultProxy) -> None:
    async def work(http: Http) -> None:
        blob = UrlBlob(source(proxy), http)
        await blob.fetch_range(0, 9)
        proxy.etag = '"2"'
        await blob.fetch_range(9, 12)

    with pytest.raises(TransportError, match="changed on the server while it was being read"):
        with_http(work)


def test_should_fail_changed_while_resuming(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=100_000, times=1), SetHeaders(headers={"ETag": '"2"'}, range="."))
    with pytest.raises(TransportError, match="changed on the server"):
        with_http(lambda http: collect(UrlBlob(source(proxy), http).iter_body()))


def test_should_fail_missing(proxy: FaultProxy) -> None:
    with pytest.raises(NotFoundError, match=r"^GET http://127.0.0.1:\d+/none: 404 Not Found$"):
        with_http(lambda http: UrlBlob(parse_url(proxy.url + "/none"), http).fetch_tail(9))
