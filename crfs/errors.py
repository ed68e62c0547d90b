"""Every failure that crfs reports in its own words. Imports nothing of ours; raised from any thread.

POSIX outcomes below fuse/ are `OSError(errno)`; these are for what the image, the registry or the user got
wrong. The text is one line and names the path, URL or digest it is about; it never holds a secret.
"""


class CrfsError(Exception):
    """Base of all of ours: `str(error)` is one line fit for a user."""


class UsageError(CrfsError):
    """What was asked for can't be understood: a malformed source, reference, option or configuration file."""


class FormatError(CrfsError):
    """Bytes that do not follow their format: a footer, TOC, manifest, tar or compressed member."""


class DigestMismatch(CrfsError):
    """Bytes that are not the ones their digest names."""


class NotFoundError(CrfsError):
    """The registry, server or directory answered, and has no such image, manifest or blob."""


class AuthError(CrfsError):
    """The registry refused: no credentials, wrong ones, or no permission."""


class TransportError(CrfsError):
    """No usable answer: no route, refused, timed out, cut short, or an error that outlasted the retries."""


class UnsupportedError(CrfsError):
    """Well-formed, but not something that crfs can do (an unknown media type, a platform the index lacks)."""


class NotLazyError(UnsupportedError):
    """A layer holds what no table of contents can say: it can only be read whole."""


class MountError(CrfsError):
    """The mount can't be made, or can't be taken down: mountpoint, privileges, /dev/fuse."""


class EngineRefused(MountError):
    """The engine that was chosen can't carry it after all; nothing is mounted, and another may be tried."""
