"""Who wants bytes, in the order in which they are served. Values only."""

import enum


class Need(enum.IntEnum):
    """A reader that waits, one that is likely to come, or the completion of the image."""

    READER = 0
    LIKELY = 1
    REST = 2
