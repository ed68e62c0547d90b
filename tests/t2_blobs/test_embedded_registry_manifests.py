"""The registry that comes with crfs: manifests, tags and referrers, over both of its storages."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.accept import accepts
from crfs.registry.server import Registry
from tests.support.rawregistry import (
    BLOB,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Client,
    descriptor,
    digest_of,
    image,
)


@pytest.fixture(params=["memory", "directory"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    with Registry(tmp_path / "root" if request.param == "directory" else None) as registry:
        yield Client(registry.address)


def test_manifest_by_tag_and_digest(client: Client) -> None:
    document = image(client, "a")
    body = json.dumps(document).encode()
    answer = client.push_manifest("a", "v1", document)
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest_of(body))
    for reference in ("v1", digest_of(body)):
        pulled = client.ask("GET", f"/v2/a/manifests/{reference}")
        assert (pulled.status, pulled.body, pulled.headers["Content-Type"]) == (200, body, OCI_MANIFEST)
        head = client.ask("HEAD", f"/v2/a/manifests/{reference}")
        assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(body)), b"")
    assert client.ask("GET", f"/v2/a/manifests/{digest_of(body, 'sha512')}").code == "MANIFEST_UNKNOWN"
    assert client.ask("GET", "/v2/b/manifests/v1").code == "MANIFEST_UNKNOWN"


def test_moved_tag(client: Client) -> None:
    first = client.push_manifest("a", "v1", image(client, "a")).headers["Docker-Content-Digest"]
    second = client.push_manifest("a", "v1", image(client, "a", b"new")).headers["Docker-Content-Digest"]
    assert client.ask("HEAD", "/v2/a/manifests/v1").headers["Docker-Content-Digest"] == second
    assert client.ask("HEAD", f"/v2/a/manifests/{first}").status == 200


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (OCI_MANIFEST, 200),
        (f"{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.5", 200),
        ("*/*", 200),
        ("application/*;q=0.1", 200),
        (DOCKER_MANIFEST, 404),
        (f"*/*, {OCI_MANIFEST};q=0", 404),
    ],
)
def test_negotiation(client: Client, accept: str, status: int) -> None:
    client.push_manifest("a", "v1", image(client, "a"))
    assert client.ask("GET", "/v2/a/manifests/v1", Accept=accept).status == status


def test_accept_in_several_headers() -> None:
    assert accepts([DOCKER_MANIFEST, OCI_MANIFEST], OCI_MANIFEST)
    assert accepts([], OCI_MANIFEST)
    assert accepts([f"{OCI_MANIFEST}; q=nonsense"], OCI_MANIFEST)
    assert not accepts(["text/*"], OCI_MANIFEST)


def test_should_fail_manifest_with_unknown_blob(client: Client) -> None:
    document = image(client, "a") | {"layers": [descriptor(b"never pushed")]}
    answer = client.push_manifest("a", "v1", document)
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert client.ask("GET", "/v2/a/manifests/v1").code == "MANIFEST_UNKNOWN"
    # a blob that only another repository has is no better
    assert client.push_manifest("b", "v1", image(client, "a")).code == "MANIFEST_BLOB_UNKNOWN"


def test_layer_kept_elsewhere_need_not_exist(client: Client) -> None:
    layer = descriptor(b"never pushed") | {"urls": ["https://example.invalid/layer"]}
    assert client.push_manifest("a", "v1", image(client, "a") | {"layers": [layer]}).status == 201


def test_index_needs_its_manifests(client: Client) -> None:
    document = image(client, "a")
    child = descriptor(json.dumps(document).encode(), OCI_MANIFEST)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
    assert client.push_manifest("a", "all", index, OCI_INDEX).code == "MANIFEST_BLOB_UNKNOWN"
    client.push_manifest("a", str(child["digest"]), document)
    assert client.push_manifest("a", "all", index, OCI_INDEX).status == 201


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"mediaType": DOCKER_MANIFEST},
        {"config": None},
        {"layers": None},
        {"layers": [{"mediaType": "x", "digest": digest_of(BLOB)}]},
        {"layers": [{"mediaType": "x", "digest": digest_of(BLOB), "size": -1}]},
        {"layers": [{"mediaType": "x", "digest": digest_of(BLOB), "size": 1}]},
        {"manifests": []},
    ],
)
def test_should_fail_invalid_manifest(client: Client, change: dict[str, object]) -> None:
    answer = client.push_manifest("a", "v1", image(client, "a") | change)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


def test_should_fail_manifest_that_is_none(client: Client) -> None:
    for body in (b"", b"[]", b"{", b"\xff", b'{"schemaVersion": 2}'):
        answer = client.ask("PUT", "/v2/a/manifests/v1", body, Content_Type=OCI_MANIFEST)
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert client.push_manifest("a", "v1", image(client, "a"), "application/json").code == "MANIFEST_INVALID"


def test_should_fail_manifest_of_another_digest(client: Client) -> None:
    answer = client.push_manifest("a", digest_of(b"other"), image(client, "a"))
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_should_fail_manifest_too_large(client: Client) -> None:
    answer = client.push_manifest("a", "v1", image(client, "a", annotations={"x": "x" * (4 << 20)}))
    assert answer.status == 413


def test_deleted_manifest_takes_its_tags(client: Client) -> None:
    digest = client.push_manifest("a", "v1", image(client, "a")).headers["Docker-Content-Digest"]
    client.push_manifest("a", "v2", image(client, "a"))
    client.push_manifest("a", "v3", image(client, "a", b"new"))
    assert client.ask("DELETE", "/v2/a/manifests/v2").status == 202
    assert client.ask("HEAD", f"/v2/a/manifests/{digest}").status == 200
    assert client.ask("DELETE", f"/v2/a/manifests/{digest}").status == 202
    assert client.ask("DELETE", f"/v2/a/manifests/{digest}").code == "MANIFEST_UNKNOWN"
    assert json.loads(client.ask("GET", "/v2/a/tags/list").body) == {"name": "a", "tags": ["v3"]}


def test_tags_page_by_page(client: Client) -> None:
    document = image(client, "a")
    for tag in ("b", "A", "a", "B", "c", "1"):
        client.push_manifest("a", tag, document)
    path, pages = "/v2/a/tags/list?n=4", []
    while path:
        answer = client.ask("GET", path)
        pages.append(json.loads(answer.body)["tags"])
        path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert pages == [["1", "A", "a", "B"], ["b", "c"]]
    assert json.loads(client.ask("GET", "/v2/a/tags/list?last=aa").body)["tags"] == ["B", "b", "c"]
    empty = client.ask("GET", "/v2/a/tags/list?n=0")
    assert json.loads(empty.body)["tags"] == []
    assert "Link" not in empty.headers


def test_should_fail_tags_of_unknown_repository(client: Client) -> None:
    answer = client.ask("GET", "/v2/a/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    client.push_blob("a", BLOB)
    assert json.loads(client.ask("GET", "/v2/a/tags/list").body)["tags"] == []
    assert client.ask("GET", "/v2/a/tags/list?n=-1").status == 400


def test_referrers(client: Client) -> None:
    subject = descriptor(json.dumps(image(client, "a")).encode(), OCI_MANIFEST)
    path = f"/v2/a/referrers/{subject['digest']}"
    assert json.loads(client.ask("GET", path).body)["manifests"] == []
    # referrers may come before their subject
    signature = image(client, "a", subject=subject, artifactType="x/signature", annotations={"k": "v"})
    plain = image(client, "a", b"plain", subject=subject)
    digests = []
    for document in (signature, plain):
        answer = client.push_manifest("a", digest_of(json.dumps(document).encode()), document)
        assert answer.headers["OCI-Subject"] == subject["digest"]
        digests.append(answer.headers["Docker-Content-Digest"])
    listed = client.ask("GET", path)
    assert listed.headers["Content-Type"] == OCI_INDEX
    found = {entry["digest"]: entry for entry in json.loads(listed.body)["manifests"]}
    assert set(found) == set(digests)
    assert found[digests[0]]["artifactType"] == "x/signature"
    assert found[digests[0]]["annotations"] == {"k": "v"}
    assert found[digests[1]]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    filtered = client.ask("GET", f"{path}?artifactType=x/signature")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in json.loads(filtered.body)["manifests"]] == digests[:1]
    client.ask("DELETE", f"/v2/a/manifests/{digests[0]}")
    assert [entry["digest"] for entry in json.loads(client.ask("GET", path).body)["manifests"]] == digests[1:]
