"""The user namespace that this process is in: which ids there are."""

from pathlib import Path

from crfs.mount.engines.needs import is_user_namespace


class UserNamespace:
    """Ours, as it is when this is made (user_namespaces(7))."""

    def __init__(self) -> None:
        self.is_first = not is_user_namespace()
        self._users = _ranges("uid_map")
        self._groups = _ranges("gid_map")
        # one that has no groups to drop
        self.may_set_groups = Path("/proc/self/setgroups").read_text().strip() != "deny"

    def has_user(self, uid: int) -> bool:
        """Whether there is such a user."""
        return any(uid in found for found in self._users)

    def has_group(self, gid: int) -> bool:
        """Whether there is such a group."""
        return any(gid in found for found in self._groups)


def _ranges(name: str) -> list[range]:
    """Of the file of that name each line: first id in here, first id outside, how many."""
    lines = Path("/proc/self", name).read_text().splitlines()
    return [range(int(first), int(first) + int(count)) for first, _, count in map(str.split, lines)]
