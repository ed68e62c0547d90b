"""Who we are to a registry: containers-auth.json(5), Docker's config.json, credential helpers. Fetch loop.

Files are read again for each question: a long-lived mount sees a later `podman login`.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping

import msgspec

from crfs.errors import CrfsError, UsageError

logger = logging.getLogger(__name__)

HELPER_SECONDS = 30.0
HELPER_OUTPUT_MAX = 64 << 10
# the key under which `docker login` files what podman calls docker.io
DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# the user name under which helpers hand out identity tokens
_TOKEN_USER = "<token>"


class Credentials(msgspec.Struct, frozen=True):
    """A user name with a password, or an identity token (OAuth2 refresh token); `origin` is where it was."""

    username: str
    password: str
    identity_token: str | None = None
    origin: str = ""

    def __repr__(self) -> str:
        # secrets never show
        return f"Credentials(origin={self.origin!r})"


class HelperError(CrfsError):
    """A credential helper that is missing, takes too long, or answers nonsense."""


class _AuthJson(msgspec.Struct, rename={"identity_token": "identitytoken"}):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identity_token: str | None = None


class _FileJson(msgspec.Struct, rename={"helpers": "credHelpers", "store": "credsStore"}):
    auths: dict[str, _AuthJson | None] | None = None
    helpers: dict[str, str] | None = None
    store: str | None = None


class _HelperJson(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class CredentialStore:
    """`authfile` is the user's explicit choice (`--authfile`), looked at first, and an error when missing."""

    def __init__(self, authfile: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = dict(os.environ if environ is None else environ)
        self._authfile = authfile or self._environ.get("REGISTRY_AUTH_FILE") or None

    async def find(self, host: str, repository: str) -> Credentials | None:
        """The credentials for `HOST/REPOSITORY`, the most specific key first; None when there are none.

        UsageError for files that can't be read. A helper that fails is logged, and the search goes on.
        """
        for path in self.paths():
            found = _load_file(path, required=path == self._authfile)
            credentials = await self._find_in(found, path, host, repository) if found else None
            if credentials is not None:
                return credentials
        return None

    def paths(self) -> list[str]:
        """The files that are looked at, in that order, whether they exist or not."""
        environ = self._environ
        home = environ.get("HOME") or "/"
        config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        runtime = environ.get("XDG_RUNTIME_DIR")
        docker = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
        primary = self._authfile or (runtime and os.path.join(runtime, "containers/auth.json"))
        if primary is None and os.getuid() != 0:
            primary = f"/run/containers/{os.getuid()}/auth.json"
        found = [primary] if primary else ["/run/containers/0/auth.json"]
        return [*found, os.path.join(config, "containers/auth.json"), os.path.join(docker, "config.json")]

    async def _find_in(self, file: _FileJson, path: str, host: str, repository: str) -> Credentials | None:
        helpers = file.helpers or {}
        for key in _keys(host, repository):
            if key in helpers:
                return await self._ask(helpers[key], key, path)
        if file.store:
            for key in _host_keys(host):
                credentials = await self._ask(file.store, key, path)
                if credentials is not None:
                    return credentials
        return _find_auth(file.auths or {}, path, host, repository)

    async def _ask(self, helper: str, key: str, path: str) -> Credentials | None:
        try:
            return await ask_helper(helper, key, self._environ)
        except HelperError as error:
            logger.warning("%s, which %r names", error, path)
            return None


async def ask_helper(name: str, server: str, environ: Mapping[str, str]) -> Credentials | None:
    """What `docker-credential-NAME get` knows of `server`; None when it says that it has nothing.

    HelperError when it is missing, outlasts HELPER_SECONDS, fails otherwise or answers no JSON.
    """
    program = f"docker-credential-{name}"
    if not _HELPER_NAME.fullmatch(name):
        raise HelperError(f"{name!r} is not the name of a credential helper")
    code, output = await _run(program, server.encode(), environ)
    if code != 0:
        said = " ".join(output.decode(errors="replace").split())[:200]
        if "credentials not found" in said or "no credentials" in said.lower():
            return None
        raise HelperError(f"{program} failed for {server} with status {code}: {said!r}")
    try:
        found = msgspec.json.decode(output, type=_HelperJson)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HelperError(f"{program} answered no credentials for {server}") from error
    origin = f"{program} ({server})"
    if found.username == _TOKEN_USER:
        return Credentials("", "", found.secret, origin)
    return Credentials(found.username, found.secret, None, origin) if found.secret else None


async def _run(program: str, sent: bytes, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit status and standard output of a program, which is killed when it takes too long."""
    pipe = asyncio.subprocess.PIPE
    null = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=pipe, stdout=pipe, stderr=null, env=dict(environ)
        )
    except OSError as error:
        raise HelperError(f"{program} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(HELPER_SECONDS):
            output, _ = await process.communicate(sent)
    except TimeoutError as error:
        raise HelperError(f"{program} took longer than {HELPER_SECONDS:.0f} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output[:HELPER_OUTPUT_MAX]


def _keys(host: str, repository: str) -> Iterator[str]:
    """HOST/a/b/c, HOST/a/b, HOST/a, HOST (containers-auth.json(5))."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:count]])
    yield from _host_keys(host)


def _host_keys(host: str) -> tuple[str, ...]:
    return (host, DOCKER_HUB_KEY) if host == "docker.io" else (host,)


def _find_auth(
    auths: dict[str, _AuthJson | None], path: str, host: str, repository: str
) -> Credentials | None:
    for key in _keys(host, repository):
        if (entry := auths.get(key)) and (credentials := _decode_auth(entry, path, key)):
            return credentials
    # keys as old Dockers wrote them: https://HOST/v1/
    for key, entry in auths.items():
        if entry and _key_host(key) == host and (credentials := _decode_auth(entry, path, key)):
            return credentials
    return None


def _key_host(key: str) -> str | None:
    """The registry that a key in the form of a URL means; None for other keys."""
    scheme, separator, rest = key.partition("://")
    if not separator or scheme not in ("http", "https"):
        return None
    host = rest.partition("/")[0]
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host


def _decode_auth(entry: _AuthJson, path: str, key: str) -> Credentials | None:
    origin = f"{path} ({key})"
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise UsageError(f"{path!r}: the entry {key!r} is not base64 of USER:PASSWORD") from None
        username, _, password = decoded.partition(":")
        password = password.rstrip("\0")
    if entry.identity_token:
        return Credentials(username, password, entry.identity_token, origin)
    return Credentials(username, password, None, origin) if username or password else None


def _load_file(path: str, required: bool) -> _FileJson | None:
    """The file's content; None when it does not exist. UsageError naming the path otherwise."""
    try:
        with open(path, "rb") as file:
            body = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if required:
            raise UsageError(f"the authentication file {path!r} does not exist") from error
        return None
    except OSError as error:
        if required:
            raise UsageError(f"the authentication file {path!r} can't be read: {error.strerror}") from error
        logger.warning("the authentication file %r can't be read: %s", path, error.strerror)
        return None
    if not body.strip():
        return None
    try:
        return msgspec.json.decode(body, type=_FileJson)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"the authentication file {path!r} is malformed: {error}") from error
