"""Where crfs keeps its files: the XDG base directories, and /run/crfs for root."""

from pathlib import Path

from crfs.blobs.runtimeplace import runtime_place


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/crfs, or ~/.cache/crfs."""
    import platformdirs  # late, here and below: often an option or root's fixed path says it all

    return platformdirs.user_cache_path("crfs")


def log_directory() -> Path:
    """$XDG_STATE_HOME/crfs/log, or ~/.local/state/crfs/log."""
    import platformdirs

    return platformdirs.user_log_path("crfs")


def container_directory() -> Path:
    """$XDG_STATE_HOME/crfs/containers, or ~/.local/state/crfs/containers."""
    import platformdirs

    return platformdirs.user_state_path("crfs") / "containers"


def runtime_directory() -> Path:
    """/run/crfs for root, else $XDG_RUNTIME_DIR/crfs."""
    return Path(runtime_place())
