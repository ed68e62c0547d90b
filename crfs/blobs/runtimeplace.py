"""Where files lie that are of use while something runs. A command that is handed over loads this and no pathlib."""

import os


def runtime_place() -> str:
    """/run/crfs for root, else $XDG_RUNTIME_DIR/crfs.

    Root of a user's own namespace may not write to the former, and sees owners by whom platformdirs trusts nothing.
    """
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return "/run/crfs"
    import warnings  # late, both: not for root

    import platformdirs

    if os.geteuid() == 0:
        given = os.environ.get("XDG_RUNTIME_DIR")
        return f"{given}/crfs" if given else f"{platformdirs.user_state_dir('crfs')}/run"
    with warnings.catch_warnings():
        # it says so where $XDG_RUNTIME_DIR may be looked into by others, and names another place
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_dir("crfs")
