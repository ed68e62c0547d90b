"""How an exchange over HTTP fails, in our words; which failures are worth another try. Fetch loop only."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Iterator

from msgspec import Struct, field

from crfs.blobs.lazytls import aiohttp
from crfs.errors import AuthError, CrfsError, NotFoundError, TransportError

logger = logging.getLogger(__name__)

# tries at what refuses connections and never answered: more likely a wrong name than a restart
FIRST_ATTEMPTS = 3
_PERMANENT_5XX = frozenset({501, 505, 511})


class TransientError(TransportError):
    """A failure that another try may cure. `retry_after` is what the server asked for, in seconds.

    `refused`: nobody listens there.
    """

    def __init__(self, message: str, retry_after: float | None = None, refused: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.refused = refused


class TlsError(TransportError):
    """The TLS handshake failed. `certificate`: the peer does speak TLS, and is not trusted."""

    def __init__(self, message: str, certificate: bool) -> None:
        super().__init__(message)
        self.certificate = certificate


class HostStats(Struct):
    """What went to and came from one `HOST[:PORT]`: requests sent, body bytes received."""

    requests: int = 0
    bytes: int = 0


class Stats(Struct):
    """Since the start: requests sent, answers and body bytes received, tries after a failure.

    Only the fetch loop counts; any thread may look. `blobs` are bytes by what a blob is called, which is its digest
    where it has one; other bytes (manifests, tokens, redirects) belong to no blob.
    """

    requests: int = 0
    answers: int = 0
    bytes: int = 0
    retries: int = 0
    hosts: dict[str, HostStats] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)

    def sent(self, host: str) -> None:
        """A request goes out."""
        self.requests += 1
        self._host(host).requests += 1

    def received(self, host: str, size: int) -> None:
        """A piece of a body has come."""
        self.bytes += size
        self._host(host).bytes += size

    def received_of(self, blob: str, size: int) -> None:
        """Bytes, counted already, are those of a blob."""
        self.blobs[blob] = self.blobs.get(blob, 0) + size

    def _host(self, name: str) -> HostStats:
        found = self.hosts.get(name)
        if found is None:
            found = self.hosts[name] = HostStats()
        return found


class RetryPolicy(Struct, frozen=True):
    """How often and how long (seconds) one operation is tried. Bytes that arrive start the count anew."""

    attempts: int = 7
    total_seconds: float = 60.0
    base_delay: float = 0.1
    max_delay: float = 10.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th failure (from 1): exponential, with jitter."""
        full: float = min(self.base_delay * 2.0 ** (failures - 1), self.max_delay)
        return full * random.uniform(0.5, 1.0)


class Retries(Struct):
    """The failures of one operation so far: `wait` after each, `progressed` when bytes arrived."""

    policy: RetryPolicy
    stats: Stats
    failures: int = 0
    started: float = field(default_factory=time.monotonic)

    def progressed(self) -> None:
        """Bytes arrived: the operation is as good as new."""
        self.failures = 0
        self.started = time.monotonic()

    async def wait(self, error: TransientError) -> None:
        """Sleeps until the next try is due; raises TransportError from `error` when there is none."""
        self.failures += 1
        attempts = self.policy.attempts
        if error.refused and not self.stats.answers:
            attempts = min(attempts, FIRST_ATTEMPTS)
        if self.failures >= attempts:
            raise TransportError(f"{error} (tried {self.failures} times)") from error
        delay = max(self.policy.delay(self.failures), error.retry_after or 0.0)
        if delay > self.policy.total_seconds - (time.monotonic() - self.started):
            asked = f", which asks to wait {error.retry_after:.0f} s" if error.retry_after else ""
            raise TransportError(f"{error}{asked} (tried {self.failures} times)") from error
        logger.info("%s; trying again in %.1f s", error, delay)
        self.stats.retries += 1
        await asyncio.sleep(delay)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """aiohttp's and asyncio's failures as TransientError, TlsError or TransportError, naming `what`."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = one_line(error.certificate_error)
        raise TlsError(f"{what}: the certificate is not trusted: {reason}", certificate=True) from error
    except aiohttp.ClientSSLError as error:
        raise TlsError(f"{what}: no TLS: {one_line(error)}", certificate=False) from error
    except TimeoutError as error:
        raise TransientError(f"{what}: timed out") from error
    except aiohttp.ClientPayloadError as error:
        raise TransientError(f"{what}: the answer was cut short") from error
    except (aiohttp.ClientConnectionError, OSError) as error:
        raise _connection_error(what, getattr(error, "os_error", None) or error) from error
    except (aiohttp.ClientError, ValueError) as error:
        raise TransportError(f"{what}: {one_line(error)}") from error


def status_error(status: int, message: str, retry_after: str | None = None) -> CrfsError:
    """The error that an unwelcome status stands for. `retry_after` is the header of that name."""
    if status in (404, 410):
        return NotFoundError(message)
    if status in (401, 403):
        return AuthError(message)
    if status in (408, 425, 429) or (status >= 500 and status not in _PERMANENT_5XX):
        return TransientError(message, parse_retry_after(retry_after))
    return TransportError(message)


def parse_retry_after(text: str | None, now: float | None = None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3) in seconds from `now` (Unix time); None when missing or malformed."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    from email.utils import parsedate_to_datetime  # rarely needed

    try:
        due = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, due - (time.time() if now is None else now))


def one_line(error: BaseException) -> str:
    """The innermost words of an error, on one line."""
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, ConnectionError) and inner.errno:
        return os.strerror(inner.errno)  # asyncio puts its own words there
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(str(text).split())


def _connection_error(what: str, error: BaseException) -> TransportError:
    """For a connection that was not made, or broke; `error` is the system's."""
    message = f"{what}: {one_line(error)}"
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return TransportError(message)
    return TransientError(message, refused=isinstance(error, ConnectionRefusedError))
