"""Overlays with the marks of root, where the tests run as root, and with those of everyone else."""

import functools
import os
from pathlib import Path

import pytest

from crfs.overlay.marks import TRUSTED
from tests.support.overlaytree import Open, opened


@pytest.fixture(params=["user", "trusted"], name="opened")
def _opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """How to open an overlay."""
    if request.param == "trusted":
        try:
            os.setxattr(tmp_path, TRUSTED + b"probe", b"")
        except OSError as error:
            pytest.skip(f"no trusted.overlay.* xattrs here: {error.strerror}")
    return functools.partial(opened, userxattr=request.param == "user")
