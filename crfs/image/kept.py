"""Merged trees in the disk cache, by the digest of their manifest: mapped, not parsed. No network; any thread.

A file holds MAGIC, the version, the length of what is known of the layers (JSON), the SHA-256 of all that
follows it, the JSON, and at the next page the tree's image (_native/index.pxd). It is hashed before it is
believed, unless it was verified before and no crash has come in between.
"""

import contextlib
import hashlib
import logging
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs.blobs.blob import Blob
from crfs.blobs.documents import Documents
from crfs.blobs.store import Store
from crfs.errors import CrfsError, DigestMismatch, FormatError
from crfs.formats.manifest import INDEX_DEPTH, Descriptor, Manifest, parse_manifest
from crfs.formats.platforms import Platform, select_manifest
from crfs.layers.codec import GZIP, Codec
from crfs.layers.layer import Format, Layer, Trust

log = logging.getLogger(__name__)
_MAGIC, _VERSION = b"CRFSKEPT", 1
_HEAD = struct.Struct("<8sII32s")
_PAGE = 4096

OpenBlob = Callable[[Descriptor], Blob]


class _KeptLayer(msgspec.Struct, frozen=True):
    """What a Layer says, but for its index, blob and health; `tar` is its diff_id."""

    name: str
    format: Format
    trust: Trust
    size: int | None
    toc_size: int
    tar: str | None
    reason: str | None
    landmark: int = 0


class KeptTree(msgspec.Struct, frozen=True):
    """A tree out of the cache, and the layers whose chunks it names."""

    tree: Tree
    layers: tuple[Layer, ...]


def tree_name(digest: str) -> str:
    """Where in the cache the tree of the manifest with that digest lies."""
    return f"trees/{digest.replace(':', '-')}"


def store_tree(store: Store, digest: str, layers: Sequence[Layer], image: bytes) -> None:
    """Keep a merged tree, unless one of its layers is not verified yet, or the disk takes no more."""
    if any(layer.trust in (Trust.BACKGROUND, Trust.NONE) for layer in layers):
        return
    body = msgspec.json.encode([_describe(layer) for layer in layers])
    fill = bytes(-(_HEAD.size + len(body)) % _PAGE)
    hasher = hashlib.sha256(body)
    hasher.update(fill)
    hasher.update(image)
    name = tree_name(digest)
    with contextlib.suppress(OSError), store.directory.staged() as staged:
        staged.write(_HEAD.pack(_MAGIC, _VERSION, len(body), hasher.digest()))
        for part in (body, fill, image):
            staged.write(part)
        store.directory.publish(staged, store.directory.root / name)
        store.directory.pin(name)
        store.directory.believe(name)


def _describe(layer: Layer) -> _KeptLayer:
    tar = layer.tar.name.replace("-", ":") if layer.tar else None
    return _KeptLayer(
        layer.name,
        layer.format,
        layer.trust,
        layer.size,
        layer.toc_size,
        tar,
        layer.reason,
        layer.landmark,
    )


def load_tree(store: Store, digest: str, manifest: Manifest, open_blob: OpenBlob) -> KeptTree | None:
    """The tree of a manifest, if it is here whole, with all tars that it needs."""
    name = tree_name(digest)
    path = store.directory.root / name
    try:
        store.directory.pin(name)
        found = _load(store, name, path)
    except FileNotFoundError:
        return None
    except (OSError, CrfsError) as error:
        log.warning("%s: %s; it is made anew", path, getattr(error, "strerror", None) or error)
        store.directory.disbelieve(name)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    tree, kept = found
    if len(kept) != len(manifest.layers):
        return None
    layers = [
        _restore(store, layer, open_blob(descriptor))
        for layer, descriptor in zip(kept, manifest.layers, strict=True)
    ]
    if any(layer is None for layer in layers):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return KeptTree(tree, tuple(layer for layer in layers if layer is not None))


def check_tree(store: Store, name: str) -> None:
    """Hash a kept tree, whatever is believed of it: DigestMismatch, FormatError, OSError."""
    store.directory.disbelieve(name)
    _load(store, name, store.directory.root / name)


def _load(store: Store, name: str, path: Path) -> tuple[Tree, list[_KeptLayer]]:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEAD.size:
            raise FormatError("a kept tree is cut short")
        mapped = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    magic, version, length, digest = _HEAD.unpack_from(mapped)
    if (magic, version) != (_MAGIC, _VERSION):
        raise FormatError("this is no kept tree of this version")
    believed = store.directory.is_believed(name)
    if not believed and hashlib.sha256(mapped[_HEAD.size :]).digest() != digest:
        raise DigestMismatch("a kept tree does not match its digest")
    start = _HEAD.size + length
    try:
        layers = msgspec.json.decode(mapped[_HEAD.size : start], type=list[_KeptLayer])
    except msgspec.DecodeError as error:
        raise FormatError(f"a kept tree is malformed: {error}") from error
    # whoever wrote it had it from merge(): the digest says that it is unchanged
    tree = Tree(mapped[start + -start % _PAGE :], sound=True)
    if not believed:
        store.directory.believe(name)
    return tree, layers


def _restore(store: Store, kept: _KeptLayer, blob: Blob) -> Layer | None:
    """The layer; None where it has a tar that is not here any more."""
    tar = store.find_layer(kept.tar) if kept.tar else None
    if kept.tar and tar is None:
        return None
    return Layer(
        kept.name,
        kept.format,
        kept.trust,
        LayerIndex(),
        blob,
        kept.size,
        toc_size=kept.toc_size,
        tar=tar,
        reason=kept.reason,
        codec=_codec(kept.format),
        landmark=kept.landmark,
    )


def _codec(format_: Format) -> Codec:
    if format_ is not Format.ZSTD_CHUNKED:
        return GZIP
    # late: zstandard is not for those who have none of it
    from crfs.layers.unzstd import ZSTD

    return ZSTD


def find_manifest(documents: Documents, digest: str, platform: Platform) -> tuple[str, Manifest] | None:
    """The manifest for `platform` and its digest, through any index; None where one of them is not here."""
    for _ in range(INDEX_DEPTH):
        found = documents.load(digest)
        if found is None:
            return None
        parsed = parse_manifest(found.body, found.media_type)
        if isinstance(parsed, Manifest):
            return digest, parsed
        digest = select_manifest(parsed, platform).digest
    return None
