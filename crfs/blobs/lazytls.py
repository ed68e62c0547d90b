"""aiohttp, imported without the certificates of the machine, which it loads while it is imported.

Reading them takes a third of the import's time and megabytes of memory, for registries that are never asked
over HTTPS. aiohttp's shared context is left with none, so that it trusts nobody; crfs.blobs.tls makes the
context that is used. Imported by whoever needs aiohttp, first of all.
"""

import contextlib
import os
from collections.abc import Iterator

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextlib.contextmanager
def _without_certificates() -> Iterator[None]:
    """OpenSSL is told to look in places where there is nothing (SSL_CTX_set_default_verify_paths(3))."""
    saved = {name: os.environ.get(name) for name in _PLACES}
    os.environ.update(dict.fromkeys(_PLACES, os.devnull))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _without_certificates():
    import aiohttp

__all__ = ["aiohttp"]
