"""Who runs in a container: what `USER[:GROUP]` means by the image's own passwd(5) and group(5)."""

from collections.abc import Iterable

from msgspec import Struct

from crfs.errors import NotFoundError
from crfs.integrations.runtime.rootfs import Rootfs

# what a 32-bit id may be: -1 means "leave it" to chown(2)
_ID_MAX = 2**32 - 2


class Account(Struct, frozen=True):
    """Ids in the container, and the home directory that passwd(5) names."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


def find_account(rootfs: Rootfs, wanted: str) -> Account:
    """The account of `USER`, `UID`, or one of them with `:GROUP` or `:GID`; nothing at all is root.

    Supplementary groups are those of the user, unless a group is named. NotFoundError for a name that is not there.
    """
    user, _, group = wanted.partition(":")
    # name:password:uid:gid:gecos:home:shell, and name:password:gid:members
    users = _fields(rootfs.read_lines("/etc/passwd"), 7, (2, 3))
    groups = _fields(rootfs.read_lines("/etc/group"), 4, (2,))
    user = user or "0"
    known = next((line for line in users if line[0] == user), None) or next(
        (line for line in users if _id(user) == int(line[2])), None
    )
    uid = int(known[2]) if known else _id(user)
    if uid is None:
        raise NotFoundError(f"the image has no user {user!r}: it is not in its /etc/passwd")
    home = (known[5] if known else "") or "/"
    if group:
        return Account(uid, _group_id(groups, group), home=home)
    gid = int(known[3]) if known else 0
    name = known[0] if known else ""
    more = {int(line[2]) for line in groups if name and name in line[3].split(",")}
    return Account(uid, gid, tuple(sorted(more - {gid})), home)


def _group_id(groups: Iterable[list[str]], group: str) -> int:
    known = next((int(line[2]) for line in groups if line[0] == group), None)
    gid = _id(group) if known is None else known
    if gid is None:
        raise NotFoundError(f"the image has no group {group!r}: it is not in its /etc/group")
    return gid


def _fields(lines: Iterable[str], count: int, numbers: tuple[int, ...]) -> list[list[str]]:
    """Well-formed lines, as programs read them: all others are passed over."""
    split = [line.strip().split(":") for line in lines]
    whole = [fields + [""] * (count - len(fields)) for fields in split if len(fields) >= count - 1]
    return [fields for fields in whole if all(_id(fields[number]) is not None for number in numbers)]


def _id(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
    return number if number is not None and number <= _ID_MAX else None
