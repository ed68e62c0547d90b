"""`crfs trace push|pull`, and mounts that find what is attached: registries with a list of referrers, and without."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.commands import run
from benches.registry import Registry as DockerRegistry
from benches.registry import registry as serve_docker_registry
from crfs.registry.server import Registry
from tests.support.dockerregistry import need_programs
from tests.support.faults import FaultProxy, Stall, Status
from tests.support.layers import Dir, Entry
from tests.support.mounting import Crfs, wait_until
from tests.support.rawregistry import OCI_INDEX, OCI_MANIFEST, Client
from tests.t6_mount.images import estargz_layer, noise, noisy, push

SIZE = 150_000
NAMES = [f"dir{number}/file" for number in range(12)]
READ = NAMES[1:10:4]
ENTRIES: list[Entry] = [Dir("./"), *(noisy(name, SIZE) for name in NAMES)]
TRACE = "application/vnd.crfs.trace.v1"


@pytest.fixture(scope="module")
def old_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's docker-registry, which knows nothing of referrers."""
    need_programs(["docker-registry", "skopeo"])
    with serve_docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(params=["referrers", "tags"])
def source(request: pytest.FixtureRequest, registry: Registry) -> str:
    """An image in either."""
    found = push(registry.address, "traced", estargz_layer(ENTRIES))
    if request.param == "referrers":
        return found
    return copy(found, request.getfixturevalue("old_registry").host, "traced")


def copy(source: str, host: str, name: str) -> str:
    """The image in another registry, which a raw client of ours can't push to; its source."""
    target = f"docker://{host}/{name}:v1"
    run("skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", source, target)
    return target


def record(crfs: Crfs, source: str, to: Path) -> None:
    at = crfs.mount(source, "--record", to)
    for name in READ:
        assert (at / name).read_bytes() == noise(name, SIZE)
    crfs.umount(at)


def fetched(proxy: FaultProxy) -> int:
    """Bytes of blobs that were asked for."""
    total = 0
    for seen in proxy.seen("GET", "/blobs/"):
        for span in seen.headers.get("Range", "bytes=0-0")[6:].split(","):
            start, _, end = span.partition("-")
            total += int(end) - int(start) + 1
    return total


def test_pushed_pulled_and_found_by_mounts(crfs: Crfs, source: str, tmp_path: Path) -> None:
    host = source.split("/")[2]
    record(crfs, source, tmp_path / "t")
    assert crfs.run("trace", "pull", source, *crfs.options).status == 1
    pushed = crfs.run("trace", "push", source, tmp_path / "t", *crfs.options)
    assert pushed.status == 0
    pulled = crfs.run("trace", "pull", source, *crfs.options)
    assert pulled.status == 0
    lines = [json.loads(line) for line in pulled.out.splitlines()]
    assert [line["path"] for line in lines] == READ
    assert crfs.run("trace", "pull", source, tmp_path / "again", *crfs.options).silent
    assert (tmp_path / "again").read_text() == pulled.out

    with FaultProxy(f"http://{host}") as proxy:
        through = f"docker://{proxy.host}/traced:v1"
        at = crfs.mount(through, "--cache", tmp_path / "new")
        wait_until(lambda: proxy.count("GET", "/blobs/") > 0 and fetched(proxy) > 3 * SIZE, 10)
        for name in READ:
            assert (at / name).read_bytes() == noise(name, SIZE)
        crfs.umount(at)
        proxy.requests.clear()
        # nobody asks who doesn't want one, or has one
        crfs.umount(crfs.mount(through, "--cache", tmp_path / "none", "--no-trace"))
        crfs.umount(crfs.mount(through, "--cache", tmp_path / "own", "--trace", tmp_path / "t"))
        crfs.umount(crfs.mount(through, "--cache", tmp_path / "new"))
        assert not proxy.seen("GET", "/referrers/")


def test_what_is_attached_can_be_read_by_others(crfs: Crfs, registry: Registry, tmp_path: Path) -> None:
    """As the specifications have it: artifactType, subject, an empty config, one file."""
    source = push(registry.address, "attached", estargz_layer(ENTRIES))
    record(crfs, source, tmp_path / "t")
    digest = crfs.run("trace", "push", source, *crfs.options).out.strip()
    client = Client(registry.address)
    image = client.ask("GET", "/v2/attached/manifests/v1")
    subject = image.headers["Docker-Content-Digest"]
    listed = json.loads(client.ask("GET", f"/v2/attached/referrers/{subject}").body)
    assert [(each["digest"], each["artifactType"]) for each in listed["manifests"]] == [(digest, TRACE)]
    manifest = json.loads(client.ask("GET", f"/v2/attached/manifests/{digest}").body)
    assert manifest["subject"]["digest"] == subject
    assert manifest["subject"]["size"] == len(image.body)
    assert manifest["artifactType"] == TRACE
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    (layer,) = manifest["layers"]
    body = client.ask("GET", f"/v2/attached/blobs/{layer['digest']}").body
    assert [json.loads(line)["path"] for line in body.splitlines()] == READ


def test_list_under_a_tag_keeps_what_others_attached(
    crfs: Crfs, registry: Registry, old_registry: DockerRegistry, tmp_path: Path
) -> None:
    pushed = push(registry.address, "tagged", estargz_layer(ENTRIES))
    source = copy(pushed, old_registry.host, "tagged")
    client = Client(old_registry.host)
    subject = client.ask("GET", "/v2/tagged/manifests/v1", Accept=OCI_MANIFEST).headers[
        "Docker-Content-Digest"
    ]
    other = {
        "mediaType": OCI_MANIFEST,
        "digest": subject,
        "size": len(client.ask("GET", "/v2/tagged/manifests/v1", Accept=OCI_MANIFEST).body),
        "artifactType": "application/vnd.other",
    }
    tag = subject.replace(":", "-")
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other]}
    assert client.push_manifest("tagged", tag, document, OCI_INDEX).status == 201
    record(crfs, source, tmp_path / "t")
    for _ in range(2):
        assert crfs.run("trace", "push", source, tmp_path / "t", *crfs.options).status == 0
    listed = json.loads(client.ask("GET", f"/v2/tagged/manifests/{tag}", Accept=OCI_INDEX).body)
    assert [each["artifactType"] for each in listed["manifests"]] == ["application/vnd.other", TRACE]
    assert listed["manifests"][0] == other


def test_registry_that_has_no_answer_holds_up_nobody(crfs: Crfs, registry: Registry, tmp_path: Path) -> None:
    push(registry.address, "untraced", estargz_layer(ENTRIES))
    for number, fault in enumerate((Stall(path="/referrers/"), Status(path="/referrers/", status=500))):
        with FaultProxy(f"http://{registry.address}", fault) as proxy:
            through = f"docker://{proxy.host}/untraced:v1"
            at = crfs.mount(through, "--cache", tmp_path / f"cache{number}")
            assert (at / NAMES[0]).read_bytes() == noise(NAMES[0], SIZE)
            crfs.umount(at)
            assert proxy.count("GET", "/referrers/")


def test_should_fail_without_a_trace_or_an_image(crfs: Crfs, registry: Registry, tmp_path: Path) -> None:
    source = push(registry.address, "bare", estargz_layer(ENTRIES[:2]))
    for words, status, reason in (
        (("push", source), 2, "this machine has noted nothing"),
        (("push", source, tmp_path / "none"), 2, "No such file"),
        (("pull", source), 1, "no trace is attached to sha256:"),
        (("pull", f"oci:{tmp_path}"), 2, "an image in a registry"),
    ):
        done = crfs.run("trace", *words, *crfs.options)
        assert done.status == status, done
        assert reason in done.err
        assert len(done.err.splitlines()) == 1
