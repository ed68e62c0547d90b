"""Digests: which texts are some, and whether bytes match them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import DigestMismatch, FormatError
from crfs.formats.digest import check_hash, parse_digest, sha256_digest, verify

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest_of_nothing() -> None:
    assert sha256_digest(b"") == EMPTY
    assert str(parse_digest(EMPTY)) == EMPTY


@given(st.binary())
def test_verify_accepts_what_it_names(data: bytes) -> None:
    verify(data, "sha256:" + hashlib.sha256(data).hexdigest(), "it")
    verify(memoryview(data), "sha512:" + hashlib.sha512(data).hexdigest(), "it")


def test_bytes_in_pieces() -> None:
    hasher = parse_digest(sha256_digest(b"onetwo")).hasher()
    hasher.update(b"one")
    hasher.update(b"two")
    check_hash(hasher, sha256_digest(b"onetwo"), "it")


def test_should_fail_other_bytes() -> None:
    with pytest.raises(DigestMismatch, match=r"the config has the digest sha256:2d71.*, not sha256:e3b0"):
        verify(b"x", EMPTY, "the config")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:12",
        EMPTY.upper(),
        EMPTY + "0",
        EMPTY[:-1],
        EMPTY[:-1] + "g",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        " " + EMPTY,
        EMPTY + "\n",
        "sha512:" + EMPTY[7:],
        "sha256:../../../../etc/passwd",
        EMPTY.replace("e", "е"),
    ],
)
def test_should_fail_malformed(text: str) -> None:
    with pytest.raises(FormatError, match="is not a digest"):
        parse_digest(text)
