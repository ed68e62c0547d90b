"""Credentials, challenges and tokens: files as podman and docker write them, and a token server."""

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crfs.blobs import credentials
from crfs.blobs.auth import Challenge, choose_challenge, parse_challenges, parse_token
from crfs.blobs.credentials import Credentials, CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.http import Http
from crfs.blobs.registriesconf import RegistriesConf
from crfs.blobs.registry import RegistryImage
from crfs.errors import AuthError, TransportError, UsageError
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_LAYER
from crfs.formats.reference import parse_image
from tests.support.faults import FaultProxy, NeedBasic, NeedBearer, Redirect, Status
from tests.support.fetching import with_http

DATA = b"layer" * 1000
DIGEST = sha256_digest(DATA)
MANIFEST = b'{"schemaVersion":2}'


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def find(store: CredentialStore, host: str, repository: str = "a/b") -> str | None:
    """`USER:PASSWORD`, or `token TOKEN`."""
    found = asyncio.run(store.find(host, repository))
    if found is None:
        return None
    return f"token {found.identity_token}" if found.identity_token else f"{found.username}:{found.password}"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}


def test_files_in_their_order(tmp_path: Path, home: dict[str, str]) -> None:
    store = CredentialStore(environ=home)
    assert find(store, "h.io") is None
    write(tmp_path / ".docker/config.json", {"auths": {"h.io": auth("docker", "1")}})
    assert find(store, "h.io") == "docker:1"
    write(tmp_path / ".config/containers/auth.json", {"auths": {"h.io": auth("user", "2")}})
    assert find(store, "h.io") == "user:2"
    write(tmp_path / "run/containers/auth.json", {"auths": {"h.io": auth("podman", "3:x")}})
    assert find(store, "h.io") == "podman:3:x"
    chosen = write(tmp_path / "chosen", {"auths": {"other.io": auth("chosen", "4")}})
    assert find(CredentialStore(str(chosen), home), "other.io") == "chosen:4"
    assert find(CredentialStore(str(chosen), home), "h.io") == "user:2"
    assert find(CredentialStore(environ=home | {"REGISTRY_AUTH_FILE": str(chosen)}), "other.io") == "chosen:4"
    write(tmp_path / "d/config.json", {"auths": {"d.io": auth("docker", "5")}})
    assert find(CredentialStore(environ=home | {"DOCKER_CONFIG": str(tmp_path / "d")}), "d.io") == "docker:5"


def test_most_specific_key(tmp_path: Path, home: dict[str, str]) -> None:
    auths = {"h.io": auth("host", ""), "h.io/a": auth("one", ""), "h.io/a/b": auth("two", "")}
    write(tmp_path / ".docker/config.json", {"auths": auths})
    store = CredentialStore(environ=home)
    assert find(store, "h.io", "a/b") == "two:"
    assert find(store, "h.io", "a/b/c") == "two:"
    assert find(store, "h.io", "a/bc") == "one:"
    assert find(store, "h.io", "z") == "host:"
    assert find(store, "h.io:5000", "a/b") is None


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://h.io:5000/v1/", "h.io:5000"),
        ("http://h.io", "h.io"),
        ("https://h.io/v2/", "h.io"),
    ],
)
def test_keys_of_old_dockers(tmp_path: Path, home: dict[str, str], key: str, host: str) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {key: auth("u", "p")}})
    assert find(CredentialStore(environ=home), host) == "u:p"


def test_other_ways_to_write_an_entry(tmp_path: Path, home: dict[str, str]) -> None:
    auths: dict[str, Any] = {
        "plain.io": {"username": "u", "password": "p"},
        "token.io": auth("u", "") | {"identitytoken": "refresh"},
        "padded.io": {"auth": base64.b64encode(b"u:p\0\0").decode()},
        "empty.io": {},
        "null.io": None,
    }
    write(tmp_path / ".docker/config.json", {"auths": auths, "HttpHeaders": {"x": "y"}, "detachKeys": "q"})
    store = CredentialStore(environ=home)
    assert find(store, "plain.io") == "u:p"
    assert find(store, "token.io") == "token refresh"
    assert find(store, "padded.io") == "u:p"
    assert find(store, "empty.io") is None
    assert find(store, "null.io") is None


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials("someone", "hunter2", "hunter3", "file"))
    assert shown == "Credentials(origin='file')"


def test_should_fail_missing_chosen_file(tmp_path: Path, home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"'.*/none' does not exist"):
        find(CredentialStore(str(tmp_path / "none"), home), "h.io")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths":[]}', '{"auths":{"h.io":{"auth":"*"}}}'])
def test_should_fail_malformed_file(tmp_path: Path, home: dict[str, str], text: str) -> None:
    path = tmp_path / "auth.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"'{path}'"):
        find(CredentialStore(str(path), home), "h.io")


def helper(tmp_path: Path, name: str, script: str) -> None:
    program = tmp_path / "bin" / f"docker-credential-{name}"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def helpers(tmp_path: Path, home: dict[str, str]) -> CredentialStore:
    """A store whose helpers echo the server they are asked about, or misbehave."""
    helper(tmp_path, "echo", """read -r it; printf '{"Username":"u %s","Secret":"%s"}' "$1" "$it" """)
    helper(tmp_path, "token", """echo '{"Username":"<token>","Secret":"refresh"}'""")
    helper(tmp_path, "nothing", "echo 'credentials not found in native keychain'; exit 1")
    helper(tmp_path, "broken", "echo kaputt; exit 3")
    helper(tmp_path, "nonsense", "echo {")
    helper(tmp_path, "sleepy", "exec sleep 60")
    names = ("echo", "token", "nothing", "broken", "nonsense", "sleepy", "missing", "../echo")
    for_hosts = {f"{name.strip('./')}.io": name for name in names} | {"../echo": "x", "slash.io": "../echo"}
    auths = {f"{name}.io": auth("file", "f") for name in ("echo", "missing")}
    write(tmp_path / ".docker/config.json", {"credHelpers": for_hosts | {"echo.io": "echo"}, "auths": auths})
    return CredentialStore(environ=home | {"PATH": f"{tmp_path}/bin:{home['PATH']}"})


def test_credential_helpers(helpers: CredentialStore) -> None:
    assert find(helpers, "echo.io") == "u get:echo.io"
    assert find(helpers, "token.io") == "token refresh"
    assert find(helpers, "nothing.io") is None


@pytest.mark.parametrize("name", ["broken", "nonsense", "missing", "slash"])
def test_should_fail_helper_softly(
    helpers: CredentialStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert find(helpers, f"{name}.io") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search(r"credential", caplog.text)


def test_should_fail_helper_that_hangs(
    helpers: CredentialStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.2)
    started = time.monotonic()
    assert find(helpers, "sleepy.io") is None
    assert time.monotonic() - started < 3
    assert "took longer" in caplog.text


def test_credentials_store(tmp_path: Path, home: dict[str, str], helpers: CredentialStore) -> None:
    write(tmp_path / ".docker/config.json", {"credsStore": "echo", "credHelpers": {"t.io/a": "token"}})
    assert find(helpers, "x.io") == "u get:x.io"
    assert find(helpers, "t.io", "a/b") == "token refresh"
    write(tmp_path / ".docker/config.json", {"credsStore": "nothing", "auths": {"x.io": auth("u", "p")}})
    assert find(helpers, "x.io") == "u:p"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})],
        ),
        ('BASIC REALM=x , bearer Realm = "y\\"z"', [("basic", {"realm": "x"}), ("bearer", {"realm": 'y"z'})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Bearer realm="open', [("bearer", {})]),
        ("=,=", []),
    ],
)
def test_challenges(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges([header])][: len(found)] == found


def test_bearer_is_preferred() -> None:
    both = parse_challenges(["Negotiate, Basic realm=x", "Bearer realm=y"])
    assert choose_challenge(both) == Challenge("bearer", {"realm": "y"})
    assert choose_challenge(both[:2]) == Challenge("basic", {"realm": "x"})
    assert choose_challenge(both[:1]) is None
    assert choose_challenge(parse_challenges(["Bearer"])) is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":""}', b'{"token":"a\\r\\nX: y"}', b'{"token":1}']
)
def test_should_fail_no_token(body: bytes) -> None:
    with pytest.raises(TransportError, match="GET x: the token server's answer"):
        parse_token(body, "GET x")


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    files = {"/v2/a/manifests/1": MANIFEST, f"/v2/a/blobs/{DIGEST}": DATA}
    with FaultProxy(files) as served:
        yield served


def image(
    http: Http, proxy: FaultProxy, tmp_path: Path, entry: dict[str, str] | None = None
) -> RegistryImage:
    path = write(tmp_path / "auth.json", {"auths": {proxy.host: entry} if entry else {}})
    store = CredentialStore(str(path), {"HOME": str(tmp_path)})
    return RegistryImage(parse_image(f"{proxy.host}/a:1"), Access(http, store), RegistriesConf())


def fetch(proxy: FaultProxy, tmp_path: Path, entry: dict[str, str] | None = None, times: int = 1) -> None:
    async def work(http: Http) -> None:
        there = image(http, proxy, tmp_path, entry)
        for _ in range(times):
            assert (await there.fetch_manifest()).body == MANIFEST

    with_http(work)


def test_anonymous_token(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBearer())
    fetch(proxy, tmp_path, times=3)
    (asked,) = proxy.seen("GET", "^/token")
    assert asked.path == "/token?scope=repository%3Aa%3Apull%2Cpush&service=faults"
    assert "Authorization" not in asked.headers
    # one refusal, then each request has its token
    assert proxy.count("GET", "^/v2/") == 4


def test_token_for_an_account(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBearer(username="user", password="pass"))
    fetch(proxy, tmp_path, auth("user", "pass"))
    (asked,) = proxy.seen("GET", "^/token")
    assert asked.path.endswith("&account=user")


def test_token_for_an_identity_token(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBearer(username="user", identity_token="refresh"))
    fetch(proxy, tmp_path, {"identitytoken": "refresh"})
    (asked,) = proxy.seen("POST", "^/token")
    assert "grant_type=refresh_token" in asked.path
    assert "Authorization" not in asked.headers


def test_basic(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBasic(username="user", password="pä:ss"))
    fetch(proxy, tmp_path, auth("user", "pä:ss"), times=2)
    assert len(proxy.requests) == 3


def test_one_token_for_many_requests_at_once(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBearer())

    async def work(http: Http) -> None:
        blob = image(http, proxy, tmp_path).open_blob(Descriptor(OCI_LAYER, DIGEST, len(DATA)))
        await asyncio.gather(*(blob.fetch_range(at, at + 10) for at in range(0, 200, 10)))

    with_http(work)
    assert proxy.count("GET", "^/token") == 1


@pytest.mark.parametrize("expired", [401, 403])
def test_token_that_expires_on_the_way(proxy: FaultProxy, tmp_path: Path, expired: int) -> None:
    proxy.use(NeedBearer(uses=3, expired=expired))
    fetch(proxy, tmp_path, times=9)
    assert proxy.count("GET", "^/token") == 3


def test_token_is_replaced_before_it_expires(proxy: FaultProxy, tmp_path: Path) -> None:
    # good for longer than is said, so that nothing is refused however slow the machine is
    proxy.use(NeedBearer(declared=0.2))

    async def work(http: Http) -> None:
        there = image(http, proxy, tmp_path)
        for _ in range(3):
            await there.fetch_manifest()
            await asyncio.sleep(0.2)

    with_http(work)
    assert proxy.count("GET", "^/v2/") == 4  # only the first was refused
    assert proxy.count("GET", "^/token") == 3


def test_login_while_mounted(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(NeedBasic(username="user", password="old"))

    async def work(http: Http) -> None:
        there = image(http, proxy, tmp_path, auth("user", "old"))
        await there.fetch_manifest()
        proxy.use(NeedBasic(username="user", password="new"))
        with pytest.raises(AuthError):
            await there.fetch_manifest()
        write(tmp_path / "auth.json", {"auths": {proxy.host: auth("user", "new")}})
        await there.fetch_manifest()

    with_http(work)


def test_token_server_that_is_busy(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(Status(status=503, path="^/token", times=2), NeedBearer())
    fetch(proxy, tmp_path)


@pytest.mark.parametrize("entry", [None, auth("user", "hunter2"), {"identitytoken": "hunter2"}])
def test_should_fail_token_refused(proxy: FaultProxy, tmp_path: Path, entry: dict[str, str] | None) -> None:
    proxy.use(NeedBearer(username="user", password="right"))
    there = (
        "no credentials for .* were found" if entry is None else r"with the credentials from .*/auth\.json"
    )
    with pytest.raises(AuthError, match=rf"^127\.0\.0\.1:\d+ gives no token, {there}.*: 401") as caught:
        fetch(proxy, tmp_path, entry)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("entry", [None, auth("user", "hunter2")])
def test_should_fail_basic_refused(proxy: FaultProxy, tmp_path: Path, entry: dict[str, str] | None) -> None:
    proxy.use(NeedBasic(username="user", password="right"))
    there = (
        "no credentials for .* were found" if entry is None else r"with the credentials from .*/auth\.json"
    )
    with pytest.raises(AuthError, match=rf"/v2/a/manifests/1: 401 Unauthorized; {there}") as caught:
        fetch(proxy, tmp_path, entry)
    assert "hunter2" not in str(caught.value)


def test_should_fail_forbidden_for_good(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(Status(status=403, path="^/v2/", skip=1), NeedBearer())
    with pytest.raises(AuthError, match="403 Forbidden; no credentials"):
        fetch(proxy, tmp_path)
    assert proxy.count("GET", "^/token") == 1


@pytest.mark.parametrize("realm", ["", "ftp://127.0.0.1/", "/token", "http://"])
def test_should_fail_realm_that_is_no_url(proxy: FaultProxy, tmp_path: Path, realm: str) -> None:
    proxy.use(Status(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'}))
    with pytest.raises(TransportError, match="its token server"):
        fetch(proxy, tmp_path)


def test_should_fail_password_in_the_clear(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.use(Status(status=401, headers={"WWW-Authenticate": 'Bearer realm="http://example.com/"'}))
    with pytest.raises(AuthError, match=r"won't send credentials to 'http://example\.com/' in the clear"):
        fetch(proxy, tmp_path, auth("user", "pass"))


def test_credentials_stay_with_the_token_server(proxy: FaultProxy, tmp_path: Path) -> None:
    with FaultProxy({"/token": b'{"token":"t"}'}) as other:
        proxy.use(Redirect(to=other.url, path="^/token"), NeedBearer(path="^/v2/"))
        with pytest.raises(AuthError):  # the other server's token is not one that the proxy knows
            fetch(proxy, tmp_path, auth("user", "pass"))
        assert proxy.seen("GET", "^/token")[0].headers["Authorization"].startswith("Basic ")
        assert all("Authorization" not in seen.headers for seen in other.requests)


def test_should_fail_identity_token_sent_elsewhere(proxy: FaultProxy, tmp_path: Path) -> None:
    with FaultProxy({}) as other:
        proxy.use(Redirect(to=other.url, path="^/token"), NeedBearer(path="^/v2/"))
        with pytest.raises(TransportError, match="refusing the redirect to"):
            fetch(proxy, tmp_path, {"identitytoken": "refresh"})
        assert other.requests == []
