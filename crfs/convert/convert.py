"""One image from its source to its target, in another format: layers side by side, each compressed on all cores.

Blocking; not on the fetch loop, which it uses. The image's name is written last, so that a failure leaves none.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from crfs.blobs.blob import ImageSource
from crfs.convert.entries import TarEntry
from crfs.convert.flatten import Flat
from crfs.convert.inputs import BlobInput, Input
from crfs.convert.lazylayer import ConvertedLayer, write_layer
from crfs.convert.plain import tar_pieces, write_plain
from crfs.convert.plan import Plan
from crfs.convert.recognise import is_in_format
from crfs.convert.stream import iter_blob
from crfs.convert.targets import BlobSink, Submit, Target, put_bytes
from crfs.convert.wanted import iter_wanted_first
from crfs.errors import CrfsError, DigestMismatch, FormatError, NotLazyError, UnsupportedError
from crfs.formats.digest import check_hash, parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor, ImageIndex, Manifest, parse_config, parse_manifest
from crfs.formats.mediatypes import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Compression,
    is_foreign,
    layer_compression,
)
from crfs.formats.platforms import Platform
from crfs.formats.reference import ImageReference
from crfs.formats.toc import EXTERNAL_SUFFIX, LAYER_DIGEST_ANNOTATION
from crfs.image.resolve import fetch_manifest

logger = logging.getLogger(__name__)
# layers that are under way at a time: while one waits for its source or target, the other one has the cores
_LAYERS_AT_ONCE = 2
_OCI_TYPES = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
}


class Progress(Protocol):
    """Hears how far things are, from any thread."""

    def begin(self, layer: str, size: int | None) -> None:
        """A layer of `size` bytes is begun."""
        ...

    def advance(self, layer: str, size: int) -> None:
        """So many bytes of its source have been read."""
        ...

    def end(self, layer: "LayerResult") -> None:
        """It is written."""
        ...


class LayerResult(msgspec.Struct, frozen=True, rename="kebab"):
    """What became of a layer: `how` is converted, copied, mounted, or there (it was already)."""

    source: str
    source_size: int | None
    how: str
    descriptor: Descriptor
    diff_id: str
    tar_size: int | None
    seconds: float


class ImageResult(msgspec.Struct, frozen=True, rename="kebab"):
    """One image that was written."""

    platform: str
    digest: str
    layers: list[LayerResult]


class Report(msgspec.Struct, frozen=True, rename="kebab"):
    """What was written; `digest` is that of what the target's name stands for now."""

    source: str
    target: str
    digest: str
    images: list[ImageResult]
    seconds: float


class _Done(msgspec.Struct, frozen=True):
    result: LayerResult
    external_toc: bytes | None = None


class Services(msgspec.Struct, frozen=True):
    """What a conversion runs on. `pool` compresses; `origin` is where the source's blobs could be mounted from."""

    submit: Submit
    pool: Executor
    progress: Progress
    origin: ImageReference | None = None
    layers_at_once: int = _LAYERS_AT_ONCE


class Converter:
    """Converts into one target by one plan. Any CrfsError; then nothing has got the target's name."""

    def __init__(self, target: Target, plan: Plan, services: Services) -> None:
        self._target = target
        self._plan = plan
        self._services = services
        self._submit = services.submit
        self._lock = threading.Lock()
        self._known: dict[str, Future[_Done]] = {}
        self._index_digest = ""
        self._stopped = False
        self._tocs: dict[str, bytes] = {}

    def convert_image(self, source: ImageSource, platform: Platform | None) -> Report:
        """The source's image for a platform; None: its whole index, image by image."""
        started = time.monotonic()
        if platform is not None:
            digest, manifest = self._submit(fetch_manifest(source, platform)).result()
            images = [self._convert_manifest(source, manifest, digest, name=True)[1]]
        else:
            images = self._convert_index(source)
        self._put_tocs()
        digest = images[0].digest if platform is not None else self._index_digest
        return Report(source.name, self._target.name, digest, images, time.monotonic() - started)

    def convert_layers(
        self, name: str, inputs: Sequence[Input], base: tuple[ImageSource, Manifest] | None, config: bytes
    ) -> Report:
        """An image of the layers of `base`, copied, and new ones on top, all of them named in `config` when done."""
        started = time.monotonic()
        layers: list[_Done] = []
        if base is not None:
            source, manifest = base
            diff_ids = parse_config(config).diff_ids
            layers = self._side_by_side(
                [
                    partial(self._copy_layer, source, layer, diff_id)
                    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
                ]
            )
        layers += self._side_by_side([partial(self._convert, one) for one in inputs])
        image = self._put_image(config, layers, {}, name=True)[1]
        self._put_tocs()
        return Report(name, self._target.name, image.digest, [image], time.monotonic() - started)

    # one image

    def _convert_index(self, source: ImageSource) -> list[ImageResult]:
        fetched = self._submit(source.fetch_manifest()).result()
        parsed = parse_manifest(fetched.body, fetched.media_type)
        if not isinstance(parsed, ImageIndex):
            self._index_digest = fetched.digest
            image = self._convert_manifest(source, parsed, fetched.digest, name=True)[1]
            self._index_digest = image.digest
            return [image]
        entries, images = [], []
        for entry in parsed.manifests:
            if entry.platform is not None and entry.platform.os == "unknown":
                continue  # attestations of manifests that will not be there
            found = self._submit(source.fetch_manifest(entry.digest)).result()
            manifest = parse_manifest(found.body, found.media_type)
            if not isinstance(manifest, Manifest):
                raise UnsupportedError(f"{source.name}: an index within the index is not converted")
            descriptor, image = self._convert_manifest(source, manifest, entry.digest, name=False)
            entries.append(replace_platform(descriptor, entry))
            images.append(image)
        body = msgspec.json.encode(
            _without_empty(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_INDEX,
                    "manifests": entries,
                    "annotations": parsed.annotations,
                }
            )
        )
        self._target.put_manifest(body, OCI_INDEX, True)
        self._index_digest = sha256_digest(body)
        return images

    def _convert_manifest(
        self, source: ImageSource, manifest: Manifest, digest: str, *, name: bool
    ) -> tuple[Descriptor, ImageResult]:
        config = self._submit(source.fetch_blob(manifest.config)).result()
        diff_ids = parse_config(config).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise FormatError(
                f"{source.name}: {digest} has {len(manifest.layers)} layers and {len(diff_ids)} diff_ids"
            )
        if self._plan.flatten and len(manifest.layers) > 1:
            layers = [self._flatten([self._input(source, layer) for layer in manifest.layers])]
        else:
            layers = self._side_by_side(
                [
                    partial(self._layer, source, layer, diff_id)
                    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
                ]
            )
        return self._put_image(config, layers, manifest.annotations, name=name)

    def _put_image(
        self, config: bytes, layers: Sequence[_Done], annotations: dict[str, str], *, name: bool
    ) -> tuple[Descriptor, ImageResult]:
        """Write config and manifest of an image whose layers are there."""
        diff_ids = [layer.result.diff_id for layer in layers]
        config = rewrite_config(config, diff_ids)
        described = Descriptor(OCI_CONFIG, sha256_digest(config), len(config))
        put_bytes(self._target, config, described.digest)
        body = msgspec.json.encode(
            _without_empty(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_MANIFEST,
                    "config": described,
                    "layers": [layer.result.descriptor for layer in layers],
                    "annotations": annotations,
                }
            )
        )
        self._target.put_manifest(body, OCI_MANIFEST, name)
        for layer in layers:
            if layer.external_toc is not None:
                self._tocs[layer.result.descriptor.digest] = layer.external_toc
        platform = str(parse_config(config).platform)
        digest = sha256_digest(body)
        image = ImageResult(platform, digest, [layer.result for layer in layers])
        return Descriptor(OCI_MANIFEST, digest, len(body)), image

    def _put_tocs(self) -> None:
        """The image of external TOCs, beside the one they are for (stargz-snapshotter's external TOC)."""
        if not self._tocs:
            return
        beside = self._target.beside(EXTERNAL_SUFFIX)
        layers = []
        for digest, toc in self._tocs.items():
            toc_digest = sha256_digest(toc)
            put_bytes(beside, toc, toc_digest)
            layers.append(Descriptor(OCI_LAYER_GZIP, toc_digest, len(toc), {LAYER_DIGEST_ANNOTATION: digest}))
        config = b"{}"
        put_bytes(beside, config, sha256_digest(config))
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, sha256_digest(config), len(config)),
            "layers": layers,
        }
        beside.put_manifest(msgspec.json.encode(document), OCI_MANIFEST, True)

    # layers

    def _side_by_side(self, jobs: Sequence[Callable[[], _Done]]) -> list[_Done]:
        """The results in order; the first failure ends all others, and is raised."""
        with ThreadPoolExecutor(max(1, self._services.layers_at_once), "crfs-layer") as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._stopped = True
                for future in futures:
                    future.cancel()
                raise

    def _advances(self, label: str) -> Callable[[int], None]:
        """What hears of each piece of a layer's source; CrfsError where nobody wants more of it."""

        def advance(size: int) -> None:
            if self._stopped:
                raise CrfsError(f"{label}: given up")
            self._services.progress.advance(label, size)

        return advance

    def _layer(self, source: ImageSource, layer: Descriptor, diff_id: str) -> _Done:
        """A layer that may be needed several times: by other images of the index, or by this one."""
        with self._lock:
            known = self._known.get(layer.digest)
            mine = known is None
            if known is None:
                known = self._known[layer.digest] = Future()
        if mine:
            try:
                known.set_result(self._make_layer(source, layer, diff_id))
            except BaseException as error:
                known.set_exception(error)
                raise
        return known.result()

    def _make_layer(self, source: ImageSource, layer: Descriptor, diff_id: str) -> _Done:
        if layer_compression(layer.media_type) is None:
            raise UnsupportedError(
                f"{source.name}: {layer.digest} is of the type {layer.media_type!r}, which can't be converted"
            )
        found = self._input(source, layer)
        if not self._plan.rewrite and not self._plan.external_toc and self._plan.wanted is None:
            blob = source.open_blob(layer)
            try:
                if self._submit(is_in_format(blob, layer, self._plan)).result():
                    return self._copy_layer(source, layer, diff_id)
            finally:
                blob.close()
        return self._convert(found, diff_id if self._plan.keep_diff_id else None)

    def _input(self, source: ImageSource, layer: Descriptor) -> BlobInput:
        return BlobInput(
            f"{source.name}: {layer.digest}",
            layer.size,
            layer.digest,
            lambda: source.open_blob(layer),
            self._submit,
        )

    def _copy_layer(self, source: ImageSource, layer: Descriptor, diff_id: str) -> _Done:
        """The layer as it is, sent only where the target lacks it."""
        started = time.monotonic()
        media_type = layer.media_type
        compression = layer_compression(media_type)
        if compression is not None and not is_foreign(media_type):
            media_type = _OCI_TYPES[compression]
        self._services.progress.begin(layer.digest, layer.size)
        how = "copied"
        if self._target.has_blob(layer.digest):
            how = "there"
        elif self._services.origin and self._target.mount_blob(layer.digest, self._services.origin):
            how = "mounted"
        else:
            self._send(source, layer)
        descriptor = msgspec.structs.replace(layer, media_type=media_type)
        return self._done(layer.digest, layer.size, how, descriptor, diff_id, None, started)

    def _send(self, source: ImageSource, layer: Descriptor) -> None:
        hasher, advance = parse_digest(layer.digest).hasher(), self._advances(layer.digest)
        with _Sinking(self._target.open_sink()) as sink:
            for piece in iter_blob(self._submit, source.open_blob(layer)):
                hasher.update(piece)
                sink.write(piece)
                advance(len(piece))
            check_hash(hasher, layer.digest, f"{source.name}: the layer")
            sink.finish(layer.digest)

    def _convert(self, source: Input, diff_id: str | None = None) -> _Done:
        """One layer, written anew; `diff_id` is what its tar must still have."""
        label = source.name.rpartition(": ")[2]
        self._services.progress.begin(label, source.size)
        started, seen = time.monotonic(), self._advances(label)

        def write(lazy: bool) -> ConvertedLayer:
            with _Sinking(self._target.open_sink()) as sink:
                converted = self._write(source, sink, seen, lazy)
                if diff_id is not None and converted.diff_id != diff_id:
                    raise DigestMismatch(f"{source.name}: the tar became {converted.diff_id}, not {diff_id}")
                sink.finish(converted.digest)
                return converted

        return self._converted(label, source.size, self._lazy_or_plain(source.name, write), started)

    def _lazy_or_plain(self, name: str, write: Callable[[bool], ConvertedLayer]) -> ConvertedLayer:
        """In the format that is wanted; where no TOC can say what is in the layer, without one."""
        if not self._plan.format.is_lazy:
            return write(False)
        try:
            return write(True)
        except NotLazyError as error:
            logger.warning("%s: %s; it is written without a TOC, and can only be fetched whole", name, error)
            return write(False)

    def _write(
        self, source: Input, sink: BlobSink, seen: Callable[[int], None], lazy: bool
    ) -> ConvertedLayer:
        plan, pool = self._plan, self._services.pool
        if not lazy:
            with source.open_pieces(seen) as pieces:
                return write_plain(pieces, sink, *plan.plain, pool)
        if plan.wanted is not None:
            opened = iter_wanted_first(lambda: source.open_entries(seen), plan.wanted, source.name)
            with closing(opened) as ordered:
                return write_layer(ordered, sink, plan.options, pool)
        with source.open_entries(seen) as entries:
            return write_layer(entries, sink, plan.options, pool, lambda: entries.tail)

    def _flatten(self, inputs: Sequence[Input]) -> _Done:
        label, started = "flattened", time.monotonic()
        size = 2 * sum(one.size or 0 for one in inputs)
        plan, pool, seen = self._plan, self._services.pool, self._advances(label)
        self._services.progress.begin(label, size)
        layers = Flat([partial(one.open_entries, seen) for one in inputs])

        def flat() -> closing[Generator[TarEntry, None, None]]:
            return closing(layers.iter_entries())

        name = inputs[0].name.rpartition(": ")[0]

        def write(lazy: bool) -> ConvertedLayer:
            wanted = plan.wanted if lazy else None
            opened = closing(iter_wanted_first(flat, wanted, name)) if wanted else flat()
            with _Sinking(self._target.open_sink()) as sink, opened as entries:
                if lazy:
                    converted = write_layer(entries, sink, plan.options, pool)
                else:
                    converted = write_plain(tar_pieces(entries), sink, *plan.plain, pool)
                sink.finish(converted.digest)
                return converted

        return self._converted(label, size // 2, self._lazy_or_plain(name, write), started)

    def _converted(self, label: str, size: int | None, converted: ConvertedLayer, started: float) -> _Done:
        descriptor = Descriptor(
            converted.media_type, converted.digest, converted.size, annotations=converted.annotations
        )
        done = self._done(
            label, size, "converted", descriptor, converted.diff_id, converted.uncompressed_size, started
        )
        return replace(done, external_toc=converted.external_toc)

    def _done(
        self,
        label: str,
        size: int | None,
        how: str,
        descriptor: Descriptor,
        diff_id: str,
        tar_size: int | None,
        started: float,
    ) -> _Done:
        seconds = time.monotonic() - started
        result = LayerResult(label, size, how, descriptor, diff_id, tar_size, seconds)
        self._services.progress.end(result)
        return _Done(result)


class _Sinking:
    """A blob under way that is dropped unless it is finished."""

    def __init__(self, sink: BlobSink) -> None:
        self._sink = sink

    def __enter__(self) -> BlobSink:
        return self._sink

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._sink.abort()


def replace_platform(descriptor: Descriptor, entry: Descriptor) -> Descriptor:
    """A manifest's descriptor with what the old index says of it."""
    return msgspec.structs.replace(descriptor, platform=entry.platform, annotations=entry.annotations)


def rewrite_config(config: bytes, diff_ids: Sequence[str]) -> bytes:
    """The config with other diff_ids, else as it was; a history of another number of layers is made to fit.

    Unchanged to the byte where the diff_ids are what they were.
    """
    if list(parse_config(config).diff_ids) == list(diff_ids):
        return config
    document = msgspec.json.decode(config)
    document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    history = document.get("history")
    if history and sum(not entry.get("empty_layer") for entry in history) != len(diff_ids):
        last = history[-1]
        kept = {key: last[key] for key in ("created", "author") if key in last}
        document["history"] = [{**kept, "created_by": "crfs"} for _ in diff_ids]
    return msgspec.json.encode(document)


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != {}}
