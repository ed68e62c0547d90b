"""Parts of blobs that one process fetches for all: waiting, taking over, holders that die or dawdle."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from crfs.blobs import flights
from crfs.blobs.flights import PART, Flights


def never() -> bool:
    return False


def begin(one: Flights, start: int, end: int, blob: str = "sha256:b") -> "asyncio.Task[bool]":
    return asyncio.ensure_future(one.begin(blob, start, end, never))


def test_second_waits_for_the_first(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = Flights(tmp_path), Flights(tmp_path)
        assert await begin(one, 0, 10)
        waiting, elsewhere = begin(two, PART - 1, PART + 1), begin(two, PART, 2 * PART)
        other = begin(two, 0, 10, "sha256:c")
        assert await elsewhere
        assert await other
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one.end("sha256:b", 0, 10)
        assert await waiting
        # several of one process share a part
        assert await begin(two, 5, 6)
        two.end("sha256:b", 5, 6)
        one.close()
        two.close()

    asyncio.run(run())


def test_what_has_landed_is_not_begun(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = Flights(tmp_path), Flights(tmp_path)
        here: list[int] = []
        assert await begin(one, 0, 10)
        waiting = asyncio.ensure_future(two.begin("sha256:b", 0, 10, lambda: bool(here)))
        await asyncio.sleep(0.05)
        here.append(1)
        assert not await waiting
        one.end("sha256:b", 0, 10)
        # nor where it has just done so
        assert not await two.begin("sha256:b", 0, 10, lambda: True)
        assert await begin(one, 0, 10)
        one.close()
        two.close()

    asyncio.run(run())


def test_part_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, pathlib
from crfs.blobs.flights import Flights
asyncio.run(Flights(pathlib.Path({str(tmp_path)!r})).begin("sha256:b", 0, 10, lambda: False))
print("begun", flush=True)
input()
"""

    async def run(process: "subprocess.Popen[str]") -> None:
        here = Flights(tmp_path)
        waiting = begin(here, 0, 10)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        process.kill()
        process.wait()
        assert await waiting
        here.close()

    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        asyncio.run(run(process))


def test_who_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "WAIT_SECONDS", 0.05)

    async def run() -> None:
        one, two = Flights(tmp_path), Flights(tmp_path)
        assert await begin(one, 0, 10)
        assert await begin(two, 0, 10)
        two.end("sha256:b", 0, 10)
        one.close()
        two.close()

    asyncio.run(run())


def test_cache_that_takes_no_file_is_no_obstacle(tmp_path: Path) -> None:
    async def run() -> None:
        one = Flights(tmp_path / "none")
        assert await begin(one, 0, 10)
        one.end("sha256:b", 0, 10)
        one.close()
        one.end("sha256:b", 0, 10)

    asyncio.run(run())
