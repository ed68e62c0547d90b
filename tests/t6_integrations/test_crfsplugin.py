"""crfs-plugin's lower directories: the lines of its README, and the base64 that they did not think of."""

import base64
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crfs.errors import UsageError
from crfs.formats.reference import FileSource, ImageReference, UrlSource, parse_source
from crfs.integrations.crfsplugin import CrfsLower, parse_crfs_lower

CWD = Path("/cwd")
IMAGE = "docker://localhost:5000/myimages/fedora:stargz"
SOURCES = [IMAGE, "https://url/to/stargzified-layer.tar.gz", "/path/to/stargzified-layer.tar.gz"]
SOURCES += ["http://h/l", "file:///path/l", "https://h/l?a=b&c=~~~", "/\u00ff\u00ff\u00ff", "/a?bc?de"]


def encode(source: str) -> str:
    return base64.b64encode(source.encode()).decode()


def encode_url(source: str) -> str:
    return base64.urlsafe_b64encode(source.encode()).decode()


@pytest.mark.parametrize("source", SOURCES)
def test_as_documented(source: str) -> None:
    lower = parse_crfs_lower(f"//crfs/{encode(source)}//home/user/lower", CWD)
    assert lower == CrfsLower(parse_source(source), "/home/user/lower")


@pytest.mark.parametrize("tail", ["", "/", "/lower", "//home/me/lower", "/a/b/c", "//"])
@pytest.mark.parametrize("source", SOURCES)
def test_any_path_and_alphabet(source: str, tail: str) -> None:
    for encoded in (encode(source), encode_url(source)):
        assert parse_crfs_lower(f"//crfs/{encoded}{tail}", CWD) == CrfsLower(parse_source(source), tail[1:])


@pytest.mark.parametrize("source", SOURCES)
def test_without_padding(source: str) -> None:
    for encoded in (encode(source), encode_url(source)):
        lower = parse_crfs_lower(f"//crfs/{encoded.rstrip('=')}//home/user/lower", CWD)
        assert lower == CrfsLower(parse_source(source), "/home/user/lower")


def test_slashes_in_the_base64_belong_to_it() -> None:
    source = "/a?bc?de?"
    assert encode(source) == "L2E/YmM/ZGU/"
    assert parse_crfs_lower(f"//crfs/{encode(source)}//home/user/lower", CWD).source == FileSource(source)


def test_values() -> None:
    lower = parse_crfs_lower(f"//crfs/{encode(IMAGE)}/x", CWD)
    assert lower.source == ImageReference("localhost:5000", "myimages/fedora", "stargz")
    lower = parse_crfs_lower(f"//crfs/{encode('file://a/layer')}/x", CWD)
    assert lower.source == FileSource("/cwd/a/layer")


def test_passwords_do_not_show() -> None:
    lower = parse_crfs_lower(f"//crfs/{encode('https://me:secret@host/layer?sig=secret')}/x", CWD)
    assert isinstance(lower.source, UrlSource)
    assert lower.source.password == "secret"
    assert "secret" not in repr(lower)


_PATH = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).map(
    lambda path: path.lstrip("/")
)
_SOURCE = st.sampled_from(["/", "file:///", "https://h/", "http://h:1/"]).flatmap(
    lambda start: st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).map(
        lambda end: start + end
    )
)


@given(_SOURCE, _PATH)
def test_any_source_with_an_absolute_path(source: str, path: str) -> None:
    assume("#" not in source)
    for encoded in (encode(source), encode(source).rstrip("="), encode_url(source)):
        lower = parse_crfs_lower(f"//crfs/{encoded}//{path}", CWD)
        assert lower == CrfsLower(parse_source(source), f"/{path}")


@pytest.mark.parametrize(
    "text",
    [
        "//",
        "//crfs",
        "//crfs/",
        "//crfs//",
        "//crfs///lower",
        "//crfs/%%%/lower",
        "//crfs/AAAAA/lower",
        f"//crfs/{encode('relative/path')}/lower",
        f"//crfs/{encode('oci:dir')}/lower",
        f"//crfs/{encode('ftp://host/layer')}/lower",
        f"//crfs/{encode('file://')}/lower",
        "//crfs/" + base64.b64encode(b"/\xff\xfe").decode() + "/lower",
        "//crfs/" + base64.b64encode(b"/a\nb").decode() + "/lower",
        f"//crfs{encode('/a')}/lower",
        f"//other/{encode('/a')}/lower",
        "///tmp/lower",
    ],
)
def test_should_fail_what_is_no_source(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_crfs_lower(text, CWD)
    assert "\n" not in str(caught.value)


def test_should_fail_with_the_reason_of_the_reference() -> None:
    with pytest.raises(UsageError, match="lower case"):
        parse_crfs_lower(f"//crfs/{encode('docker://host/Image')}/lower", CWD)


def test_should_fail_another_plugin_by_name() -> None:
    with pytest.raises(UsageError, match="no plugin 'shared'"):
        parse_crfs_lower("//shared/data/lower", CWD)
