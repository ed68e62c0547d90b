"""What is asked of an overlay's upper directory. By itself, since the kernel's overlayfs is asked the same."""

from msgspec import Struct

from crfs.formats.overridestat import XattrPermissions


class UpperSpec(Struct, frozen=True):
    """Where changes go.

    `volatile`: nothing is ever synced. `permissions`: where owner and mode are kept. `squashed`: all owners look
    the same, so that one that can't be given is not missed. Without `redirects` directories that lower trees have a
    part in can't be renamed. `fresh`: the upper directory was just made, and its root is to be as that below.
    """

    upperdir: bytes
    workdir: bytes
    userxattr: bool = False
    volatile: bool = False
    permissions: XattrPermissions = XattrPermissions.OFF
    squashed: bool = False
    redirects: bool = True
    fresh: bool = False
