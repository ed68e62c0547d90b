"""`stargzify`, called as google/crfs's command of that name is."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.cli.main import main as crfs
from crfs.cli.stargzify import main
from crfs.formats.footer import FooterKind, find_footer
from crfs.registry.server import Registry
from tests.support.layers import Dir, File, make_tar
from tests.support.rawregistry import Client

TAR = make_tar([Dir("a"), File("a/b", b"content" * 1000)])


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar"
    path.write_bytes(TAR)
    return path


def check(blob: bytes) -> None:
    """It is a stargz, and still a tar.gz."""
    footer = find_footer(blob[-100:])
    assert footer is not None
    assert footer.kind is FooterKind.STARGZ
    with tarfile.open(fileobj=io.BytesIO(blob)) as read:
        assert read.getnames() == ["a", "a/b", "stargz.index.json"]


def test_file(tar: Path) -> None:
    assert main([f"file:{tar}"]) == 0
    check((tar.parent / "x.stargz").read_bytes())
    assert main(["-flatten=false", f"file:{tar}", f"file:{tar.parent}/other"]) == 0
    check((tar.parent / "other").read_bytes())


def test_standard_streams(
    tar: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with tar.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["file:-"]) == 0
    check(capfdbinary.readouterr().out)


def test_image(registry: Registry, tar: Path) -> None:
    name = f"{registry.address}/made"
    assert crfs(["convert", str(tar), f"docker://{name}:v1", "--format", "tar"]) == 0
    assert main(["-insecure", f"http://{name}:v1", f"{name}:v2"]) == 0
    assert main(["--insecure", "--upgrade", "--flatten", f"{name}:v1"]) == 0
    client = Client(registry.address)
    bodies = [client.ask("GET", f"/v2/made/manifests/{tag}").body for tag in ("v1", "v2")]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "b", "c"],
        ["-nope", "a", "b"],
        ["-upgrade", "a", "b"],
        ["a"],
        ["file:"],
        ["file:/nowhere", "file:x"],
    ],
)
def test_should_fail_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("stargzify: ")
    assert told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
