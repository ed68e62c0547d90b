"""A repository of small Debian packages, built by dpkg-deb, for apt in a chroot: no network is needed.

with_packages(root, "packages")     # below the root that apt runs in
chroot ROOT apt-get update; chroot ROOT apt-get install tried=1
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.mounting import run_program

_MANY = 200
_POSTINST = """#!/bin/sh
set -e
dpkg-divert --package tried --add --rename --divert /usr/share/dict.was /etc/issue.net
ln -sf ../tried.conf /etc/tried.d/link
echo "configured $2" >> /var/lib/tried
"""


def with_packages(root: Path, name: str) -> None:
    """Make a directory below the root a repository, the only one that the root's apt knows."""
    place = root / name
    place.mkdir()
    lines = []
    for version in (1, 2):
        tree = place / f"tree{version}"
        _fill(tree, version)
        package = place / f"tried_{version}_all.deb"
        run_program("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, package)
        run_program("rm", "-r", tree)
        lines += [*_control(version), *_whereabouts(package), ""]
    (place / "Packages").write_text("\n".join(lines))
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:/{name} ./\n")


def _control(version: int) -> list[str]:
    return [
        "Package: tried",
        f"Version: {version}",
        "Architecture: all",
        "Maintainer: nobody <nobody@localhost>",
        "Description: every kind of change to a tree",
    ]


def _whereabouts(package: Path) -> Iterator[str]:
    data = package.read_bytes()
    yield f"Filename: ./{package.name}"
    yield f"Size: {len(data)}"
    yield f"SHA256: {hashlib.sha256(data).hexdigest()}"


def _fill(tree: Path, version: int) -> None:
    """Files in directories that a Debian has and in new ones; the second version lacks, adds and turns some."""
    for name in ("DEBIAN", "etc/tried.d", "usr/bin", "usr/share/tried/many"):
        (tree / name).mkdir(parents=True)
    (tree / "DEBIAN/control").write_text("\n".join(_control(version)) + "\n")
    (tree / "DEBIAN/conffiles").write_text("/etc/tried.conf\n")
    (tree / "DEBIAN/postinst").write_text(_POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "etc/tried.conf").write_text(f"version {version}\n")
    (tree / "usr/bin/tried").write_text(f"#!/bin/sh\necho version {version}\n")
    (tree / "usr/bin/tried").chmod(0o4755)
    (tree / "usr/bin/tried-too").hardlink_to(tree / "usr/bin/tried")
    for number in range(version - 1, _MANY, version):
        (tree / f"usr/share/tried/many/{number}").write_text(f"{number} of version {version}\n")
    if version == 1:
        (tree / "usr/share/tried/turns").mkdir()
        (tree / "usr/share/tried/turns/file").write_text("in a directory\n")
    else:
        (tree / "usr/share/tried/turns").write_text("a file\n")
