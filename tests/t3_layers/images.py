"""Images on a server that misbehaves as it is told, opened with all that the command line opens them with.

    place.push("web", lazy([File("f", b"x")]))
    with place.open("web") as image:
        assert image.read(b"f") == b"x"

Faults are those of `place.proxy`, which also knows what was asked for.
"""

import dataclasses
import gzip
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from crfs.blobs.http import Http
from crfs.blobs.tls import TlsSettings
from crfs.cli.compose import OpenedImage, open_image
from crfs.cli.services import Services, Settings, open_services
from crfs.cli.sources import OnBlob, OnImage, submit_to_source
from crfs.formats.digest import sha256_digest
from crfs.formats.footer import FooterKind, build_footer
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from crfs.formats.reference import Source, parse_source
from crfs.formats.toc import TOC_DIGEST_ANNOTATION, TOC_NAME
from tests.support.faults import FaultProxy
from tests.support.fetching import QUICK, SHORT
from tests.support.layers import Entry, make_estargz, make_tar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """A layer's blob, what a manifest says of it, and what a config does."""

    data: bytes
    descriptor: Descriptor
    diff_id: str


def lazy(entries: Iterable[Entry], **options: Any) -> Built:
    """An eStargz, or by its options anything else that convert/ writes."""
    data, converted = make_estargz(entries, **options)
    descriptor = Descriptor(OCI_LAYER_GZIP, converted.digest, converted.size, converted.annotations)
    return Built(data, descriptor, converted.diff_id)


def whole(
    entries: Iterable[Entry],
    pack: Callable[[bytes], bytes] = gzip.compress,
    media_type: str = OCI_LAYER_GZIP,
) -> Built:
    """A layer that has no TOC."""
    tar = make_tar(entries)
    data = pack(tar)
    return Built(data, Descriptor(media_type, sha256_digest(data), len(data)), sha256_digest(tar))


def forged(data: bytes, *entries: dict[str, Any]) -> Built:
    """An eStargz of these data and any TOC, for which the manifest vouches all the same."""
    toc = json.dumps({"version": 1, "entries": entries}).encode()
    info = tarfile.TarInfo(TOC_NAME)
    info.size = len(toc)
    tar = info.tobuf(tarfile.USTAR_FORMAT) + toc + bytes(-len(toc) % 512) + bytes(1024)
    blob = data + gzip.compress(tar) + build_footer(FooterKind.ESTARGZ, len(data))
    annotations = {TOC_DIGEST_ANNOTATION: sha256_digest(toc)}
    return Built(blob, Descriptor(OCI_LAYER_GZIP, sha256_digest(blob), len(blob), annotations), "")


def without_annotations(layer: Built) -> Built:
    """The same layer, of whose TOC the manifest says nothing."""
    return dataclasses.replace(
        layer, descriptor=Descriptor(OCI_LAYER_GZIP, layer.descriptor.digest, layer.descriptor.size)
    )


def describe(descriptor: Descriptor) -> dict[str, Any]:
    """As it stands in a manifest."""
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "annotations": descriptor.annotations,
    }


class Image:
    """An opened image. Closes whatever it was opened with."""

    def __init__(self, services: Services, settings: Settings, source: Source) -> None:
        self.services = services
        try:
            self.resolved: OpenedImage = open_image(services, settings, source)
        except BaseException:
            services.close()
            raise
        self.tree, self.reader = self.resolved.tree, self.resolved.reader

    def find(self, path: bytes) -> int:
        """The inode at `path`."""
        inode = 1
        for name in path.split(b"/"):
            inode = self.tree.find(inode, name)
            assert inode, path
        return inode

    def read(self, path: bytes, off: int = 0, size: int = 1 << 30) -> bytes:
        """Bytes of the file at `path`."""
        return self.reader.read(self.find(path), off, size)

    def settle(self) -> None:
        """Until what was fetched along with something else is decoded and kept."""
        for _ in range(2):
            for pool in (self.services.pool, self.services.idle):
                pool.submit(int).result(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.stop()
        self.services.close()
        self.reader.close()


class Place:
    """A server and a cache; a context manager."""

    def __init__(self, root: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.proxy = FaultProxy(self.files)
        self.cache = root / "cache"

    def put(self, name: str, body: bytes, tag: str | None = None) -> str:
        """Serve a manifest by its digest, and by a tag; the digest."""
        digest = sha256_digest(body)
        self.files[f"/v2/{name}/manifests/{digest}"] = body
        if tag is not None:
            self.files[f"/v2/{name}/manifests/{tag}"] = body
        return digest

    def push(self, name: str, *layers: Built, tag: str = "1", diff_ids: list[str] | None = None) -> str:
        """Serve an image; the digest of its manifest. `diff_ids` are those of the layers unless given."""
        found = [layer.diff_id for layer in layers] if diff_ids is None else diff_ids
        rootfs = {"type": "layers", "diff_ids": found}
        config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode()
        for data in (config, *(layer.data for layer in layers)):
            self.files[f"/v2/{name}/blobs/{sha256_digest(data)}"] = data
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe(Descriptor(OCI_CONFIG, sha256_digest(config), len(config))),
            "layers": [describe(layer.descriptor) for layer in layers],
        }
        return self.put(name, json.dumps(document).encode(), tag)

    def _source(self, text: str) -> Source:
        """A source without a scheme is an image on the server."""
        if "://" not in text:
            text = f"docker://{self.proxy.host}/{text}" + ("" if ":" in text else ":1")
        return parse_source(text)

    def _settings(self, **more: Any) -> Settings:
        return Settings(**{"cache": self.cache, "platform": "linux/amd64", "traces": False, **more})

    def _services(self, settings: Settings) -> Services:
        """With short waits."""
        services = open_services(settings)
        services.network.http = Http(SHORT, QUICK, TlsSettings([]))
        return services

    def open(self, source: str, **more: Any) -> Image:
        """Resolve and merge; `more` are Settings."""
        settings = self._settings(**more)
        return Image(self._services(settings), settings, self._source(source))

    def run(self, source: str, on_image: OnImage[T], on_blob: OnBlob[T], **more: Any) -> T:
        """What a coroutine makes of a source, with services of its own."""
        settings = self._settings(**more)
        services = self._services(settings)
        try:
            return submit_to_source(services, settings, self._source(source), on_image, on_blob).result()
        finally:
            services.close()

    def blob_ranges(self) -> list[str]:
        """The ranges of blobs that were asked for so far."""
        return [seen.headers.get("Range", "") for seen in self.proxy.seen("GET", "/blobs/")]

    def blob_spans(self) -> list[tuple[int, int]]:
        """(first, last byte) of all of them, also where a request asked for several."""
        spans = [span for text in self.blob_ranges() if text for span in text[6:].split(",")]
        return sorted((int(first), int(last)) for first, last in (span.split("-") for span in spans))

    def forget(self) -> None:
        """What was asked for until now."""
        self.proxy.requests.clear()

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.__exit__(kind, error, trace)
