"""A test fails if crfs logs a warning, or worse, that the test did not declare.

    @pytest.mark.warns(r"does not match its name")

declares some: for each of the regular expressions one has to come, and any number may. A test that takes
`caplog` looks at the log by itself, and counts as one that has declared everything.
"""

import logging
import os
import re
from collections.abc import Generator

import pytest

from crfs.mount.handover import DISABLE

_MARK = "warns(*patterns): regular expressions for the warnings of crfs that this test has to cause"


class _Recorder(logging.Handler):
    """Keeps what any thread logs, as text, until it is taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def take(self) -> list[str]:
        """What has come since the last time."""
        lines, self._lines = self._lines, []
        return lines


_recorder = _Recorder()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)
    logging.getLogger("crfs").addHandler(_recorder)
    # a process that outlives its test is of use to none but the tests of it
    os.environ.setdefault(DISABLE, "1")


def pytest_unconfigure() -> None:
    logging.getLogger("crfs").removeHandler(_recorder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    _recorder.take()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    _check(item, must_come=True)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    _check(item, must_come=False)
    return result


def _check(item: pytest.Item, *, must_come: bool) -> None:
    lines = _recorder.take()
    if "caplog" in getattr(item, "fixturenames", ()):
        return
    patterns = [pattern for mark in item.iter_markers("warns") for pattern in mark.args]
    surprises = [line for line in lines if not any(re.search(pattern, line) for pattern in patterns)]
    if surprises:
        pytest.fail("undeclared warnings:\n" + "\n".join(surprises), pytrace=False)
    missing = [pattern for pattern in patterns if not any(re.search(pattern, line) for line in lines)]
    if must_come and missing:
        pytest.fail("declared warnings that did not come: " + ", ".join(missing), pytrace=False)
