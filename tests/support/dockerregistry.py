"""Debian's docker-registry for a test session, and the rule for what a machine lacks.

Import the fixture `docker_registry` in a conftest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NoReturn

import pytest

from benches.commands import missing_programs
from benches.registry import Registry, registry


def need_root() -> None:
    """Skip the test unless it runs as root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts, and unpacks images with devices and owners")


def need_programs(names: Sequence[str]) -> None:
    """Skip the test where a program is missing, but fail it in CI, which has to install them."""
    if missing := missing_programs(*names):
        lacking(f"needs {', '.join(missing)} (`make test-deps` installs them)")


def lacking(reason: str) -> NoReturn:
    """End the test for want of something: failed in CI, skipped elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_registry() -> Iterator[Registry]:
    """A registry on the benches' storage: what an earlier session pushed is still there."""
    need_root()
    need_programs(["docker-registry"])
    with registry() as served:
        yield served
