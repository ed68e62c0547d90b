"""Traces of one image: what was recorded before is fetched ahead, and what this run touches is kept for the next."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from crfs.blobs.cachedir import CacheDirectory
from crfs.cli.services import Settings
from crfs.errors import CrfsError, FormatError, UsageError
from crfs.image.trace import Recorder, Touch, encode_trace, merge_traces, parse_trace

log = logging.getLogger(__name__)
# for how long a start is watched, where nobody asked for a record
KEPT_SECONDS = 60.0


def trace_path(directory: CacheDirectory, digest: str) -> Path:
    """Where the trace of the image with that manifest is kept."""
    return directory.root / "traces" / digest.replace(":", "-")


def find_kept(settings: Settings, directory: CacheDirectory, digest: str | None) -> list[Touch]:
    """The trace that was kept of an image, if it may be used."""
    if not settings.traces or digest is None:
        return []
    path = trace_path(directory, digest)
    try:
        return parse_trace(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, FormatError) as error:
        log.warning("%s: %s; it is dropped", path, error)
        with contextlib.suppress(OSError):
            path.unlink()
        return []


def load_trace(path: Path) -> list[Touch]:
    """A trace that a user names; UsageError, FormatError with the path."""
    try:
        return parse_trace(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def keeper(
    settings: Settings, directory: CacheDirectory, digest: str | None, recorder: Recorder
) -> Callable[[], None]:
    """What to call at the end of a run: it merges what was recorded into the kept trace and the user's file."""

    def keep() -> None:
        touches = recorder.touches()
        if not touches:
            return
        if settings.record is not None:
            _merge_into(settings.record, touches, lambda body: _write(settings.record, body))
        if settings.traces and digest is not None:
            path = trace_path(directory, digest)
            _merge_into(path, touches, lambda body: _publish(directory, path, body))

    return keep


def _merge_into(path: Path, touches: list[Touch], write: Callable[[bytes], None]) -> None:
    try:
        old = parse_trace(path.read_bytes()) if path.exists() else []
        write(encode_trace(merge_traces(old, touches)))
    except (OSError, CrfsError) as error:
        log.error("%s: the trace can't be kept: %s", path, error)


def _write(path: Path | None, body: bytes) -> None:
    assert path is not None
    path.write_bytes(body)


def _publish(directory: CacheDirectory, path: Path, body: bytes) -> None:
    with directory.staged() as staged:
        staged.write(body)
        directory.publish(staged, path)
