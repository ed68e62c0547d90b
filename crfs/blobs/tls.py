"""Which TLS settings a host is asked with: containers-certs.d(5) and Docker's certs.d. Fetch loop only.

No SSL context is built before a host is asked over HTTPS. `False` means aiohttp's shared context, which
verifies nothing; its other one has no certificates (crfs.blobs.lazytls).
"""

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crfs.errors import UsageError

if TYPE_CHECKING:
    import ssl

SYSTEM_DIRECTORIES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses; `host` without a port, IPv6 with or without brackets."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def certs_directories(environ: dict[str, str] | None = None) -> tuple[Path, ...]:
    """Where certificates by `HOST[:PORT]` are looked for, the user's directory first."""
    environ = dict(os.environ) if environ is None else environ
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
    return (Path(config, "containers/certs.d"), *(Path(path) for path in SYSTEM_DIRECTORIES))


class TlsSettings:
    """Remembers one SSL context per host that has certificates of its own."""

    def __init__(self, directories: Sequence[Path] | None = None) -> None:
        self._directories = certs_directories() if directories is None else tuple(directories)
        self._known: dict[tuple[str, bool], ssl.SSLContext | bool] = {}
        self._verifying: ssl.SSLContext | None = None

    def context(self, host: str, verify: bool) -> "ssl.SSLContext | bool":
        """What aiohttp's `ssl=` wants for `HOST[:PORT]`. UsageError for certificates that can't be loaded."""
        key = (host, verify)
        if key not in self._known:
            found = [path for path in self._directories if (path / host).is_dir()]
            self._known[key] = _load_context(found[0] / host, verify) if found else self._common(verify)
        return self._known[key]

    def _common(self, verify: bool) -> "ssl.SSLContext | bool":
        """For hosts without certificates of their own; the machine's are read once."""
        if not verify:
            return False
        import ssl  # loaded by aiohttp anyway; named here to keep this module's import light

        if self._verifying is None:
            self._verifying = ssl.create_default_context()
        return self._verifying


def _load_context(directory: Path, verify: bool) -> "ssl.SSLContext | bool":
    """The system's CAs, the directory's `*.crt`, its client certificates (`NAME.cert` with `NAME.key`)."""
    authorities = sorted(directory.glob("*.crt"))
    clients = sorted(directory.glob("*.cert"))
    import ssl

    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        for path in authorities:
            context.load_verify_locations(cafile=path)
        for path in clients:
            context.load_cert_chain(path, path.with_suffix(".key"))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"the certificates in {str(directory)!r} can't be loaded: {error}") from error
    return context
