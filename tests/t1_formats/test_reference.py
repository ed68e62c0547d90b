"""Sources as users write them; docker:// references are compared with skopeo's own reading."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs.errors import UsageError
from crfs.formats.reference import (
    FileSource,
    ImageReference,
    LayoutReference,
    UrlSource,
    mask_url,
    parse_image,
    parse_source,
)

A = "sha256:" + "a" * 64
HEX = "0123456789abcdef" * 4

GOOD = {
    "alpine": "docker.io/library/alpine:latest",
    "alpine:3.19": "docker.io/library/alpine:3.19",
    "user/image": "docker.io/user/image:latest",
    "docker.io/alpine": "docker.io/library/alpine:latest",
    "docker.io/library/alpine": "docker.io/library/alpine:latest",
    "index.docker.io/alpine:1": "docker.io/library/alpine:1",
    "localhost/x": "localhost/x:latest",
    "localhost:5000/x": "localhost:5000/x:latest",
    "127.0.0.1:5000/a/b/c:t": "127.0.0.1:5000/a/b/c:t",
    "quay.io/a/b": "quay.io/a/b:latest",
    "EXAMPLE.com/x": "EXAMPLE.com/x:latest",
    "foo.bar:5000": "docker.io/library/foo.bar:5000",
    "a_b": "docker.io/library/a_b:latest",
    "a__b": "docker.io/library/a__b:latest",
    "a---b": "docker.io/library/a---b:latest",
    "a.b": "docker.io/library/a.b:latest",
    "x:_T.-": "docker.io/library/x:_T.-",
    f"alpine@{A}": f"docker.io/library/alpine@{A}",
    f"h.io/x/{HEX}": f"h.io/x/{HEX}:latest",
}
BAD = [
    "",
    "A",
    "user/Image",
    "UPPER/x",
    "localhost:5000/X",
    "x//y",
    "/x",
    "x/",
    "a___b",
    "a..b",
    "-a",
    "a-",
    "x:",
    "x:.t",
    "x:" + "t" * 129,
    "127.0.0.1:5000/x:y/z",
    "h.io:/x",
    "h.io:1a/x",
    "host-/x:1",
    "x y",
    "x@sha256:12",
    "x@",
    f"x@{A}@{A}",
    HEX,
    "h.io/" + "a" * 256,
    "x\u00e9",
]


@pytest.mark.parametrize(("text", "full"), GOOD.items())
def test_docker_reference(text: str, full: str) -> None:
    source = parse_source(f"docker://{text}")
    assert isinstance(source, ImageReference)
    assert source.text == full
    assert str(source) == f"docker://{full}"
    assert parse_source(str(source)) == source


@pytest.mark.parametrize("text", BAD)
def test_should_fail_malformed_reference(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(f"docker://{text}")
    assert repr(f"docker://{text}") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_should_fail_uppercase_repository() -> None:
    with pytest.raises(UsageError, match="lower case"):
        parse_source("docker://localhost/Web")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo judges the references")
@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_skopeo_agrees(text: str, tmp_path: Path) -> None:
    # the destination is parsed first; the source that is missing keeps skopeo from asking anybody
    command = ["skopeo", "copy", f"dir:{tmp_path}/missing", f"docker://{text}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stderr
    assert ("Invalid destination name" in said) == (text in BAD), said


def test_ipv6_host() -> None:
    source = parse_image("[::1]:5000/x:1")
    assert (source.host, source.repository, source.tag) == ("[::1]:5000", "x", "1")


def test_digest_decides_and_tag_is_kept() -> None:
    source = parse_image(f"alpine:3@{A}")
    assert (source.tag, source.digest, source.identifier) == ("3", A, A)
    assert str(source) == f"docker://docker.io/library/alpine:3@{A}"
    assert parse_image(f"alpine@{A}").tag is None


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("oci:dir", LayoutReference("dir")),
        ("oci:/a/b:", LayoutReference("/a/b")),
        ("oci:/a/b:latest", LayoutReference("/a/b", "latest")),
        ("oci:dir:docker.io/library/x:1", LayoutReference("dir", "docker.io/library/x:1")),
        (f"oci:dir:@{A}", LayoutReference("dir", digest=A)),
        ("file:///a/layer.tar", FileSource("/a/layer.tar")),
        ("file://rel%20/x", FileSource("rel%20/x")),
        ("/a/layer.tar", FileSource("/a/layer.tar")),
        ("layer.tar", FileSource("layer.tar")),
        ("./a:b", FileSource("./a:b")),
        ("https://h/x", UrlSource("https://h/x")),
        ("http://[::1]:8080/x", UrlSource("http://[::1]:8080/x")),
        ("HTTPS://h", UrlSource("https://h/")),
        ("https://h/x#part", UrlSource("https://h/x")),
        ("https://u:p%40@h:1/x?y=1", UrlSource("https://h:1/x?y=1", "u", "p@")),
        ("https://token@h/x", UrlSource("https://h/x", "token", "")),
    ],
)
def test_other_sources(text: str, source: object) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "docker:alpine",
        "docker:/alpine",
        "ftp://h/x",
        "docker-archive:",
        "containers-storage:x",
        "oci:",
        "oci::x",
        "oci:dir:a b",
        "oci:dir:-x",
        "oci:dir:@sha256:1",
        "file:",
        "file://",
        "file:/x",
        "http://",
        "https:///x",
        "http:x",
        "http://h:port/x",
        "http://h:0/x",
        "http://h:99999/",
        "http://[::1/x",
        "http://a b/x",
        "https://h/a b",
        "/a\nb",
        "/a\x00b",
    ],
)
def test_should_fail_no_source(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["https://user:hunter2@h/x", "https://hunter2@h/x", "http://h/x?sig=hunter2", "https://a:b:hunter2@h/x"],
)
def test_secrets_are_not_shown(text: str) -> None:
    source = parse_source(text)
    assert "hunter2" not in str(source)
    assert "hunter2" not in repr(source)
    assert "hunter2" not in mask_url(text)
    assert "//h/x" in mask_url(text).replace("***@", "")


@pytest.mark.parametrize(
    "text",
    ["ftp://u:hunter2@h/x", "https://u:hunter2@h:p/x", "https://u:hunter2@/x", "docker://u:hunter2@h/x"],
)
def test_should_fail_without_telling_the_secret(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert "hunter2" not in str(caught.value)


_component = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
_host = st.from_regex(r"([a-z0-9]{1,6}\.){1,2}[a-z]{2,3}(:[1-9][0-9]{0,3})?", fullmatch=True)
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(_host, st.lists(_component, min_size=1, max_size=4), st.none() | _tag, st.none() | _digest)
def test_round_trip(host: str, components: list[str], tag: str | None, digest: str | None) -> None:
    wanted = ImageReference(host, "/".join(components), tag, digest)
    if tag is None and digest is None:
        wanted = ImageReference(host, "/".join(components), "latest")
    assert parse_source(str(wanted)) == wanted


@given(st.text())
@example("docker://a@b/c")
@example("https://\u2100.com/")
def test_should_fail_only_as_usage_error(text: str) -> None:
    for prefix in ("", "docker://", "oci:", "https://", "file://"):
        with contextlib.suppress(UsageError):
            assert str(parse_source(prefix + text))
