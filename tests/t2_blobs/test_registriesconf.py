"""registries.conf: prefixes, mirrors, locations, and which files count."""

from pathlib import Path

import pytest

from crfs.blobs.registriesconf import Endpoint, RegistriesConf, config_files, load_registries, match_prefix
from crfs.errors import UsageError
from crfs.formats.reference import parse_image

A = "sha256:" + "a" * 64


def conf(tmp_path: Path, text: str) -> RegistriesConf:
    (tmp_path / "conf").write_text(text)
    return load_registries(
        {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "conf"), "HOME": str(tmp_path)}, tmp_path
    )


def places(config: RegistriesConf, text: str) -> list[str]:
    found = config.endpoints(parse_image(text))
    return [f"{place.host}/{place.repository}{'!' * place.insecure}" for place in found]


def test_no_file_at_all(tmp_path: Path) -> None:
    config = load_registries({"HOME": str(tmp_path)}, tmp_path / "none")
    assert config.endpoints(parse_image("h.io/a")) == (Endpoint("h.io", "a"),)


def test_mirrors_then_location(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        """
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.test/bar"
        [[registry.mirror]]
        location = "mirror-0.test/for-foo"
        [[registry.mirror]]
        location = "mirror-1.test:5000/foo"
        insecure = true
        """,
    )
    there = ["mirror-0.test/for-foo/x/y", "mirror-1.test:5000/foo/x/y!", "internal.test/bar/x/y"]
    assert places(config, "example.com/foo/x/y:1") == there
    assert places(config, "example.com/foo") == [
        "mirror-0.test/for-foo",
        "mirror-1.test:5000/foo!",
        "internal.test/bar",
    ]
    assert places(config, "example.com/food") == ["example.com/food"]
    assert places(config, "example.com/other") == ["example.com/other"]


def test_namespace_is_the_host_a_mirror_stands_in_for(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        """
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.test"
        [[registry.mirror]]
        location = "docker.io/copies"
        """,
    )
    mirror, same, home = config.endpoints(parse_image("alpine"))
    assert mirror == Endpoint("mirror.test", "library/alpine", namespace="docker.io")
    assert same == Endpoint("docker.io", "copies/library/alpine")
    assert home == Endpoint("docker.io", "library/alpine")


def test_longest_prefix_wins(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        """
        [[registry]]
        prefix = "h.io"
        location = "one.test"
        [[registry]]
        prefix = "h.io/a/b"
        location = "three.test/x"
        [[registry]]
        prefix = "h.io/a"
        location = "two.test/y"
        [[registry]]
        prefix = "h.io/a/b/c:tag"
        location = "four.test/z:other"
        """,
    )
    assert places(config, "h.io/z") == ["one.test/z"]
    assert places(config, "h.io/a/z") == ["two.test/y/z"]
    assert places(config, "h.io/a/b/z") == ["three.test/x/z"]
    assert places(config, "h.io/a/b/c:tag") == ["four.test/z"]
    assert places(config, f"h.io/a@{A}") == ["two.test/y"]


def test_subdomains(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        """
        [[registry]]
        prefix = "*.example.com"
        insecure = true
        [[registry]]
        prefix = "*.moved.example.com"
        location = "new.test"
        """,
    )
    assert places(config, "a.example.com/x") == ["a.example.com/x!"]
    assert places(config, "a.b.example.com/x") == ["a.b.example.com/x!"]
    assert places(config, "a.moved.example.com/x/y:1") == ["new.test/x/y"]
    assert places(config, "example.com/x") == ["example.com/x"]
    assert places(config, "a.example.com.evil.test/x") == ["a.example.com.evil.test/x"]
    assert places(config, "h.io/a.example.com/x") == ["h.io/a.example.com/x"]


def test_mirrors_for_digests_or_tags_only(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        """
        [[registry]]
        location = "one.test"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.test"
        [[registry]]
        location = "two.test"
        [[registry.mirror]]
        location = "d.test"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "t.test"
        pull-from-mirror = "tag-only"
        [[registry.mirror]]
        location = "a.test"
        pull-from-mirror = "all"
        """,
    )
    assert places(config, "one.test/x:1") == ["one.test/x"]
    assert places(config, f"one.test/x@{A}") == ["m.test/x", "one.test/x"]
    assert places(config, "two.test/x:1") == ["t.test/x", "a.test/x", "two.test/x"]
    assert places(config, f"two.test/x@{A}") == ["d.test/x", "a.test/x", "two.test/x"]


def test_push_goes_to_no_mirror(tmp_path: Path) -> None:
    config = conf(
        tmp_path,
        '[[registry]]\nprefix = "h.io"\nlocation = "other.test"\ninsecure = true\n'
        '[[registry.mirror]]\nlocation = "m.test"\n',
    )
    assert config.push_endpoint(parse_image("h.io/x")) == Endpoint("h.io", "x", insecure=True)
    assert config.push_endpoint(parse_image("z.io/x")) == Endpoint("z.io", "x")


def test_should_fail_blocked(tmp_path: Path) -> None:
    config = conf(tmp_path, '[[registry]]\nprefix = "h.io/bad"\nblocked = true\n')
    with pytest.raises(UsageError, match=r"^h.io/bad/x:latest: h.io/bad is blocked in .*/conf$"):
        config.endpoints(parse_image("h.io/bad/x"))
    assert places(config, "h.io/good") == ["h.io/good"]


@pytest.mark.parametrize(
    "text",
    [
        "[[registry]",
        "[[registry]]\nlocation = 1",
        "[[registry]]\ninsecure = true",
        '[[registry]]\nlocation = "https://h.io"',
        '[[registry]]\nlocation = "h.io"\n[[registry.mirror]]\ninsecure = true',
        '[registries.search]\nregistries = ["docker.io"]',
    ],
)
def test_should_fail_malformed_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=f"'{tmp_path}/conf'"):
        conf(tmp_path, text)


def test_should_fail_location_that_makes_no_name(tmp_path: Path) -> None:
    config = conf(tmp_path, '[[registry]]\nprefix = "h.io"\nlocation = "Upper/Case"')
    with pytest.raises(UsageError, match="'Upper/Case' makes no image's name"):
        config.endpoints(parse_image("h.io/x"))


def test_should_fail_missing_chosen_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_registries({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "none")}, tmp_path)


def test_files_in_their_order(tmp_path: Path) -> None:
    system, home = tmp_path / "etc", tmp_path / "home"
    user = home / ".config" / "containers"
    for directory in (system, user):
        (directory / "registries.conf.d").mkdir(parents=True)
        (directory / "registries.conf.d" / "b.conf").touch()
    (system / "registries.conf.d" / "a.conf").touch()
    (system / "registries.conf.d" / "ignored.txt").touch()
    (system / "registries.conf").touch()
    environ = {"HOME": str(home)}
    drop_ins = [system / "registries.conf.d/a.conf", system / "registries.conf.d/b.conf"]
    own = [user / "registries.conf.d/b.conf"]
    assert config_files(environ, system) == [system / "registries.conf", *drop_ins, *own]
    (tmp_path / "chosen").touch()
    chosen = environ | {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "chosen")}
    assert config_files(chosen, system) == [tmp_path / "chosen", *drop_ins, *own]
    (user / "registries.conf").touch()
    assert config_files(environ, system) == [user / "registries.conf", *own]


def test_later_files_replace_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "registries.conf.d").mkdir()
    (tmp_path / "registries.conf.d" / "x.conf").write_text(
        '[[registry]]\nprefix = "h.io"\nlocation = "b.test"'
    )
    assert places(conf(tmp_path, '[[registry]]\nprefix = "h.io"\nlocation = "a.test"'), "h.io/x") == [
        "b.test/x"
    ]


def test_aliases_alone_are_no_registries(tmp_path: Path) -> None:
    config = conf(tmp_path, 'unqualified-search-registries = ["h.io"]\n[aliases]\n"alpine" = "h.io/alpine"\n')
    assert places(config, "alpine") == ["docker.io/library/alpine"]


@pytest.mark.parametrize(
    ("name", "prefix", "length"),
    [
        ("h.io/x", "h.io", 4),
        ("h.io:5000/x", "h.io", 0),
        ("h.io:5000/x", "h.io:5000", 9),
        ("h.io/xy", "h.io/x", 0),
        ("h.io/x:1", "h.io/x", 6),
        ("h.io/x:1", "h.io/x:1", 8),
        ("h.io/x:12", "h.io/x:1", 0),
        ("a.h.io:5000/x", "*.h.io", 6),
        ("h.io/x", "*.h.io", 0),
    ],
)
def test_match(name: str, prefix: str, length: int) -> None:
    assert match_prefix(name, prefix) == length
