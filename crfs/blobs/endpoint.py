"""One registry's HTTP API for one repository (distribution-spec). Fetch loop only.

Which scheme the registry speaks is found out by the first request. https with a trusted certificate is
wanted, unless the endpoint is insecure (registries.conf, `--tls-verify=false`): then any certificate will do,
and plain http where https fails, as for podman. On the loopback, where nothing leaves the machine, plain http
will do also by default; a certificate that is there is still verified. `--tls-verify=true` rules that out.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from crfs.blobs.auth import Account, RegistryAuthorizer
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.http import Body, Http, Response
from crfs.blobs.registriesconf import Endpoint
from crfs.blobs.tls import is_loopback
from crfs.blobs.transport import TlsError, TransientError
from crfs.errors import AuthError, TransportError

# the host that serves docker.io's API
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


class Access(Struct, frozen=True):
    """What every endpoint is reached with. `tls_verify` None leaves it to registries.conf."""

    http: Http
    credentials: CredentialStore
    tls_verify: bool | None = None


class _Request(Struct, frozen=True):
    method: str
    path: str
    headers: Mapping[str, str] | None
    body: Body | None
    downgrade: bool
    read_seconds: float | None


class RegistryEndpoint:
    """Asks one repository at one place; `actions` is what its tokens are for."""

    def __init__(self, endpoint: Endpoint, access: Access, actions: str = "pull") -> None:
        insecure = endpoint.insecure if access.tls_verify is None else not access.tls_verify
        api_host = _API_HOSTS.get(endpoint.host, endpoint.host)
        loopback = is_loopback(urlsplit(f"//{api_host}").hostname or "") and access.tls_verify is None
        self._endpoint = endpoint
        self._http = access.http
        self._insecure = insecure
        self._bases = [f"https://{api_host}"]
        if insecure or loopback:
            self._bases.append(f"http://{api_host}")
        account = Account(endpoint.host, endpoint.repository, actions)
        self._authorizer = RegistryAuthorizer(
            account, access.http, access.credentials, verify=not insecure, insecure=insecure
        )

    @property
    def name(self) -> str:
        """`HOST/REPOSITORY`, for messages."""
        return f"{self._endpoint.host}/{self._endpoint.repository}"

    @property
    def verify(self) -> bool:
        """Whether certificates are verified, here and where redirects lead."""
        return not self._insecure

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        downgrade: bool = False,
        read_seconds: float | None = None,
    ) -> AsyncIterator[Response]:
        """One exchange with `/v2/REPOSITORY/PATH`, or with the absolute URL that the registry gave as `path`.

        No retries; any status comes back. See `Http.open` for the rest.
        """
        request = _Request(method, path, headers, body, downgrade, read_seconds)
        async with contextlib.AsyncExitStack() as stack:
            if "://" in path:
                response = await stack.enter_async_context(self._send(request, path))
            else:
                response = await self._enter(stack, request)
            yield response

    async def check(self, response: Response, *expected: int) -> None:
        """`Response.check`, and an AuthError says whether there were credentials."""
        try:
            await response.check(*expected)
        except AuthError as error:
            raise AuthError(f"{error}; {self._authorizer.explain()}") from error

    def resolve(self, response: Response, location: str) -> str:
        """The absolute URL of a Location header."""
        return urljoin(response.url, location)

    async def _enter(self, stack: contextlib.AsyncExitStack, request: _Request) -> Response:
        """The answer at the first base that gives one, which from then on is the only one."""
        bases = self._bases
        for base in bases:
            try:
                opened = self._send(request, base + self._target(request.path))
                response = await stack.enter_async_context(opened)
            except TransportError as error:
                if base == bases[-1] or not self._may_fall_back(error):
                    raise
            else:
                self._bases = [base]
                return response
        raise AssertionError("there is always a base")

    def _send(self, request: _Request, url: str) -> contextlib.AbstractAsyncContextManager[Response]:
        return self._http.open(
            request.method,
            url,
            headers=request.headers,
            body=request.body,
            authorizer=self._authorizer if any(_same_origin(url, base) for base in self._bases) else None,
            verify=self.verify,
            downgrade=request.downgrade,
            read_seconds=request.read_seconds,
        )

    def _may_fall_back(self, error: TransportError) -> bool:
        """Whether plain http may be tried after https failed like this."""
        refused = isinstance(error, TlsError) and not error.certificate
        return self._insecure or refused or isinstance(error, TransientError)

    def _target(self, path: str) -> str:
        """The path of the API, with `?ns=` where this is a mirror of another host."""
        target = f"/v2/{quote(self._endpoint.repository)}/{path}"
        namespace = self._endpoint.namespace
        if namespace is None:
            return target
        return f"{target}{'&' if '?' in path else '?'}ns={quote(namespace, safe='')}"


def _same_origin(left: str, right: str) -> bool:
    return urlsplit(left)[:2] == urlsplit(right)[:2]
