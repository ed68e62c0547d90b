"""A registry's challenges answered: HTTP Basic, and Bearer tokens from a token server. Fetch loop only.

Nothing is asked beforehand: the first request goes out bare, and the 401 says what the registry wants
(distribution-spec; Docker's token authentication and its OAuth2 variant for identity tokens).
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode, urlsplit

import msgspec

from crfs.blobs.basic import BasicAuthorizer, basic_header
from crfs.blobs.credentials import Credentials, CredentialStore
from crfs.blobs.http import Http
from crfs.blobs.tls import is_loopback
from crfs.errors import AuthError, NotFoundError, TransportError

logger = logging.getLogger(__name__)

CLIENT_ID = "crfs"
TOKEN_MAX = 1 << 20
# what a token is worth when the server doesn't say (Docker's token specification)
DEFAULT_SECONDS = 60.0
# a token is given up this share of its life before it ends, so that it doesn't end on the way
MARGIN = 0.1

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf'\s*,?\s*(?:(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))|(?P<scheme>{_TOKEN}))'
)


class Challenge(msgspec.Struct, frozen=True):
    """One challenge of a WWW-Authenticate header; `scheme` and the names of `parameters` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class Token(msgspec.Struct, frozen=True):
    """A bearer token; `expires` is on the monotonic clock."""

    value: str
    expires: float

    def __repr__(self) -> str:
        # secrets never show
        return f"Token(expires={self.expires!r})"


class _TokenJson(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """All challenges of some WWW-Authenticate headers (RFC 9110, 11.6.1), in order; junk ends a header."""
    return [challenge for header in headers for challenge in _iter_challenges(header)]


def _iter_challenges(header: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    position = 0
    while match := _PART.match(header, position):
        position = match.end()
        if match["scheme"] is not None:
            if scheme is not None:
                yield Challenge(scheme, parameters)
            scheme, parameters = match["scheme"].lower(), {}
        elif scheme is not None:
            quoted = match["quoted"]
            value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[match["name"].lower()] = value
    if scheme is not None:
        yield Challenge(scheme, parameters)


class Account(msgspec.Struct, frozen=True):
    """For whom an authorizer speaks: the registry and repository that credentials are filed under."""

    host: str
    repository: str
    actions: str = "pull"

    @property
    def scope(self) -> str:
        """The scope asked for when the registry names none."""
        return f"repository:{self.repository}:{self.actions}"


class RegistryAuthorizer:
    """The Authorization header for one repository of one registry (see `crfs.blobs.http.Authorizer`).

    `insecure` allows a token server on plain http. Tokens live until they expire or are refused; when several
    requests are refused at once, one of them fetches the new token and the others take it.
    """

    def __init__(
        self, account: Account, http: Http, store: CredentialStore, *, verify: bool, insecure: bool
    ) -> None:
        self._account = account
        self._http = http
        self._store = store
        self._verify = verify
        self._insecure = insecure
        self._lock = asyncio.Lock()
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._basic: str | None = None
        self._token: Token | None = None

    async def authorization(self) -> str | None:
        """See `Authorizer.authorization`: a token about to expire is replaced first."""
        if self._basic is not None or self._token is None:
            return self._basic
        if self._token.expires <= time.monotonic():
            async with self._lock:
                if self._token is not None and self._token.expires <= time.monotonic():
                    await self._fetch_token()
        return self._header()

    async def renew(self, status: int, challenges: Sequence[str], sent: str | None) -> bool:
        """See `Authorizer.renew`. A 403 is worth one new token: some registries say it of an expired one."""
        async with self._lock:
            if self._header() not in (None, sent):
                return True  # another request has just renewed it
            if status == 401:
                self._challenge = choose_challenge(parse_challenges(challenges)) or self._challenge
            if self._challenge is None or (status == 403 and sent is None):
                return False
            if self._challenge.scheme == "basic":
                return await self._use_basic(sent)
            await self._fetch_token()
            return self._header() != sent

    def explain(self) -> str:
        """Whether there were credentials, and whose, for the message of a refusal."""
        if self._credentials is None:
            return f"no credentials for {self._account.host} were found"
        return f"with the credentials from {self._credentials.origin}"

    def _header(self) -> str | None:
        return self._basic or (f"Bearer {self._token.value}" if self._token else None)

    async def _use_basic(self, sent: str | None) -> bool:
        self._credentials = await self._store.find(self._account.host, self._account.repository)
        if self._credentials is None or self._credentials.identity_token:
            return False
        self._basic = basic_header(self._credentials.username, self._credentials.password)
        return self._basic != sent

    async def _fetch_token(self) -> None:
        """Replaces the token; AuthError when the token server refuses."""
        assert self._challenge is not None
        self._credentials = await self._store.find(self._account.host, self._account.repository)
        realm = self._checked_realm(self._challenge.parameters.get("realm", ""))
        try:
            self._token = await self._http.retrying(lambda: self._request_token(realm))
        except (AuthError, NotFoundError) as error:
            raise AuthError(f"{self._account.host} gives no token, {self.explain()}: {error}") from error

    def _checked_realm(self, realm: str) -> str:
        """A realm that credentials may be sent to: https, or what the user declared insecure."""
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TransportError(f"{self._account.host}: its token server {realm!r} is no URL")
        plain = parts.scheme == "http"
        if plain and self._credentials and not self._insecure and not is_loopback(parts.hostname):
            raise AuthError(f"{self._account.host}: won't send credentials to {realm!r} in the clear")
        return realm

    async def _request_token(self, realm: str) -> Token:
        """One exchange: POST with an identity token, else GET, with HTTP Basic if there are credentials."""
        query = self._query()
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            body = urlencode(query | form | {"client_id": CLIENT_ID}, doseq=True).encode()
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            opened = self._http.open("POST", realm, headers=kind, body=body, verify=self._verify, stay=True)
        else:
            url = realm + ("&" if "?" in realm else "?") + urlencode(query, doseq=True)
            basic = BasicAuthorizer(credentials.username, credentials.password) if credentials else None
            opened = self._http.open("GET", url, authorizer=basic, verify=self._verify)
        async with opened as response:
            await response.check(200)
            return parse_token(await response.read(TOKEN_MAX), response.what)

    def _query(self) -> dict[str, str | list[str]]:
        """What a token is asked for: service, scopes and account, those that are known."""
        assert self._challenge is not None
        parameters = self._challenge.parameters
        query: dict[str, str | list[str]] = {
            "scope": (parameters.get("scope") or self._account.scope).split()
        }
        if service := parameters.get("service"):
            query["service"] = service
        if self._credentials is not None and self._credentials.username:
            query["account"] = self._credentials.username
        return query


def choose_challenge(challenges: Sequence[Challenge]) -> Challenge | None:
    """The first Bearer challenge with a realm, else a Basic one; None when there is neither."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            return challenge
    return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)


def parse_token(body: bytes, what: str) -> Token:
    """A token server's answer (`token` or `access_token`, `expires_in` seconds from now). TransportError."""
    try:
        found = msgspec.json.decode(body, type=_TokenJson)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"{what}: the token server's answer is malformed") from error
    value = found.token or found.access_token
    if not value or not value.isprintable() or not value.isascii():
        raise TransportError(f"{what}: the token server's answer holds no token")
    seconds = found.expires_in if found.expires_in and found.expires_in > 0 else DEFAULT_SECONDS
    return Token(value, time.monotonic() + seconds * (1 - MARGIN))
