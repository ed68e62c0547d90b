"""What is written in a bench of writing: an archive of many small files, and a repository of git's. Built once."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

from benches.cache import cache_dir, once

FILES = 20_000
_SOURCES = 3_000
_WHEN = 1_735_689_600
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_{what}": said for who in ("AUTHOR", "COMMITTER") for what, said in (
        ("NAME", "bench"), ("EMAIL", "bench@localhost"), ("DATE", f"{_WHEN} +0000"),
    )},
}  # fmt: skip


def archive() -> Path:
    """A tar of 20,000 files of up to 4 KiB, in 400 directories."""
    return once(cache_dir() / "workloads" / "archive-1", _build_archive) / "files.tar"


def repository() -> Path:
    """A bare repository with one commit of 3,000 files."""
    return once(cache_dir() / "workloads" / "repository-1", _build_repository) / "bare.git"


def _build_archive(into: Path) -> None:
    numbers = random.Random(1)
    with tarfile.open(into / "files.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(FILES):
            directory, file = divmod(number, 50)
            if not file:
                _add(tar, f"{directory // 20:02}/{directory:03}", None)
            _add(
                tar,
                f"{directory // 20:02}/{directory:03}/{file:02}.dat",
                numbers.randbytes(numbers.randrange(4096)),
            )


def _add(tar: tarfile.TarFile, name: str, data: bytes | None) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = _WHEN, 0o755 if data is None else 0o644
    info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
    info.size = len(data or b"")
    tar.addfile(info, io.BytesIO(data or b""))


def _build_repository(into: Path) -> None:
    tree, bare = into / "tree", into / "bare.git"
    _git("init", "-q", "-b", "main", str(tree))
    numbers = random.Random(2)
    for number in range(_SOURCES):
        path = tree / f"{number // 100:02}" / f"{number:04}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(f"VALUE_{numbers.randrange(10**6)} = {line}\n" for line in range(number % 60))
        )
    _git("-C", str(tree), "add", ".")
    _git("-C", str(tree), "commit", "-q", "-m", "one")
    _git("clone", "-q", "--bare", str(tree), str(bare))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, stdin=subprocess.DEVNULL, env={**os.environ, **_GIT})
