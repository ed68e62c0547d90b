"""Mounts of one process tell of themselves: each of its own, by one thread for all."""

import contextlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crfs.image.report import Report
from crfs.mount import telling as module
from crfs.mount.telling import ask, socket_path, telling


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "runtime_directory", lambda: tmp_path)


def reporting(size: int) -> Callable[[], Report]:
    return lambda: Report(size=size)


def asked(device: str) -> int | None:
    report = ask(device, os.getpid())
    return None if report is None else report.size


def test_each_mount_tells_of_itself_until_its_end() -> None:
    with contextlib.ExitStack() as others:
        for number in range(3):
            others.enter_context(telling(f"0:{number}", reporting(number)))
        with telling("0:3", reporting(3)):
            assert [asked(f"0:{number}") for number in range(4)] == [0, 1, 2, 3]
        assert [asked(f"0:{number}") for number in range(4)] == [0, 1, 2, None]
        assert not socket_path("0:3", os.getpid()).exists()
        assert sum(thread.name == "crfs-telling" for thread in threading.enumerate()) == 1


def test_nobody_else_may_connect() -> None:
    with telling("0:1", reporting(1)):
        assert stat.S_IMODE(socket_path("0:1", os.getpid()).stat().st_mode) == 0o600


def test_should_fail_alone_where_a_report_does(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Report:
        raise ValueError("no report")

    with telling("0:1", broken), telling("0:2", reporting(2)):
        assert asked("0:1") is None
        assert asked("0:2") == 2
    assert "can't tell of itself" in caplog.text
    caplog.clear()
