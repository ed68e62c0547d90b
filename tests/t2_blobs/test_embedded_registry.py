"""The registry that comes with crfs: names, the server and real clients, over both of its storages."""

import base64
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.errors import TransportError
from crfs.registry.__main__ import main
from crfs.registry.server import Registry
from tests.support.rawregistry import BLOB, OCI_MANIFEST, Client, descriptor, digest_of, image


@pytest.fixture(params=["memory", "directory"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    with Registry(tmp_path / "root" if request.param == "directory" else None) as registry:
        yield Client(registry.address)


@pytest.mark.parametrize(
    "name", ["A", "a//b", "a/", ".a", "a..b", "a_", "a/-b", "a" * 256, "a/%2e%2e/b", "%C3%A4"]
)
def test_should_fail_invalid_name(client: Client, name: str) -> None:
    path = f"/v2/{name}"
    assert client.ask("GET", f"{path}/blobs/{digest_of(BLOB)}").code == "NAME_INVALID"
    assert client.ask("POST", f"{path}/blobs/uploads/").code == "NAME_INVALID"


@pytest.mark.parametrize("name", ["a__b", "a---b", "a.b/c_d", "blobs/manifests/tags", "a" * 255])
def test_valid_name(client: Client, name: str) -> None:
    digest = client.push_blob(name, BLOB)
    assert client.ask("GET", f"/v2/{name}/blobs/{digest}").body == BLOB


@pytest.mark.parametrize("tag", [".a", "-a", "a" * 129, "a%2fb", "a+b"])
def test_should_fail_invalid_tag(client: Client, tag: str) -> None:
    assert client.ask("GET", f"/v2/a/manifests/{tag}").code == "TAG_INVALID"


def test_should_fail_unknown_endpoint(client: Client) -> None:
    assert client.ask("GET", "/v3/").status == 404
    assert client.ask("PUT", f"/v2/a/blobs/{digest_of(BLOB)}", BLOB).status == 405


def test_basic_authentication() -> None:
    with Registry(credentials=("user", "pä:ss")) as registry:
        client = Client(registry.address)
        refused = client.ask("GET", "/v2/")
        assert (refused.status, refused.code) == (401, "UNAUTHORIZED")
        assert refused.headers["WWW-Authenticate"].startswith('Basic realm="')
        wrong = base64.b64encode(b"user:wrong").decode()
        assert client.ask("GET", "/v2/", Authorization=f"Basic {wrong}").status == 401
        right = base64.b64encode("user:pä:ss".encode()).decode()
        assert client.ask("GET", "/v2/", Authorization=f"basic {right}").status == 200


def test_counters() -> None:
    with Registry() as registry:
        client = Client(registry.address)
        digest = client.push_blob("a", BLOB)
        before = registry.counters
        client.ask("HEAD", f"/v2/a/blobs/{digest}")
        client.ask("GET", f"/v2/a/blobs/{digest}")
        client.ask("GET", f"/v2/a/blobs/{digest}", Range="bytes=0-9")
        change = registry.counters - before
        assert (change.requests, change.bytes_sent) == (3, len(BLOB) + 10)


def test_directory_outlives_the_registry(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        client = Client(registry.address)
        client.push_manifest("a", "v1", image(client, "a"))
        upload = client.upload("a")
        client.ask("PATCH", upload, BLOB[:10])
    with Registry(tmp_path) as registry:
        client = Client(registry.address)
        assert client.ask("HEAD", "/v2/a/manifests/v1").status == 200
        assert client.ask("PATCH", upload, BLOB[10:], Content_Range=f"10-{len(BLOB) - 1}").status == 202
        assert client.ask("PUT", f"{upload}?digest={digest_of(BLOB)}").status == 201


def test_two_registries_over_one_directory(tmp_path: Path) -> None:
    """Both push the same blobs at the same time; each then serves all of them whole."""
    blobs = [hashlib.shake_256(bytes([i])).digest(200_000) for i in range(8)]
    with Registry(tmp_path) as one, Registry(tmp_path) as two:
        clients = [Client(one.address), Client(two.address)]
        pushers = [
            threading.Thread(target=lambda c=c: [c.push_blob("a", blob) for blob in blobs])
            for c in clients * 2
        ]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join()
        for client in clients:
            for blob in blobs:
                assert client.ask("GET", f"/v2/a/blobs/{digest_of(blob)}").body == blob
    assert not list((tmp_path / "repositories/a/_uploads").iterdir())


def test_should_fail_port_in_use() -> None:
    with Registry() as registry:
        taken = Registry(port=int(registry.address.rpartition(":")[2]))
        with pytest.raises(TransportError, match=r"can't listen on 127\.0\.0\.1:"):
            taken.start()


def test_close_is_idempotent_and_does_not_need_start() -> None:
    never = Registry()
    never.close()
    never.close()


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crfs.registry", "--root", str(tmp_path / "root"), "--user", "me"]
    environment = {**os.environ, "CRFS_REGISTRY_PASSWORD": "secret"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        client = Client(program.stdout.readline().strip())
        token = base64.b64encode(b"me:secret").decode()
        assert client.ask("GET", "/v2/").status == 401
        assert client.ask("GET", "/v2/", Authorization=f"Basic {token}").status == 200
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0


@pytest.mark.parametrize("listen", ["5000", "x:", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_should_fail_program_without_an_address(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--listen", listen])
    assert "is not HOST:PORT" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_copies_in_and_out(tmp_path: Path, client: Client) -> None:
    layout = tmp_path / "in"
    write_layout(layout)
    there, back = f"docker://{client.address}/some/image:v1", f"oci:{tmp_path}/out:v1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:v1", there)
    run("skopeo", "copy", "--src-tls-verify=false", there, back)
    for blob in (layout / "blobs/sha256").iterdir():
        assert (tmp_path / "out/blobs/sha256" / blob.name).read_bytes() == blob.read_bytes()
    # a second repository: skopeo mounts what it can
    elsewhere = f"docker://{client.address}/other:v1"
    run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", there, elsewhere)
    run("skopeo", "delete", "--tls-verify=false", elsewhere)
    assert run("skopeo", "list-tags", "--tls-verify=false", there.rpartition(":")[0])["Tags"] == ["v1"]


def write_layout(layout: Path) -> None:
    """An OCI layout with one image of one layer."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, object]:
        (blobs / digest_of(data).partition(":")[2]).write_bytes(data)
        return descriptor(data, media_type)

    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(bytes(1024))]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add(gzip.compress(bytes(1024), mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    entry = add(json.dumps(manifest).encode(), OCI_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def run(*command: str) -> dict[str, object]:
    """The JSON that the command prints, or nothing."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return result
