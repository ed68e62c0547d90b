"""`crfs cache`: what it shows, removes and finds damaged. Nothing is mounted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crfs.cli.main import main
from tests.support.layers import File
from tests.t3_layers.images import Place, lazy, whole

FILES = [File("a", b"a" * 5000), File("b", b"b" * 100_000)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        place.push("web", lazy(FILES), whole(FILES[:1]))
        with place.open("web") as image:
            image.read(b"a")
            image.read(b"b")
        yield place


def ask(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> dict[str, Any]:
    assert main(["cache", *map(str, words), "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_list(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "ls", "--cache", place.cache, "--cache-size", "3GB")
    (image,) = found["images"]
    assert image["names"] == [f"docker://{place.proxy.host}/web:1"]
    assert not image["mounted"]
    assert found["limit"] == 3_000_000_000
    assert {part: found["parts"][part]["entries"] for part in ("layers", "trees", "refs")} == {
        "layers": 1,
        "trees": 1,
        "refs": 1,
    }
    assert main(["cache", "ls", "--cache", str(place.cache)]) == 0
    assert image["digest"] in capsys.readouterr().out


def test_prune_to_nothing_and_open_again(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "prune", "--cache", place.cache, "--cache-size", "0")
    assert found["left"] == 0
    assert found["removed-entries"] == 3
    with place.open("web") as image:
        assert image.read(b"a") == b"a" * 5000


def test_prune_by_age_leaves_what_is_young(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "prune", "--cache", place.cache, "--older-than", "1h")["removed"] == 0


def test_what_is_mounted_survives_clear(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with place.open("web") as image:
        ask(capsys, "clear", "--cache", place.cache)
        assert len(list((place.cache / "trees").iterdir())) == 1
        assert image.read(b"b") == b"b" * 100_000
    assert ask(capsys, "clear", "--cache", place.cache)["left"] == 0
    assert not any(list((place.cache / part).iterdir()) for part in ("trees", "documents", "refs", "layers"))


@pytest.mark.parametrize("part", ["chunks", "layers", "trees", "documents"])
def test_verify_finds_and_removes_what_is_damaged(
    place: Place, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    assert ask(capsys, "verify", "--cache", place.cache)["damaged"] == []
    path = next(path for path in (place.cache / part).rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert ask(capsys, "verify", "--cache", place.cache, status=1)["damaged"] == [f"{part}/{path.name}"]
    assert not path.exists()
    assert ask(capsys, "verify", "--cache", place.cache)["damaged"] == []
    with place.open("web") as image:
        assert image.read(b"b") == b"b" * 100_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ls", "--cache", "/nonexistent/cache"], "/nonexistent/cache: there is no cache here"),
        (["prune", "--cache-size", "many"], "'many' is no size such as 500M or 20GB"),
        (["prune", "--older-than", "12"], "'12' is no age such as 90m, 12h or 30d"),
    ],
)
def test_should_fail_wrong_uses(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(["cache", *words])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert said in capsys.readouterr().err
