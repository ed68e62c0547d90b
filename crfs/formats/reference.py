"""What the user calls an image or a layer, as values. Pure: nothing is looked up or opened here; any thread.

`docker://` references are read as skopeo and podman read them (distribution's reference grammar,
containers-transports(5)), `oci:` as containers-transports(5). Besides those a source is one layer blob: an
http(s) URL, `file://PATH` (the rest is the path as it is, nothing is percent-decoded) or a bare path.
"""

import re
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from crfs.errors import FormatError, UsageError
from crfs.formats.digest import parse_digest

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX = 255
# images that are one tar each
ARCHIVES = ("docker-archive", "oci-archive")

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ID = re.compile(r"[a-f0-9]{64}")

_WORD = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_LAYOUT_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TRANSPORT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_USERINFO = re.compile(r"//[^/]*@(?=[^@]*/)")


class ImageReference(Struct, frozen=True, tag=True):
    """An image in a registry, fully qualified: `tag` is None only when there is a digest.

    With both, the digest says which image it is and the tag is kept for display.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """`HOST/REPOSITORY`, as registries.conf and auth.json match it."""
        return f"{self.host}/{self.repository}"

    @property
    def identifier(self) -> str:
        """What the registry is asked for: the digest, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def text(self) -> str:
        """`HOST/REPOSITORY[:TAG][@DIGEST]`, without the transport."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return self.name + tag + digest

    def __str__(self) -> str:
        return f"docker://{self.text}"


class LayoutReference(Struct, frozen=True, tag=True):
    """An image in an OCI image layout: by its name annotation, by digest, or the only one (both None)."""

    directory: str
    name: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        chosen = f":@{self.digest}" if self.digest else f":{self.name}" if self.name else ""
        return f"oci:{self.directory}{chosen}"


class UrlSource(Struct, frozen=True, tag=True):
    """One layer blob on a web server. `url` has no userinfo; credentials never show in str() or repr().

    The query, where presigned URLs keep their signature, is part of `url` and masked by str() and repr().
    """

    url: str
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        shown = mask_url(self.url)
        return shown if self.username is None else shown.replace("://", "://***@", 1)

    def __repr__(self) -> str:
        return f"UrlSource({str(self)!r})"


class FileSource(Struct, frozen=True, tag=True):
    """One layer blob in a local file; a relative path is relative to the current directory."""

    path: str

    def __str__(self) -> str:
        return f"file://{self.path}"


class ArchiveReference(Struct, frozen=True, tag=True):
    """An image in a tar: `transport` is docker-archive or oci-archive; by its name, or the only one (None)."""

    transport: str
    path: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.transport}:{self.path}" + (f":{self.name}" if self.name else "")


Source = ArchiveReference | ImageReference | LayoutReference | UrlSource | FileSource


def parse_source(text: str) -> Source:
    """The source that `text` names; UsageError, naming it, for anything else."""
    if not text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UsageError(f"{text!r} is not a source: it is empty or has control characters")
    match = _TRANSPORT.match(text)
    transport = match[1].lower() if match else None
    rest = text[match.end() :] if match else text
    if transport == "docker":
        return _parse_docker(text, rest)
    if transport == "oci":
        return parse_layout(rest)
    if transport in ARCHIVES:
        return parse_archive(transport, rest)
    if transport in ("http", "https"):
        return parse_url(text)
    if transport == "file":
        return _parse_file(text, rest)
    if transport is not None:
        raise UsageError(
            f"{shown(text)}: the transport {transport}: is none of docker, oci, oci-archive, docker-archive, "
            "https, http, file"
        )
    return FileSource(text)


def parse_image(text: str) -> ImageReference:
    """`[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`, short names and docker.io's defaults as skopeo reads them.

    UsageError for what distribution's grammar refuses: upper case in the repository, an empty component.
    """
    return _parse_image(text, text)


def parse_layout(text: str) -> LayoutReference:
    """What follows `oci:`: `DIR[:NAME]` or `DIR:@DIGEST`, no colon in DIR. UsageError otherwise."""
    directory, colon, chosen = text.partition(":")
    if not directory:
        raise UsageError(f"'oci:{text}' names no directory")
    if not colon or not chosen:
        return LayoutReference(directory)
    if chosen.startswith("@"):
        return LayoutReference(directory, digest=_parse_digest(f"oci:{text}", chosen[1:]))
    if not _LAYOUT_NAME.fullmatch(chosen):
        raise UsageError(f"'oci:{text}': {chosen!r} is not the name of an image in a layout")
    return LayoutReference(directory, chosen)


def parse_archive(transport: str, text: str) -> ArchiveReference:
    """What follows `docker-archive:` or `oci-archive:`: `FILE[:NAME]`, no colon in FILE. UsageError otherwise."""
    path, _, name = text.partition(":")
    if not path:
        raise UsageError(f"'{transport}:{text}' names no file")
    return ArchiveReference(transport, path, name or None)


def parse_url(text: str) -> UrlSource:
    """An absolute http or https URL, its userinfo taken apart, a fragment dropped. UsageError otherwise."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{mask_url(text)!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or " " in text:
        raise UsageError(f"{mask_url(text)!r} is not an http or https URL with a host")
    netloc = parts.netloc.rpartition("@")[2]
    url = SplitResult(parts.scheme, netloc, parts.path or "/", parts.query, "").geturl()
    if parts.username is None:
        return UrlSource(url)
    return UrlSource(url, unquote(parts.username), unquote(parts.password or ""))


def mask_url(url: str) -> str:
    """`url` fit for messages and logs: userinfo and query, which may hold secrets, as `***`; no fragment."""
    base = url.partition("#")[0]
    path, question, _ = base.partition("?")
    scheme, separator, rest = path.partition("://")
    authority, slash, tail = rest.partition("/")
    _, at, netloc = authority.rpartition("@")
    if separator and at:
        path = f"{scheme}://***@{netloc}{slash}{tail}"
    return f"{path}?***" if question else path


def shown(text: str) -> str:
    """What the user typed, quoted for a message, with whatever looks like a URL's userinfo masked."""
    return repr(_USERINFO.sub("//***@", text))


def _parse_docker(text: str, rest: str) -> ImageReference:
    if not rest.startswith("//"):
        raise UsageError(f"{shown(text)}: a registry's image is written docker://HOST/REPOSITORY:TAG")
    return _parse_image(rest[2:], text)


def _parse_image(rest: str, text: str) -> ImageReference:
    name, at, digest_text = rest.partition("@")
    digest = _parse_digest(text, digest_text) if at else None
    # a colon before the last slash belongs to the host's port
    colon = name.rfind(":")
    tag = name[colon + 1 :] if colon > name.rfind("/") else None
    if tag is not None:
        name = name[:colon]
        if not _TAG.fullmatch(tag):
            raise UsageError(f"{shown(text)}: {tag!r} is not a tag")
    host, repository = _split_host(name)
    _check_name(text, host, repository)
    return ImageReference(host, repository, tag if tag or digest else DEFAULT_TAG, digest)


def _parse_file(text: str, rest: str) -> FileSource:
    if not rest.startswith("//") or len(rest) == 2:
        raise UsageError(f"{shown(text)}: a local file is written file:///PATH, or as a bare path")
    return FileSource(rest[2:])


def _parse_digest(text: str, digest: str) -> str:
    try:
        return str(parse_digest(digest))
    except FormatError as error:
        raise UsageError(f"{shown(text)}: {error}") from None


def _split_host(name: str) -> tuple[str, str]:
    """The host and the repository of a name: a host has a dot, a colon, or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not (first == "localhost" or set(first) & set(".:")):
        host, repository = DEFAULT_HOST, name
    else:
        host, repository = first, rest
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _check_name(text: str, host: str, repository: str) -> None:
    if not _HOST.fullmatch(host):
        raise UsageError(f"{shown(text)}: {host!r} is not a registry's host name")
    if _HEX_ID.fullmatch(repository.removeprefix("library/")) and host == DEFAULT_HOST:
        raise UsageError(
            f"{shown(text)}: 64 hex digits can't be a repository's name (write @sha256:... for a digest)"
        )
    if not _REPOSITORY.fullmatch(repository):
        hint = ": it has to be lower case" if _REPOSITORY.fullmatch(repository.lower()) else ""
        raise UsageError(f"{shown(text)}: {repository!r} is not a repository's name{hint}")
    if len(host) + 1 + len(repository) > NAME_MAX:
        raise UsageError(f"{shown(text)}: the name is longer than {NAME_MAX} characters")
