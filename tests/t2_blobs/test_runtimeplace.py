"""Where files of running mounts lie, by what the environment says."""

import os
import warnings
from pathlib import Path

import pytest

from crfs.blobs.runtimeplace import runtime_place


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_nothing_is_said_of_a_directory_that_others_may_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """A command prints nothing but what went wrong: another place is taken."""
    # root has a place of its own
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Path(runtime_place()).name == "crfs"
