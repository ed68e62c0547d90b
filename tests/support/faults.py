"""A reverse proxy on the loopback that misbehaves as it is told, and remembers what it was asked.

    with FaultProxy("http://127.0.0.1:5000", CutBody(after=1000, times=2)) as proxy:
        ...use docker://{proxy.host}/NAME:TAG, or f"{proxy.url}/file" ...
        assert proxy.count("GET", "/blobs/") == 3

In front of a registry (the upstream's base URL), of a directory (a Path), or of bytes by path (a dict).
Faults are values, looked at in their order; each says which requests it is for: `method`, `path` (a regular
expression searched for in path and query), `range` (one for the Range header, which is empty where there is
none), `skip` that many such requests, then apply `times` (None: always). `proxy.use(...)` replaces the faults
at any time and starts all counts anew; `proxy.release()` lets stalled answers go on.

The server has a thread and a loop of its own; everything public may be called from any thread.
"""

import asyncio
import base64
import contextlib
import re
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_SEVERAL = re.compile(r"bytes=[0-9]+-[0-9]+(,[0-9]+-[0-9]+)+")
PIECE = 16 << 10


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived; header names are case-insensitive."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Answer:
    """What the upstream said, to be sent to the client in whole unless a fault says otherwise."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    cut_after: int | None = None
    stall_after: int | None = None
    pause: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Which requests a fault is for; see the module. `Fault()` alone does nothing."""

    method: str | None = None
    path: str = ""
    range: str = ""
    skip: int = 0
    times: int | None = None

    def matches(self, request: Seen) -> bool:
        """Whether the request is one of this fault's kind, whatever its turn."""
        return (
            self.method in (None, request.method)
            and re.search(self.path, request.path) is not None
            and re.search(self.range, request.headers.get("Range", "")) is not None
        )

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        """An answer in the upstream's place; None to go on."""

    def rewrite(self, headers: "CIMultiDict[str]") -> None:
        """Changes the request on its way to the upstream."""

    def spoil(self, answer: Answer) -> None:
        """Changes the upstream's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Fault):
    """Answers by itself: `Status(status=503, headers={"Retry-After": "1"}, times=2)`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        return Answer(self.status, CIMultiDict(self.headers), self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutBody(Fault):
    """Announces the whole body, sends `after` bytes of it, and drops the connection."""

    after: int

    def spoil(self, answer: Answer) -> None:
        answer.cut_after = self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(Fault):
    """Sends `after` bytes of the body (0: not even the headers) and then nothing until `proxy.release()`."""

    after: int = 0

    def spoil(self, answer: Answer) -> None:
        answer.stall_after = self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Fault):
    """Waits `seconds` before each piece of PIECE bytes."""

    seconds: float

    def spoil(self, answer: Answer) -> None:
        answer.pause = self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange(Fault):
    """Answers 200 with everything."""

    def rewrite(self, headers: "CIMultiDict[str]") -> None:
        headers.popall("Range", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRange(Fault):
    """Sends the bytes that lie `shift` further on than those asked for, and says so in Content-Range."""

    shift: int

    def rewrite(self, headers: "CIMultiDict[str]") -> None:
        match = _RANGE.fullmatch(headers.get("Range", ""))
        if match and match[1] and match[2]:
            headers["Range"] = f"bytes={int(match[1]) + self.shift}-{int(match[2]) + self.shift}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortRange(Fault):
    """Sends at most `most` bytes of a range, properly declared: some servers cap them."""

    most: int

    def rewrite(self, headers: "CIMultiDict[str]") -> None:
        match = _RANGE.fullmatch(headers.get("Range", ""))
        if match and match[1] and match[2]:
            last = min(int(match[2]), int(match[1]) + self.most - 1)
            headers["Range"] = f"bytes={match[1]}-{last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHeaders(Fault):
    """Replaces headers of the answer; None removes one."""

    headers: Mapping[str, str | None]

    def spoil(self, answer: Answer) -> None:
        for name, value in self.headers.items():
            answer.headers.popall(name, None)
            if value is not None:
                answer.headers[name] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipByte(Fault):
    """Inverts one byte of the body, at `at` from its beginning (negative: from its end)."""

    at: int = 0

    def spoil(self, answer: Answer) -> None:
        body = bytearray(answer.body)
        if body:
            body[self.at % len(body)] ^= 0xFF
        answer.body = bytes(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(Fault):
    """Redirects to the same path at another base URL; `signed` adds a query that is new each time."""

    to: str
    status: int = 307
    signed: bool = False

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        query = f"?X-Signature={secrets.token_hex(8)}" if self.signed else ""
        return Answer(self.status, CIMultiDict({"Location": self.to + request.path + query}), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(Fault):
    """Refuses a signed URL (see Redirect) after it has been used `uses` times."""

    uses: int = 1
    status: int = 403

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        used = sum(1 for seen in proxy.requests if seen.path == request.path)
        return Answer(self.status, CIMultiDict(), b"expired") if used > self.uses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedBasic(Fault):
    """Wants HTTP Basic."""

    username: str = "user"
    password: str = "secret"

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        if _basic(request) == (self.username, self.password):
            return None
        return Answer(401, CIMultiDict({"WWW-Authenticate": 'Basic realm="faults"'}), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedBearer(Fault):
    """Wants a token from the proxy's own `/token`, which lives `seconds` and is good for `uses` requests.

    With `username` the token server wants HTTP Basic, or `identity_token` by POST. `expired` is the status
    for a token that is no longer good (ECR says 403).
    """

    username: str | None = None
    password: str = "secret"
    identity_token: str | None = None
    seconds: float = 300.0
    declared: float | None = None
    uses: int | None = None
    expired: int = 401

    def intercept(self, proxy: "FaultProxy", request: Seen) -> Answer | None:
        if request.path.startswith("/token"):
            return self._issue(proxy, request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        issued = proxy.tokens.get(token)
        if issued is not None:
            used = sum(1 for seen in proxy.requests if seen.headers.get("Authorization") == f"Bearer {token}")
            if issued > time.monotonic() and (self.uses is None or used <= self.uses):
                return None
        return self._challenge(proxy, request, 401 if issued is None else self.expired)

    def _challenge(self, proxy: "FaultProxy", request: Seen, status: int) -> Answer:
        name = re.match(r"/v2/(.+)/(?:manifests|blobs)/", request.path)
        scope = f',scope="repository:{name[1]}:pull,push"' if name else ""
        text = f'Bearer realm="{proxy.url}/token",service="faults"{scope}'
        return Answer(status, CIMultiDict({"WWW-Authenticate": text} if status == 401 else {}), b"")

    def _issue(self, proxy: "FaultProxy", request: Seen) -> Answer:
        wanted = self.identity_token is not None and f"refresh_token={self.identity_token}" in request.path
        if self.username is not None and not wanted and _basic(request) != (self.username, self.password):
            return Answer(401, CIMultiDict(), b"")
        token = secrets.token_hex(8)
        proxy.tokens[token] = time.monotonic() + self.seconds
        life = self.seconds if self.declared is None else self.declared
        return Answer(200, CIMultiDict(), f'{{"token":"{token}","expires_in":{life}}}'.encode())


def _basic(request: Seen) -> tuple[str, str] | None:
    text = request.headers.get("Authorization", "")
    if not text.startswith("Basic "):
        return None
    username, _, password = base64.b64decode(text[6:]).decode().partition(":")
    return username, password


class FaultProxy:
    """The server; a context manager. `tls` is a certificate and its key (see `make_certificate`)."""

    def __init__(
        self,
        upstream: str | Path | Mapping[str, bytes],
        *faults: Fault,
        tls: tuple[Path, Path] | None = None,
        etag: str | None = None,
    ) -> None:
        self.requests: list[Seen] = []
        self.tokens: dict[str, float] = {}
        self.etag = etag
        self._upstream = upstream
        self._faults: tuple[Fault, ...] = faults
        self._counts: dict[int, int] = {}
        self._tls = tls
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._released = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self._client: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, or https."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def use(self, *faults: Fault) -> None:
        """Replaces the faults; answers that are stalled go on, requests are counted anew."""
        self.release()
        self._faults, self._counts = faults, {}
        self.requests = []

    def release(self) -> None:
        """Lets stalled answers go on; later ones stall again."""
        self._loop.call_soon_threadsafe(self._pulse)

    def seen(self, method: str, path: str) -> list[Seen]:
        """The requests so far with that method whose path and query the regular expression is found in."""
        return [seen for seen in list(self.requests) if seen.method == method and re.search(path, seen.path)]

    def count(self, method: str, path: str) -> int:
        """How many those are."""
        return len(self.seen(method, path))

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        context = None
        if self._tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*self._tls)
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        self._released.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._client is not None:
            await self._client.close()

    def _pulse(self) -> None:
        self._released.set()
        self._loop.call_soon(self._released.clear)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # read() of the request itself has a limit
        body = await request.content.read()
        # a form's content counts as part of the path, so that faults and tests can look at it
        form = request.headers.get("Content-Type") == "application/x-www-form-urlencoded"
        path = request.raw_path + (f"?{body.decode()}" if form else "")
        seen = Seen(request.method, path, CIMultiDict(request.headers))
        self.requests.append(seen)
        faults = [fault for fault in self._faults if fault.matches(seen) and self._in_turn(fault)]
        for fault in faults:
            answer = fault.intercept(self, seen)
            if answer is not None:
                return await self._send(request, answer)
        headers = CIMultiDict(request.headers)
        for fault in faults:
            fault.rewrite(headers)
        answer = await self._ask(request, headers, body)
        for fault in faults:
            fault.spoil(answer)
        return await self._send(request, answer)

    def _in_turn(self, fault: Fault) -> bool:
        count = self._counts[id(fault)] = self._counts.get(id(fault), 0) + 1
        return count > fault.skip and (fault.times is None or count <= fault.skip + fault.times)

    async def _ask(self, request: web.BaseRequest, headers: "CIMultiDict[str]", body: bytes) -> Answer:
        if not isinstance(self._upstream, str):
            return self._serve(request, headers, self._upstream)
        assert self._client is not None
        kept = CIMultiDict(
            (name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP
        )
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._client.request(
            request.method, url, headers=kept, data=body, allow_redirects=False
        ) as answer:
            return Answer(answer.status, CIMultiDict(answer.headers), await answer.read())

    def _serve(
        self, request: web.BaseRequest, headers: "CIMultiDict[str]", upstream: Path | Mapping[str, bytes]
    ) -> Answer:
        """A file, or a span of it, as a plain web server would."""
        if isinstance(upstream, Path):
            file = upstream / request.path.lstrip("/")
            body = file.read_bytes() if file.is_file() else None
        else:
            body = upstream.get(request.path)
        if body is None:
            return Answer(404, CIMultiDict(), b"")
        more = CIMultiDict({"ETag": self.etag} if self.etag else {})
        if _SEVERAL.fullmatch(headers.get("Range", "")):
            return _several(headers["Range"], more, body)
        match = _RANGE.fullmatch(headers.get("Range", ""))
        if match is None or not (match[1] or match[2]):
            return Answer(200, more, body)
        first = int(match[1]) if match[1] else max(0, len(body) - int(match[2]))
        end = min(int(match[2]) + 1, len(body)) if match[1] and match[2] else len(body)
        if first >= end:
            return Answer(416, CIMultiDict({"Content-Range": f"bytes */{len(body)}"}), b"")
        more["Content-Range"] = f"bytes {first}-{end - 1}/{len(body)}"
        return Answer(206, more, body[first:end])

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        if answer.stall_after == 0:
            await self._released.wait()
        length = answer.headers.get("Content-Length", "")
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
        response = web.StreamResponse(status=answer.status, headers=CIMultiDict(kept))
        head = request.method == "HEAD" or answer.status in (204, 304)
        response.content_length = int(length) if head and length else len(answer.body)
        # a client that has what it wants, or ends, may leave
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            if not head:
                await self._send_body(request, response, answer)
        return response

    async def _send_body(
        self, request: web.BaseRequest, response: web.StreamResponse, answer: Answer
    ) -> None:
        body = answer.body if answer.cut_after is None else answer.body[: answer.cut_after]
        sent = 0
        while sent < len(body):
            if answer.pause:
                await asyncio.sleep(answer.pause)
            if answer.stall_after is not None and sent == answer.stall_after:
                await self._released.wait()
            size = PIECE
            if answer.stall_after is not None and sent < answer.stall_after:
                size = min(size, answer.stall_after - sent)
            await response.write(body[sent : sent + size])
            sent += len(body[sent : sent + size])
        if answer.cut_after is not None and request.transport is not None:
            request.transport.close()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A fresh self-signed certificate for 127.0.0.1 and localhost, and its key, made by openssl."""
    certificate, key = directory / "server.crt", directory / "server.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=faults"
    )
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    subprocess.run(
        [*command.split(), "-addext", names, "-out", certificate, "-keyout", key],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return certificate, key


def _several(asked: str, headers: "CIMultiDict[str]", body: bytes) -> Answer:
    """Ranges, each in a part of the answer."""
    sent = b""
    for span in asked[6:].split(","):
        first, last = map(int, span.split("-"))
        sent += b"--several\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (first, last, len(body))
        sent += body[first : last + 1] + b"\r\n"
    headers["Content-Type"] = "multipart/byteranges; boundary=several"
    return Answer(206, headers, sent + b"--several--\r\n")
