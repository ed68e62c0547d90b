"""Images in registries: Debian's docker-registry, pushed to by skopeo and by us, and mirrors that fail."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.registry import registry
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.http import Http
from crfs.blobs.push import RegistryPush
from crfs.blobs.registriesconf import RegistriesConf, load_registries
from crfs.blobs.registry import RegistryBlob, RegistryImage
from crfs.errors import (
    AuthError,
    DigestMismatch,
    FormatError,
    NotFoundError,
    TransportError,
    UnsupportedError,
)
from crfs.formats import mediatypes
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor, Manifest, parse_config, parse_manifest
from crfs.formats.reference import parse_image
from tests.support.faults import (
    CutBody,
    Expire,
    FaultProxy,
    FlipByte,
    NeedBearer,
    Redirect,
    SetHeaders,
    Stall,
    Status,
    make_certificate,
)
from tests.support.fetching import collect, with_http

LAYER = os.urandom(400_000)
DIGEST = sha256_digest(LAYER)
CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}
).encode()
DESCRIPTOR = Descriptor(mediatypes.OCI_LAYER, DIGEST, len(LAYER))
CONFIG_DESCRIPTOR = Descriptor(mediatypes.OCI_CONFIG, sha256_digest(CONFIG), len(CONFIG))
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": {"mediaType": mediatypes.OCI_CONFIG, "digest": sha256_digest(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": mediatypes.OCI_LAYER, "digest": DIGEST, "size": len(LAYER)}],
    }
).encode()
MANIFEST_DIGEST = sha256_digest(MANIFEST)
FILES = {
    "/v2/web/manifests/1": MANIFEST,
    f"/v2/web/manifests/{MANIFEST_DIGEST}": MANIFEST,
    f"/v2/web/blobs/{DIGEST}": LAYER,
    f"/v2/web/blobs/{CONFIG_DESCRIPTOR.digest}": CONFIG,
}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`HOST:PORT` of a docker-registry with nothing in it."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    with registry(tmp_path_factory.mktemp("registry")) as served:
        yield served.host


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy(FILES) as served:
        yield served


def access(http: Http, tls_verify: bool | None = None) -> Access:
    return Access(http, CredentialStore(environ={"HOME": "/nonexistent"}), tls_verify)


def image(
    http: Http, text: str, conf: RegistriesConf | None = None, tls_verify: bool | None = None
) -> RegistryImage:
    return RegistryImage(parse_image(text), access(http, tls_verify), conf or RegistriesConf())


async def fetch_everything(there: RegistryImage) -> list[bytes]:
    found = await there.fetch_manifest()
    assert found.digest == sha256_digest(found.body)
    manifest = parse_manifest(found.body, found.media_type)
    assert isinstance(manifest, Manifest)
    assert (await there.fetch_manifest(found.digest)).body == found.body
    assert parse_config(await there.fetch_blob(manifest.config)).diff_ids
    return [await collect(there.open_blob(layer).iter_body()) for layer in manifest.layers]


async def push(http: Http, text: str) -> RegistryPush:
    target = RegistryPush(parse_image(text), access(http), RegistriesConf())
    await target.push_blob(LAYER, DIGEST)
    await target.push_blob(CONFIG, CONFIG_DESCRIPTOR.digest)
    assert await target.push_manifest(MANIFEST, mediatypes.OCI_MANIFEST, "1") == MANIFEST_DIGEST
    return target


def test_push_and_pull(upstream: str, tmp_path: Path) -> None:
    async def work(http: Http) -> None:
        target = await push(http, f"{upstream}/we/b")
        assert not await target.push_blob(LAYER, DIGEST)
        big = os.urandom(3 << 20)
        (tmp_path / "layer").write_bytes(big)
        assert await target.push_blob(tmp_path / "layer", sha256_digest(big))
        assert await target.has_blob(sha256_digest(big))
        assert await fetch_everything(image(http, f"{upstream}/we/b:1")) == [LAYER]
        assert await fetch_everything(image(http, f"{upstream}/we/b@{MANIFEST_DIGEST}")) == [LAYER]
        blob = image(http, f"{upstream}/we/b").open_blob(DESCRIPTOR)
        assert await blob.fetch_range(1000, 2000) == LAYER[1000:2000]
        assert await blob.fetch_tail(51) == (LAYER[-51:], len(LAYER))
        assert blob.name == f"{upstream}/we/b@{DIGEST}"

    with_http(work)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo pushes the image")
def test_what_skopeo_pushes_and_pulls(upstream: str, tmp_path: Path) -> None:
    with_http(lambda http: push(http, f"{upstream}/from/us"))
    for command in (
        f"skopeo copy --src-tls-verify=false docker://{upstream}/from/us:1 oci:{tmp_path}/layout:x",
        f"skopeo copy --dest-tls-verify=false -f v2s2 oci:{tmp_path}/layout:x docker://{upstream}/from/skopeo:2",
    ):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    layers = with_http(lambda http: fetch_everything(image(http, f"{upstream}/from/skopeo:2")))
    assert len(layers) == 1


def test_should_fail_push_of_other_bytes(upstream: str) -> None:
    async def work(http: Http) -> None:
        target = RegistryPush(parse_image(f"{upstream}/web"), access(http), RegistriesConf())
        await target.push_blob(b"other", sha256_digest(b"bytes"))

    with pytest.raises(TransportError, match=r"400 Bad Request \(DIGEST_INVALID: .*\)$"):
        with_http(work)


@pytest.mark.parametrize("name", ["web:none", "none:1", f"web@sha256:{'a' * 64}"])
def test_should_fail_no_such_manifest(upstream: str, name: str) -> None:
    with_http(lambda http: push(http, f"{upstream}/web"))
    with pytest.raises(
        NotFoundError, match=rf"^GET http://{upstream}/v2/.*: 404 Not Found \(MANIFEST_UNKNOWN"
    ):
        with_http(lambda http: image(http, f"{upstream}/{name}").fetch_manifest())


def test_should_fail_no_such_blob(upstream: str) -> None:
    absent = Descriptor(mediatypes.OCI_LAYER, sha256_digest(b"absent"), 6)
    with pytest.raises(NotFoundError, match="BLOB_UNKNOWN"):
        with_http(lambda http: image(http, f"{upstream}/web").open_blob(absent).fetch_range(0, 6))


def test_through_a_token_server(upstream: str) -> None:
    with FaultProxy(f"http://{upstream}", NeedBearer(uses=4)) as guarded:

        async def work(http: Http) -> None:
            await push(http, f"{guarded.host}/guarded")
            assert await fetch_everything(image(http, f"{guarded.host}/guarded:1")) == [LAYER]

        with_http(work)
        assert guarded.count("GET", "^/token") > 2


def test_manifests_of_all_kinds_are_accepted(proxy: FaultProxy) -> None:
    with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())
    (asked,) = proxy.seen("GET", "/manifests/1$")
    assert asked.headers["Accept"].split(", ") == [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
    assert asked.headers["User-Agent"].startswith("crfs/")


def test_should_fail_flipped_manifest(proxy: FaultProxy) -> None:
    proxy.use(FlipByte(at=3))
    with pytest.raises(DigestMismatch, match=f"not {MANIFEST_DIGEST}"):
        with_http(lambda http: image(http, f"{proxy.host}/web@{MANIFEST_DIGEST}").fetch_manifest())


def test_should_fail_manifest_unlike_its_header(proxy: FaultProxy) -> None:
    proxy.use(SetHeaders(headers={"Docker-Content-Digest": DIGEST}))
    with pytest.raises(DigestMismatch, match=f"not {DIGEST}"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())


def test_should_fail_flipped_config(proxy: FaultProxy) -> None:
    proxy.use(FlipByte())
    with pytest.raises(DigestMismatch, match=rf"^{proxy.host}/web@sha256:.* has the digest"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_blob(CONFIG_DESCRIPTOR))


def test_should_fail_huge_manifest(proxy: FaultProxy) -> None:
    proxy.use(Status(status=200, body=b" " * (5 << 20)))
    with pytest.raises(TransportError, match="longer than 4194304 bytes"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())


def test_should_fail_huge_config(proxy: FaultProxy) -> None:
    huge = Descriptor(mediatypes.OCI_CONFIG, DIGEST, 1 << 40)
    with pytest.raises(FormatError, match="too long for a config"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_blob(huge))
    assert proxy.requests == []


def test_should_fail_encoded_manifest(proxy: FaultProxy) -> None:
    proxy.use(SetHeaders(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(TransportError, match="Content-Encoding 'gzip' unasked"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())


def test_should_fail_something_that_is_no_registry(proxy: FaultProxy) -> None:
    proxy.use(Status(status=200, headers={"Content-Type": "text/html"}, body=b"{}"))
    found = with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())
    with pytest.raises(UnsupportedError):
        parse_manifest(found.body, found.media_type)


def test_presigned_place_is_remembered_and_asked_for_again(proxy: FaultProxy) -> None:
    with FaultProxy(FILES, Expire(uses=3)) as storage:
        proxy.use(Redirect(to=storage.url, signed=True, path="/blobs/"), NeedBearer())

        async def work(http: Http) -> None:
            blob = image(http, f"{proxy.host}/web:1").open_blob(DESCRIPTOR)
            for at in range(0, 7000, 1000):
                assert await blob.fetch_range(at, at + 10) == LAYER[at : at + 10]

        with_http(work)
        assert proxy.count("GET", "/blobs/") == 3  # at first, and each time that a signature has expired
        assert storage.count("GET", "/blobs/") == 7 + 2
        assert all("Authorization" not in seen.headers for seen in storage.requests)


def test_presigned_place_that_expires_while_a_body_is_cut(proxy: FaultProxy) -> None:
    with FaultProxy(FILES, Expire(uses=1), CutBody(after=150_000)) as storage:
        proxy.use(Redirect(to=storage.url, signed=True, path="/blobs/"))
        blob_body = with_http(
            lambda http: collect(image(http, f"{proxy.host}/web:1").open_blob(DESCRIPTOR).iter_body())
        )
        assert blob_body == LAYER


def test_should_fail_presigned_place_that_never_works(proxy: FaultProxy) -> None:
    with FaultProxy(FILES, Status(status=403)) as storage:
        proxy.use(Redirect(to=storage.url, signed=True, path="/blobs/"))
        with pytest.raises(AuthError, match=rf"^GET {storage.url}/v2/.*\?\*\*\*: 403"):
            with_http(lambda http: image(http, f"{proxy.host}/web:1").open_blob(DESCRIPTOR).fetch_range(0, 9))


def test_foreign_layer_comes_from_its_url(proxy: FaultProxy) -> None:
    with FaultProxy({"/far/layer": LAYER}) as far:
        urls = ("ftp://127.0.0.1/x", far.url + "/none", far.url + "/far/layer")
        foreign = Descriptor(mediatypes.DOCKER_FOREIGN_LAYER + ".gzip", DIGEST, len(LAYER), urls=urls)
        plain = Descriptor(mediatypes.OCI_LAYER, DIGEST, len(LAYER), urls=urls)

        async def work(http: Http, descriptor: Descriptor) -> None:
            blob = image(http, f"{proxy.host}/web:1").open_blob(descriptor)
            assert await blob.fetch_range(5, 9) == LAYER[5:9]
            assert await collect(blob.iter_body()) == LAYER

        with_http(lambda http: work(http, foreign))
        assert (proxy.requests, far.count("GET", "none")) == ([], 1)
        with_http(lambda http: work(http, plain))
        assert len(far.seen("GET", "/far/layer")) == 2


def mirrored(tmp_path: Path, home: str, *mirrors: str, more: str = "") -> RegistriesConf:
    text = f'[[registry]]\nlocation = "{home}"\n{more}\n'
    text += "".join(f'[[registry.mirror]]\nlocation = "{mirror}"\n' for mirror in mirrors)
    (tmp_path / "conf").write_text(text)
    return load_registries({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "conf")}, tmp_path / "none")


def test_mirror_is_asked_instead(proxy: FaultProxy, tmp_path: Path) -> None:
    with FaultProxy(FILES) as mirror:
        conf = mirrored(tmp_path, proxy.host, mirror.host)
        assert with_http(lambda http: fetch_everything(image(http, f"{proxy.host}/web:1", conf))) == [LAYER]
        assert proxy.requests == []
        assert {seen.path.partition("?")[2] for seen in mirror.requests} == {
            f"ns={proxy.host.replace(':', '%3A')}"
        }


@pytest.mark.parametrize(
    "fault",
    [Status(status=404), Status(status=401), Status(status=500), CutBody(after=0), FlipByte(), Stall()],
)
def test_mirror_that_fails_is_passed_by(proxy: FaultProxy, tmp_path: Path, fault: Status) -> None:
    with FaultProxy(FILES, fault) as mirror:
        conf = mirrored(tmp_path, proxy.host, mirror.host)

        async def work(http: Http) -> None:
            there = image(http, f"{proxy.host}/web@{MANIFEST_DIGEST}", conf)
            await there.fetch_manifest()
            assert await there.fetch_blob(CONFIG_DESCRIPTOR) == CONFIG

        with_http(work)
        # who has failed is not asked first again
        assert 1 <= len(mirror.requests) <= 2
        assert len(proxy.requests) == 2


def test_mirror_that_dies_in_the_middle(proxy: FaultProxy, tmp_path: Path) -> None:
    with FaultProxy(FILES, CutBody(after=100_000, times=1), Status(status=502, skip=1)) as mirror:
        conf = mirrored(tmp_path, proxy.host, mirror.host)
        body = with_http(lambda http: collect(_open(http, proxy, conf).iter_body()))
        assert body == LAYER
        assert [seen.headers["Range"] for seen in proxy.requests] == ["bytes=100000-"]


def _open(http: Http, proxy: FaultProxy, conf: RegistriesConf) -> RegistryBlob:
    return image(http, f"{proxy.host}/web:1", conf).open_blob(DESCRIPTOR)


def test_should_fail_everywhere(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(Status(status=404))
    conf = mirrored(tmp_path, proxy.host, "127.0.0.1:1")
    with pytest.raises(NotFoundError, match=rf"^GET {proxy.url}/v2/web/manifests/1: 404"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1", conf).fetch_manifest())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_should_fail_untrusted_certificate_on_the_loopback(certificate: tuple[Path, Path]) -> None:
    with (
        FaultProxy(FILES, tls=certificate) as server,
        pytest.raises(TransportError, match="the certificate is not trusted"),
    ):
        with_http(lambda http: image(http, f"{server.host}/web:1").fetch_manifest())


def test_trusted_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with FaultProxy(FILES, tls=certificate) as server:
        (tmp_path / server.host).mkdir()
        shutil.copy(certificate[0], tmp_path / server.host / "ca.crt")
        body = with_http(
            lambda http: fetch_everything(image(http, f"{server.host}/web:1", tls_verify=True)),
            certs=tmp_path,
        )
        assert body == [LAYER]


def test_insecure_by_option_or_configuration(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with FaultProxy(FILES, tls=certificate) as server:
        name = f"{server.host}/web:1"
        assert with_http(lambda http: fetch_everything(image(http, name, tls_verify=False))) == [LAYER]
        conf = mirrored(tmp_path, server.host, more="insecure = true")
        assert with_http(lambda http: fetch_everything(image(http, name, conf))) == [LAYER]
        with pytest.raises(TransportError, match="the certificate is not trusted"):
            with_http(lambda http: image(http, name, conf, tls_verify=True).fetch_manifest())


def test_insecure_falls_back_to_plain_http(proxy: FaultProxy) -> None:
    name = f"{proxy.host}/web:1"
    assert with_http(lambda http: fetch_everything(image(http, name, tls_verify=False))) == [LAYER]


def test_should_fail_plain_http_when_tls_is_demanded(proxy: FaultProxy) -> None:
    with pytest.raises(TransportError, match="no TLS"):
        with_http(lambda http: image(http, f"{proxy.host}/web:1", tls_verify=True).fetch_manifest())
    assert proxy.requests == []


def test_plain_http_is_found_out_once_by_many(proxy: FaultProxy) -> None:
    async def work(http: Http) -> int:
        blob = image(http, f"{proxy.host}/web:1").open_blob(DESCRIPTOR)
        await asyncio.gather(*(blob.fetch_range(at, at + 9) for at in range(10)))
        before = http.stats.requests
        await blob.fetch_range(0, 9)
        return http.stats.requests - before

    assert with_http(work) == 1


def test_registry_that_is_not_up_yet(proxy: FaultProxy) -> None:
    proxy.use(Status(status=503, headers={"Retry-After": "0"}, times=3))
    with_http(lambda http: image(http, f"{proxy.host}/web:1").fetch_manifest())
    assert len(proxy.requests) == 4
