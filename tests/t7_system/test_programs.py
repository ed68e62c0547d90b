"""Package managers, archivers and git on a writable mount of a Debian image: they do what they do elsewhere."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.compare import compare_trees
from tests.support.debs import with_packages
from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import Crfs, crfs_in, need_fuse, run_program
from tests.support.realimages import RealImages


@dataclass(frozen=True, slots=True)
class Debian:
    """A writable mount of Debian's minbase, and what it was made of."""

    crfs: Crfs
    root: Path
    oracle: Path
    mounting: tuple[str | Path, ...]

    def sh(self, script: str) -> str:
        """What a script says in a chroot of it; it must succeed."""
        settings = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        return run_program("chroot", self.root, "sh", "-ec", script, env=settings).decode()

    def differences(self, copy: str, original: str) -> list[str]:
        """Between a tree of the mount and one of the image as it was."""
        return compare_trees(self.root / copy, self.oracle / original, mtime_seconds=True)

    def remount(self) -> None:
        """Take it down, and mount it again."""
        self.crfs.umount(self.root)
        self.crfs.mount(*self.mounting, at=self.root)


@pytest.fixture(params=["fuse"])
def debian(request: pytest.FixtureRequest, real_images: RealImages, tmp_path: Path) -> Iterator[Debian]:
    """By an engine that a test may name."""
    need_root()
    need_fuse()
    need_programs(["dpkg-deb", "git", "rsync", "tar"])
    image = real_images.get("minbase", "esgz")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    upper = ("--upper", tmp_path / "upper", "--work", tmp_path / "work")
    mounting = (f"docker://{image.ref}", "--tls-verify=false", *upper, f"--engine={request.param}")
    with crfs_in(tmp_path / "crfs") as crfs:
        yield Debian(crfs, crfs.mount(*mounting), image.oracle, mounting)


def missing(verified: str) -> set[str]:
    """The files that dpkg --verify misses."""
    return {line.split()[-1] for line in verified.splitlines()}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("debian", ["fuse", "erofs"], indirect=True)
def test_packages_are_installed_upgraded_and_removed(debian: Debian) -> None:
    """What dpkg --verify says of the image's own packages before, it says afterwards, and of ours nothing."""
    before = missing(debian.sh("dpkg --verify || true"))
    with_packages(debian.root, "packages")
    debian.sh("apt-get update -q; apt-get install -qy tried=1; tried | grep 1; test ! -e /etc/issue.net")
    assert missing(debian.sh("dpkg --verify || true")) - before == set()
    debian.sh(
        "echo changed > /etc/tried.conf; apt-get install -qy -o Dpkg::Options::=--force-confold tried=2"
    )
    debian.remount()
    assert debian.sh("tried-too; cat /etc/tried.conf /etc/tried.d/link /usr/share/tried/turns") == (
        "version 2\nchanged\nchanged\na file\n"
    )
    assert (
        debian.sh("ls /usr/share/tried/many | wc -l; stat -c '%A %h' /usr/bin/tried") == "100\n-rwsr-xr-x 2\n"
    )
    assert missing(debian.sh("dpkg --verify || true")) - before == {"/etc/tried.conf"}
    owned = debian.sh("dpkg -L tzdata").split()
    debian.sh("rm /etc/tried.d/link; apt-get purge -qy tried; dpkg --purge --force-all tzdata; dpkg --audit")
    debian.remount()
    assert not (debian.root / "usr/share/tried").exists()
    assert not (debian.root / "usr/share/zoneinfo").exists()
    assert len(owned) > 1000


@pytest.mark.timeout(120)
def test_trees_are_archived_and_copied(debian: Debian, tmp_path: Path) -> None:
    """By tar and by rsync, from the image into the mount itself."""
    archived = ("usr/lib/apt", "usr/share/zoneinfo", "var/lib")
    flags = ("--xattrs", "--xattrs-include=*", "--numeric-owner", "-C")
    run_program("tar", *flags, debian.root, "-cf", tmp_path / "tar", *archived)
    (debian.root / "in").mkdir()
    run_program("tar", *flags, debian.root / "in", "-xpf", tmp_path / "tar")
    run_program("rsync", "-aHX", f"{debian.root}/usr/bin/", f"{debian.root}/in/bin/")
    debian.remount()
    for name in archived:
        assert debian.differences(f"in/{name}", name) == []
    assert debian.differences("in/bin", "usr/bin") == []
    run_program("rm", "-r", debian.root / "in")
    run_program("rsync", "-aHX", "--delete", f"{debian.root}/usr/bin/", f"{debian.root}/usr/share/")
    # of the subdirectories of a merged directory nobody knows the number
    assert debian.differences("usr/share", "usr/bin") == ["b'.' nlink: 1, the oracle has 2"]


@pytest.mark.timeout(120)
def test_a_repository_is_cloned_and_collected(debian: Debian) -> None:
    at = debian.root / "root/repository"

    def git(*words: str) -> str:
        ours = (
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@localhost",
            "-c",
            "safe.directory=*",
            "-c",
            "gc.auto=0",
        )
        return run_program("git", "-C", at, *ours, *words).decode()

    run_program("cp", "-a", debian.oracle / "usr/share/perl5", at)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("rm", "-rq", "Debconf/Element")
    git("mv", "Debian", "Moved")
    git("commit", "-qam", "second")
    git("clone", "-q", "--no-local", ".", "../clone")
    git("checkout", "-q", "HEAD~1")
    git("gc", "-q", "--prune=now")
    git("repack", "-adq")
    debian.remount()
    git("fsck", "--full")
    run_program("diff", "-r", at / "Debconf/Element", debian.oracle / "usr/share/perl5/Debconf/Element")
    git("checkout", "-q", "main")
    assert git("status", "--short") + git("-C", "../clone", "status", "--short") == ""
    assert sorted(os.listdir(at)) == [".git", "Debconf", "Moved"]


@pytest.mark.timeout(120)
def test_python_packages_are_installed(debian: Debian, tmp_path: Path) -> None:
    """A virtual environment on the mount, and pip, which replaces one version by another."""
    environment = debian.root / "opt/environment"
    run_program(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "-q",
        "--disable-pip-version-check",
        "--python",
        environment / "bin/python",
    )
    for version in ("1", "2"):
        run_program(*pip, "install", "--no-index", wheel(tmp_path, version))
        debian.remount()
        assert run_program(environment / "bin/python", "-c", "import tried; print(tried.VERSION)") == (
            f"{version}\n".encode()
        )
    run_program(*pip, "check")
    run_program(*pip, "uninstall", "-y", "tried")
    assert list(environment.rglob("*tried*")) == []


def wheel(place: Path, version: str) -> Path:
    """A package of many modules (binary distribution format)."""
    about = f"tried-{version}.dist-info"
    files = {f"tried/module{number}.py": f"VALUE = {number}\n" for number in range(50)}
    files["tried/__init__.py"] = f"VERSION = {version}\n"
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: tried\nVersion: {version}\n"
    files[f"{about}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    path = place / f"tried-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"]))
    return path
