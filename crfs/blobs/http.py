"""HTTP as the blobs need it: one aiohttp session, bounded waits, redirects followed by hand.

Everything here runs on the fetch loop. `Http.open` is one exchange without retries; who can repeat its work
does so with `Http.retries`. Authorization goes to the origin (scheme, host, port) that was asked, and to
no other.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeVar

import msgspec
from yarl import URL

from crfs import __version__
from crfs.blobs.lazytls import aiohttp
from crfs.blobs.tls import TlsSettings, is_loopback
from crfs.blobs.transport import Retries, RetryPolicy, Stats, TransientError, status_error, translated
from crfs.errors import TransportError
from crfs.formats.reference import mask_url

logger = logging.getLogger(__name__)

USER_AGENT = f"crfs/{__version__}"
MAX_REDIRECTS = 10
ERROR_BODY_MAX = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

# bytes, or what opens a fresh file for each time that the bytes are sent
Body = bytes | Callable[[], BinaryIO]
_T = TypeVar("_T")


class Limits(msgspec.Struct, frozen=True):
    """Bounds of connections and waits, in seconds and in bytes per second."""

    connections: int = 32
    per_host: int = 16
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    pool_seconds: float = 60.0
    keepalive_seconds: float = 60.0
    min_rate: int = 4096

    def span_seconds(self, size: int) -> float:
        """How long one attempt at `size` bytes may take in all, even while bytes keep trickling in."""
        return self.read_seconds + size / self.min_rate


class Request(msgspec.Struct, frozen=True):
    """What is sent to each place that an exchange leads to; only there, Authorization is added."""

    method: str
    headers: Mapping[str, str]
    body: Body | None
    verify: bool
    read_seconds: float


class Authorizer(Protocol):
    """Knows the Authorization header of one origin."""

    async def authorization(self) -> str | None:
        """The header to send; None to send none."""
        ...

    async def renew(self, status: int, challenges: Sequence[str], sent: str | None) -> bool:
        """After a 401 or 403 to `sent`: True when `authorization` now answers something else.

        `challenges` are the WWW-Authenticate headers. AuthError where there is a reason to tell.
        """
        ...


class Response:
    """An answer whose body has not been read yet. Valid inside the `Http.open` that gave it."""

    __slots__ = ("_host", "_limits", "_raw", "_stats", "headers", "moved", "status", "url", "what")

    def __init__(self, raw: aiohttp.ClientResponse, method: str, moved: bool, http: "Http") -> None:
        self._raw = raw
        self._limits = http.limits
        self._stats = http.stats
        self._host = authority(raw.url)
        self.what: str = describe(method, raw.url)  # method and masked URL, for messages
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers  # names are case-insensitive
        self.url: str = str(raw.url)
        self.moved: bool = moved  # another origin answers than the one that was asked

    @property
    def length(self) -> int | None:
        """Content-Length in bytes; None when there is none."""
        return parse_length(self.headers.get("Content-Length"))

    async def iter_body(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, never inflated. TransientError when it is cut short or stalls."""
        while True:
            with translated(self.what):
                piece = await self._raw.content.readany()
            if not piece:
                return
            self._stats.received(self._host, len(piece))
            yield piece

    async def read(self, limit: int) -> bytes:
        """The whole body; TransportError when it is longer than `limit` bytes, or only trickles in."""
        body = bytearray()
        with translated(self.what):
            async with asyncio.timeout(self._limits.span_seconds(limit)):
                async with contextlib.aclosing(self.iter_body()) as pieces:
                    async for piece in pieces:
                        body += piece
                        if len(body) > limit:
                            raise TransportError(f"{self.what}: the answer is longer than {limit} bytes")
        return bytes(body)

    async def check(self, *expected: int) -> None:
        """Returns when the status is one of `expected`; raises what another status stands for."""
        if self.status not in expected:
            message = f"{self.what}: {await self._reason()}"
            raise status_error(self.status, message, self.headers.get("Retry-After"))

    async def _reason(self) -> str:
        """Status, reason phrase, and what the registry's error document says, on one line."""
        text = f"{self.status} {self._raw.reason or ''}".strip()
        try:
            return text + document_reason(await self.read(ERROR_BODY_MAX))
        except TransportError:
            return text


class Http:
    """One session for all hosts. Nothing is opened before the first request; `close` on the same loop."""

    def __init__(
        self, limits: Limits | None = None, retry: RetryPolicy | None = None, tls: TlsSettings | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.retry = retry or RetryPolicy()
        self.stats = Stats()
        # hosts that do not give several ranges in one answer
        self.one_range: set[str] = set()
        self._tls = tls or TlsSettings()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes every connection; requests under way fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def retries(self, policy: RetryPolicy | None = None) -> Retries:
        """A fresh count of failures for one operation; by default under this session's policy."""
        return Retries(policy or self.retry, self.stats)

    async def retrying(self, attempt: Callable[[], Awaitable[_T]], policy: RetryPolicy | None = None) -> _T:
        """What `attempt` returns, tried again after each TransientError until the policy gives up."""
        retries = self.retries(policy)
        while True:
            try:
                return await attempt()
            except TransientError as error:
                await retries.wait(error)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorizer: Authorizer | None = None,
        verify: bool = True,
        body: Body | None = None,
        downgrade: bool = False,
        stay: bool = False,
        read_seconds: float | None = None,
    ) -> AsyncIterator[Response]:
        """One exchange: redirects followed, a 401 or 403 once put to `authorizer`; any status comes back.

        `verify` False trusts any certificate. `downgrade` allows a redirect from https to http, right where
        bytes are verified by digest; `stay` refuses redirects to another origin. `read_seconds` is how long
        the server may be silent, where that is not `Limits.read_seconds`.
        TransientError, TlsError, TransportError; AuthError from the authorizer.
        """
        request = Request(method, headers or {}, body, verify, read_seconds or self.limits.read_seconds)
        exchange = _Exchange(self, request, downgrade, stay)
        raw, moved = await exchange.run(target_url(url), authorizer)
        try:
            yield Response(raw, method, moved, self)
        finally:
            raw.release()  # drops the connection where the body was not read to its end

    async def send(self, request: Request, url: URL, authorization: str | None) -> aiohttp.ClientResponse:
        """One request, one answer, nothing followed; the caller releases it."""
        self.stats.sent(authority(url))
        headers = dict(request.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        proxy = find_proxy(url)
        secure = url.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        with translated(describe(request.method, url)):
            raw = await self._open_session().request(
                request.method,
                url,
                headers=headers,
                data=request.body() if callable(request.body) else request.body,
                allow_redirects=False,
                ssl=self._tls.context(authority(url), request.verify) if secure else True,
                proxy=proxy,
                timeout=self._timeout(request.read_seconds),
            )
        self.stats.answers += 1
        return raw

    def _timeout(self, read_seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None,
            connect=self.limits.pool_seconds,
            sock_connect=self.limits.connect_seconds,
            sock_read=read_seconds,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            limits = self.limits
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=limits.connections,
                    limit_per_host=limits.per_host,
                    keepalive_timeout=limits.keepalive_seconds,
                ),
                timeout=self._timeout(limits.read_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                max_field_size=32 << 10,  # presigned URLs in Location can be long
            )
        return self._session


class _Exchange(msgspec.Struct):
    """One `Http.open` under way."""

    http: Http
    request: Request
    downgrade: bool
    stay: bool

    async def run(self, start: URL, authorizer: Authorizer | None) -> tuple[aiohttp.ClientResponse, bool]:
        """The first answer that is no redirect and no curable refusal; whether its origin is another."""
        url = start
        curable = authorizer is not None
        for _ in range(MAX_REDIRECTS + 2):
            moved = url.origin() != start.origin()
            sent = await authorizer.authorization() if authorizer and not moved else None
            raw = await self.http.send(self.request, url, sent)
            if raw.status in _REDIRECTS and "Location" in raw.headers:
                await _drain(raw)
                url = self._redirected(url, raw)
            elif raw.status in (401, 403) and authorizer and curable and not moved:
                curable = False
                if not await self._renewed(raw, authorizer, sent):
                    return raw, moved
                await _drain(raw)
            else:
                return raw, moved
        raise TransportError(
            f"{describe(self.request.method, start)}: redirected more than {MAX_REDIRECTS} times"
        )

    async def _renewed(self, raw: aiohttp.ClientResponse, authorizer: Authorizer, sent: str | None) -> bool:
        try:
            return await authorizer.renew(raw.status, raw.headers.getall("WWW-Authenticate", ()), sent)
        except BaseException:
            raw.release()
            raise

    def _redirected(self, url: URL, raw: aiohttp.ClientResponse) -> URL:
        """Where the redirect leads; TransportError for places it must not lead to."""
        what = describe(self.request.method, url)
        try:
            target = url.join(target_url(raw.headers["Location"]))
        except ValueError as error:
            raise TransportError(f"{what}: redirected to something that is no URL") from error
        shown = mask_url(str(target))
        if target.scheme not in ("http", "https") or not target.host:
            raise TransportError(f"{what}: redirected to {shown!r}, which is no http or https URL")
        if self.stay and target.origin() != url.origin():
            raise TransportError(f"{what}: refusing the redirect to {shown!r}, which is another server")
        if (url.scheme, target.scheme) == ("https", "http") and not self.downgrade:
            raise TransportError(f"{what}: refusing the redirect from https to {shown!r}")
        if self.request.method not in ("GET", "HEAD") and raw.status not in (307, 308):
            raise TransportError(f"{what}: a redirect ({raw.status}) to {shown!r} would lose the body")
        return target.with_user(None)


def target_url(url: str) -> URL:
    """A URL as it is to be sent: what is clean is left alone, for signatures cover the very characters."""
    clean = url.isascii() and url.isprintable() and " " not in url
    return URL(url, encoded=clean)


def authority(url: URL) -> str:
    """`HOST[:PORT]`, the port left out where it is the scheme's own; IPv6 in brackets."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.is_default_port() else f"{host}:{url.port}"


def describe(method: str, url: URL) -> str:
    """`METHOD URL` for messages, userinfo and query masked."""
    return f"{method} {mask_url(str(url))}"


def find_proxy(url: URL) -> URL | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for `url`; None for the loopback."""
    if is_loopback(url.host or ""):
        return None
    from urllib import request  # aiohttp has it loaded

    proxies = request.getproxies_environment()
    proxy = proxies.get(url.scheme)
    if not proxy or request.proxy_bypass_environment(authority(url), proxies):  # type: ignore[attr-defined]
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


def parse_length(text: str | None) -> int | None:
    """A decimal number of bytes; None for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


class _ErrorJson(msgspec.Struct):
    code: str = ""
    message: str | None = None


class _ErrorsJson(msgspec.Struct):
    errors: list[_ErrorJson] = []


def document_reason(body: bytes) -> str:
    """` (CODE: message)` of a registry's error document (distribution-spec, error codes), else nothing."""
    try:
        errors = msgspec.json.decode(body, type=_ErrorsJson).errors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    parts = [" ".join(part.split()) for part in (errors[0].code, errors[0].message) if part] if errors else []
    text = "".join(char for char in ": ".join(parts)[:200] if char.isprintable())
    return f" ({text})" if text else ""


async def _drain(raw: aiohttp.ClientResponse) -> None:
    """Ends an answer that says nothing of use; its connection is kept where little is left of it."""
    try:
        left = parse_length(raw.headers.get("Content-Length"))
        if left is not None and left <= ERROR_BODY_MAX:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                await raw.read()
    finally:
        raw.release()
