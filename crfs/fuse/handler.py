"""The wrapper of every FUSE handler: whatever it raises becomes an errno, so that none ends the main loop."""

import errno
import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import llfuse

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)


def handler(method: Callable[P, R]) -> Callable[P, R]:
    """FUSEError passes, an OSError becomes its errno, anything else EIO and a line in the log."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except llfuse.FUSEError:
            raise
        except OSError as error:
            raise llfuse.FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            log.exception("%s failed", method.__name__)
            raise llfuse.FUSEError(errno.EIO) from error

    return guarded
