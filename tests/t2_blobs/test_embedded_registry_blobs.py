"""The registry that comes with crfs: blobs, uploads and ranges, over both of its storages."""

import hashlib
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.registry.ranges import Span, parse_range
from crfs.registry.refusal import Refusal
from crfs.registry.server import Registry
from tests.support.rawregistry import BLOB, Answer, Client, digest_of


@pytest.fixture(params=["memory", "directory"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    with Registry(tmp_path / "root" if request.param == "directory" else None) as registry:
        yield Client(registry.address)


def test_version(client: Client) -> None:
    answer = client.ask("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_monolithic_push_and_pull(client: Client, algorithm: str) -> None:
    digest = digest_of(BLOB, algorithm)
    answer = client.ask("PUT", f"{client.upload('a/b')}?digest={digest}", BLOB)
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    pulled = client.ask("GET", answer.headers["Location"])
    assert (pulled.status, pulled.body) == (200, BLOB)
    head = client.ask("HEAD", answer.headers["Location"])
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(BLOB)), b"")


def test_push_in_one_post(client: Client) -> None:
    digest = digest_of(BLOB)
    assert client.ask("POST", f"/v2/a/blobs/uploads/?digest={digest}", BLOB).status == 201
    assert client.ask("GET", f"/v2/a/blobs/{digest}").body == BLOB


def test_chunked_push(client: Client) -> None:
    upload = client.upload("a")
    first = client.ask("PATCH", upload, BLOB[:100], Content_Range="0-99")
    assert (first.status, first.headers["Range"]) == (202, "0-99")
    status = client.ask("GET", upload)
    assert (status.status, status.headers["Range"]) == (204, "0-99")
    assert client.ask("PATCH", upload, BLOB[100:200], Content_Range="100-199").status == 202
    closing = client.ask(
        "PUT", f"{upload}?digest={digest_of(BLOB)}", BLOB[200:], Content_Range=f"200-{len(BLOB) - 1}"
    )
    assert closing.status == 201
    assert client.ask("GET", closing.headers["Location"]).body == BLOB
    assert client.ask("GET", upload).code == "BLOB_UPLOAD_UNKNOWN"


def test_streamed_push(client: Client) -> None:
    """What docker does: a PATCH with Transfer-Encoding: chunked and no Content-Range."""
    upload = client.upload("a")
    assert client.ask("PATCH", upload, iter([BLOB[:7], BLOB[7:]])).headers["Range"] == f"0-{len(BLOB) - 1}"
    assert client.ask("PUT", f"{upload}?digest={digest_of(BLOB)}").status == 201


def test_large_blob_comes_back_in_pieces(client: Client) -> None:
    data = hashlib.shake_256(b"large").digest(5_000_011)
    digest = client.push_blob("a", data)
    assert client.ask("GET", f"/v2/a/blobs/{digest}").body == data
    middle = client.ask("GET", f"/v2/a/blobs/{digest}", Range="bytes=1000-4000000")
    assert (middle.status, middle.body) == (206, data[1000:4000001])


def test_client_that_leaves_early_disturbs_nobody(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    data = bytes(20 << 20)
    digest, upload = client.push_blob("a", data), client.upload("a")
    for request in (f"GET /v2/a/blobs/{digest}", f"PUT {upload}?digest={digest}"):
        head = f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(client.address.rpartition(":")[2]))) as raw:
            raw.sendall(head.encode() + b"x")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert client.ask("GET", f"/v2/a/blobs/{digest}").body == data
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_empty_blob(client: Client) -> None:
    digest = client.push_blob("a", b"")
    assert client.ask("GET", f"/v2/a/blobs/{digest}").body == b""
    assert client.ask("GET", f"/v2/a/blobs/{digest}", Range="bytes=0-0").status == 416


def test_compressed_body_is_not_inflated(client: Client) -> None:
    digest = digest_of(BLOB)
    answer = client.ask("PUT", f"{client.upload('a')}?digest={digest}", BLOB, Content_Encoding="gzip")
    assert answer.status == 201


def test_should_fail_push_with_wrong_digest(client: Client) -> None:
    upload = client.upload("a")
    answer = client.ask("PUT", f"{upload}?digest={digest_of(b'other')}", BLOB)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert client.ask("GET", f"/v2/a/blobs/{digest_of(b'other')}").code == "BLOB_UNKNOWN"
    assert client.ask("GET", upload).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize(
    "query", ["", "?digest=", "?digest=sha256:00", "?digest=md5:" + "0" * 32, "?digest=sha256:" + "A" * 64]
)
def test_should_fail_push_without_usable_digest(client: Client, query: str) -> None:
    answer = client.ask("PUT", client.upload("a") + query, BLOB)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_should_fail_chunk_out_of_order(client: Client) -> None:
    upload = client.upload("a")
    client.ask("PATCH", upload, BLOB[:100], Content_Range="0-99")
    for chunk_range in ("0-99", "101-200"):
        answer = client.ask("PATCH", upload, BLOB[:100], Content_Range=chunk_range)
        assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert client.ask("GET", upload).headers["Range"] == "0-99"


def test_should_fail_chunk_of_another_length(client: Client) -> None:
    upload = client.upload("a")
    assert client.ask("PATCH", upload, BLOB[:100], Content_Range="0-98").code == "SIZE_INVALID"
    assert client.ask("PATCH", upload, iter([BLOB[:100]]), Content_Range="0-98").code == "SIZE_INVALID"
    assert client.ask("PATCH", upload, iter([BLOB[:100]]), Content_Range="0-100").code == "SIZE_INVALID"
    assert client.ask("PATCH", upload, BLOB[:100], Content_Range="0-99").headers["Range"] == "0-99"


@pytest.mark.parametrize("header", ["bytes 0-99/100", "0-", "99-0", "x", "0-" + "9" * 5000])
def test_should_fail_chunk_with_malformed_range(client: Client, header: str) -> None:
    answer = client.ask("PATCH", client.upload("a"), BLOB[:100], Content_Range=header)
    assert (answer.status, answer.code) == (400, "BLOB_UPLOAD_INVALID")


def test_should_fail_two_writers_of_one_upload(client: Client) -> None:
    """The second is turned away and loses nothing: the first goes on where it was."""
    upload, paused, resume = client.upload("a"), threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield BLOB[:10]
        paused.set()
        resume.wait(10)
        yield BLOB[10:]

    answers: list[Answer] = []
    first = threading.Thread(target=lambda: answers.append(client.ask("PATCH", upload, body())))
    first.start()
    paused.wait(10)
    while client.ask("GET", upload).headers["Range"] != "0-9":
        pass
    assert client.ask("PATCH", upload, b"x").status == 409
    resume.set()
    first.join()
    assert answers[0].headers["Range"] == f"0-{len(BLOB) - 1}"


def test_broken_upload_can_be_resumed(client: Client) -> None:
    upload = client.upload("a")
    with socket.create_connection(("127.0.0.1", int(client.address.rpartition(":")[2]))) as raw:
        raw.sendall(
            f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + BLOB[:500]
        )
        while client.ask("GET", upload).headers["Range"] != "0-499":
            pass
    rest = BLOB[500:]
    while (answer := client.ask("PATCH", upload, rest, Content_Range=f"500-{len(BLOB) - 1}")).status == 409:
        pass
    assert answer.status == 202
    assert client.ask("PUT", f"{upload}?digest={digest_of(BLOB)}").status == 201


def test_cancelled_upload(client: Client) -> None:
    upload = client.upload("a")
    assert client.ask("DELETE", upload).status == 204
    assert client.ask("DELETE", upload).code == "BLOB_UPLOAD_UNKNOWN"
    assert client.ask("PATCH", upload, BLOB).code == "BLOB_UPLOAD_UNKNOWN"


def test_should_fail_upload_of_another_repository(client: Client) -> None:
    path = client.upload("a").replace("/v2/a/", "/v2/b/")
    assert client.ask("PATCH", path, BLOB).code == "BLOB_UPLOAD_UNKNOWN"
    assert client.ask("GET", "/v2/a/blobs/uploads/..%2F_tags").code == "BLOB_UPLOAD_UNKNOWN"


def test_mount_from_another_repository(client: Client) -> None:
    digest = client.push_blob("origin", BLOB)
    assert client.ask("GET", f"/v2/b/blobs/{digest}").code == "BLOB_UNKNOWN"
    answer = client.ask("POST", f"/v2/b/blobs/uploads/?mount={digest}&from=origin")
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/b/blobs/{digest}")
    assert client.ask("GET", f"/v2/b/blobs/{digest}").body == BLOB


def test_mount_falls_back_to_an_upload(client: Client) -> None:
    digest = client.push_blob("origin", BLOB)
    for query in (f"mount={digest}&from=elsewhere", f"mount={digest}"):
        answer = client.ask("POST", f"/v2/b/blobs/uploads/?{query}")
        assert answer.status == 202
        assert client.ask("PUT", f"{answer.headers['Location']}?digest={digest}", BLOB).status == 201
        assert client.ask("DELETE", f"/v2/b/blobs/{digest}").status == 202


def test_deleted_blob_stays_in_other_repositories(client: Client) -> None:
    digest = client.push_blob("a", BLOB)
    client.push_blob("b", BLOB)
    assert client.ask("DELETE", f"/v2/a/blobs/{digest}").status == 202
    assert client.ask("DELETE", f"/v2/a/blobs/{digest}").code == "BLOB_UNKNOWN"
    assert client.ask("GET", f"/v2/b/blobs/{digest}").body == BLOB


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-", 10, None),
        ("bytes=-10", -10, None),
        ("bytes=-99999999", 0, None),
        ("bytes=5-99999999", 5, None),
    ],
)
def test_single_range(client: Client, header: str, start: int, end: int | None) -> None:
    expected = BLOB[start:end]
    answer = client.ask("GET", f"/v2/a/blobs/{client.push_blob('a', BLOB)}", Range=header)
    assert (answer.status, answer.body) == (206, expected)
    first = start % len(BLOB)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(BLOB)}"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=5-4", "lines=0-1", "bytes=x-y", "bytes=-"])
def test_range_that_is_ignored(client: Client, header: str) -> None:
    answer = client.ask("GET", f"/v2/a/blobs/{client.push_blob('a', BLOB)}", Range=header)
    assert (answer.status, answer.body) == (200, BLOB)


def test_should_fail_range_after_the_end(client: Client) -> None:
    path = f"/v2/a/blobs/{client.push_blob('a', BLOB)}"
    for header in (f"bytes={len(BLOB)}-", "bytes=-0"):
        answer = client.ask("GET", path, Range=header)
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(BLOB)}")


def test_conditional_requests(client: Client) -> None:
    path = f"/v2/a/blobs/{client.push_blob('a', BLOB)}"
    tag = client.ask("HEAD", path).headers["ETag"]
    assert client.ask("GET", path, If_None_Match=f'"x", W/{tag}').status == 304
    assert client.ask("GET", path, Range="bytes=0-1", If_Range=tag).status == 206
    assert client.ask("GET", path, Range="bytes=0-1", If_Range='"x"').status == 200


@settings(deadline=None)
@given(size=st.integers(1, 50), first=st.integers(0, 60), last=st.none() | st.integers(0, 60))
def test_range_is_a_slice(size: int, first: int, last: int | None) -> None:
    data = bytes(range(size))
    expected = data[first : None if last is None else last + 1]
    header = f"bytes={first}-{'' if last is None else last}"
    if first >= size and (last is None or last >= first):
        with pytest.raises(Refusal, match=header):
            parse_range(header, size)
        return
    span = parse_range(header, size)
    if span is None:
        assert last is not None
        assert last < first
    else:
        assert data[span.start : span.start + span.size] == expected
        assert span == Span(first, len(expected))
