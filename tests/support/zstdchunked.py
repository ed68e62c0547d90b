"""zstd:chunked layers put together by hand, as each dialect has them: what readers are tried with."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zstandard

from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_LAYER_ZSTD
from crfs.formats.toc import TOC_DIGEST_ANNOTATION
from crfs.formats.zstdchunked import Dialect, Place, build_footer, position_annotations, skippable_frame
from tests.support.layers import Entry, File, make_tar


@dataclass(frozen=True, slots=True)
class Handmade:
    """A blob, the tar in it, and its TOC's JSON with the place where that lies, compressed."""

    blob: bytes
    tar: bytes
    json: bytes
    place: Place

    def annotations(
        self, dialect: Dialect, *, checksum: bool = True, json_digest: bool = False
    ) -> dict[str, str]:
        """Those of a manifest, as far as they are wanted."""
        packed = self.blob[self.place.off :][: self.place.size]
        found = position_annotations(dialect, self.place, sha256_digest(packed))
        if not checksum:
            del found[f"{dialect.value}.manifest-checksum"]
        if json_digest:
            found[TOC_DIGEST_ANNOTATION] = sha256_digest(self.json)
        return found

    def descriptor(self, annotations: dict[str, str]) -> Descriptor:
        """What a manifest says of the blob."""
        return Descriptor(OCI_LAYER_ZSTD, sha256_digest(self.blob), len(self.blob), annotations)


def handmade(entries: Iterable[Entry], dialect: Dialect, *, chunk_size: int = 1 << 20) -> Handmade:
    """Files only: each chunk a frame, unless it is all zeros; headers and padding are frames of their own."""
    blob, tar, toc = b"", b"", []
    for entry in entries:
        assert isinstance(entry, File)
        header = make_tar([entry])[: -len(make_tar([]))].removesuffix(_padded(entry.data))
        header = header[: len(header) // 512 * 512]
        blob += zstandard.compress(header)
        chunks: list[dict[str, Any]] = [_described(entry)]
        for off in range(0, len(entry.data), chunk_size):
            data = entry.data[off : off + chunk_size]
            chunk: dict[str, Any] = {"name": entry.name, "type": "chunk"} if off else chunks[0]
            chunk |= {"chunkOffset": off, "chunkSize": len(data), "offset": len(blob)}
            chunk["chunkDigest"] = sha256_digest(data)
            if not data.strip(b"\0") and dialect is Dialect.PODMAN:
                chunk |= {"chunkType": "zeros", "offset": 0}
            blob += zstandard.compress(data)
            chunk["endOffset"] = len(blob)
            chunks += [chunk] if off else []
        blob += zstandard.compress(bytes(-len(entry.data) % 512))
        tar += header + _padded(entry.data)
        toc += chunks
    blob += zstandard.compress(bytes(1024))
    text = json.dumps({"version": 1, "entries": toc, "tarSplitDigest": "sha256:0"}).encode()
    packed = zstandard.compress(text)
    place = Place(len(blob) + 8, len(packed), len(text))
    blob += skippable_frame(packed) + skippable_frame(b"tar-split") + build_footer(dialect, place)
    return Handmade(blob, tar + bytes(1024), text, place)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def _described(entry: File) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": "reg",
        "size": len(entry.data),
        "mode": entry.mode,
        "modtime": "2024-01-02T03:04:05Z",
        "accesstime": "2024-01-02T03:04:05Z",
        "digest": sha256_digest(entry.data),
    }
