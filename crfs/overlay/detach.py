"""A directory comes away from the lower trees: it can be moved without a redirect, which not every kernel follows.

The kernel's overlayfs follows none in an upper directory with `user.*` marks. The caller has copied up all that the
directory shows, and holds the overlay's lock. A crash leaves the tree as it was, whatever is marked already.
"""

import stat
from collections.abc import Iterator

from crfs.overlay.lookup import Lookup
from crfs.overlay.node import Node
from crfs.overlay.upper import Upper


def detach(directory: Node, lookup: Lookup, upper: Upper) -> None:
    """Nothing of the lower trees shows through a directory any more, nor through those below it."""
    below = list(_merged(directory, lookup))
    for each in below:
        path = upper.path(each)
        # numbers came from what it was merged with
        if not upper.set_number_mark(path, lookup.number_mark(each)):
            lookup.table.remember(each)
        upper.mark_impure(path)
    upper.mark(upper.path(directory), b"opaque", b"y")
    for each in below:
        each.lowers, each.redirect, each.impure = [], None, True
        upper.know_directory(each)
        # the kernel would list them
        upper.remove_whiteouts(each)


def _merged(directory: Node, lookup: Lookup) -> Iterator[Node]:
    """The directories that depend on the lower trees by way of a directory, itself the first."""
    pending = [directory]
    while pending:
        found = pending.pop()
        yield found
        for name, _, mode, _ in lookup.list(found):
            child = lookup.find(found, name) if stat.S_ISDIR(mode) else None
            if child is not None and child.lowers and child.redirect is None:
                pending.append(child)
