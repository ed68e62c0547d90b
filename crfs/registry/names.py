"""The grammar of repositories, tags and digests (OCI distribution 1.1, OCI image 1.1). Pure."""

import re

from crfs.registry.refusal import Refusal

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_UPLOAD = re.compile(r"[0-9a-f]{32}")
# what an encoded digest must be where the algorithm is one that we can compute
_ENCODED = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}
MAX_NAME = 255


def check_name(name: str) -> str:
    """`name` as it is; NAME_INVALID unless it can name a repository."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise Refusal(400, "NAME_INVALID", f"invalid repository name {name!r}")
    return name


def check_digest(digest: str) -> str:
    """`digest` as it is; DIGEST_INVALID unless it is well formed and of an algorithm known here."""
    algorithm, _, encoded = digest.partition(":")
    if not _DIGEST.fullmatch(digest):
        raise Refusal(400, "DIGEST_INVALID", f"invalid digest {digest!r}")
    if algorithm not in _ENCODED:
        raise Refusal(400, "DIGEST_INVALID", f"digest algorithm {algorithm!r} is not supported")
    if not _ENCODED[algorithm].fullmatch(encoded):
        raise Refusal(400, "DIGEST_INVALID", f"invalid {algorithm} digest {encoded!r}")
    return digest


def check_reference(reference: str) -> str:
    """`reference` as it is: a digest where it has a colon, else a tag; DIGEST_INVALID or TAG_INVALID."""
    if is_digest(reference):
        return check_digest(reference)
    if not _TAG.fullmatch(reference):
        raise Refusal(400, "TAG_INVALID", f"invalid tag {reference!r}")
    return reference


def is_digest(reference: str) -> bool:
    """Whether a reference can only be a digest: a tag has no colon."""
    return ":" in reference


def is_upload(upload: str) -> bool:
    """Whether `upload` looks like one that start_upload() named, and so is safe to look for."""
    return _UPLOAD.fullmatch(upload) is not None
