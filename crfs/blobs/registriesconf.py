"""Where an image's bytes are asked for: containers-registries.conf(5), version 2. Read once; then any thread.

Short names are not looked up: `docker://alpine` is docker.io's, as it is for skopeo. Of the files' settings
`[[registry]]` tables count; aliases and unqualified-search-registries are for `podman pull alpine`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from crfs.errors import UsageError
from crfs.formats.reference import ImageReference, parse_image

SYSTEM_DIRECTORY = Path("/etc/containers")
# a line that begins a table or an array of registries, of either version
_REGISTRIES = re.compile(rb"""^\s*\[*\s*["']?registr""", re.MULTILINE)


class Endpoint(msgspec.Struct, frozen=True):
    """One place to ask. `insecure`: http and untrusted certificates will do.

    `namespace` is the host that a mirror stands in for (its `?ns=`); None for what is no mirror, and for a
    mirror of the same host.
    """

    host: str
    repository: str
    insecure: bool = False
    namespace: str | None = None


class _MirrorToml(msgspec.Struct, rename="kebab"):
    location: str = ""
    insecure: bool = False
    pull_from_mirror: str = ""


class _RegistryToml(msgspec.Struct, rename="kebab"):
    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirror: list[_MirrorToml] = []


class _FileToml(msgspec.Struct):
    registry: list[_RegistryToml] = []
    registries: dict[str, object] | None = None  # version 1


class _Registry(msgspec.Struct, frozen=True):
    prefix: str
    settings: _RegistryToml
    path: str


class RegistriesConf:
    """The `[[registry]]` tables of all files; none: every image is where its name says, over https."""

    def __init__(self, registries: tuple[_Registry, ...] = ()) -> None:
        self._registries = registries

    def endpoints(self, reference: ImageReference) -> tuple[Endpoint, ...]:
        """Where to pull from, in order: the mirrors, then the location. UsageError for a blocked registry."""
        registry, length = self._find(reference)
        if registry is None:
            return (Endpoint(reference.host, reference.repository),)
        settings = registry.settings
        if settings.blocked:
            raise UsageError(f"{reference.text}: {registry.prefix} is blocked in {registry.path}")
        mirrors = [
            _rewrite(reference, length, mirror.location, mirror.insecure, registry.path, mirror=True)
            for mirror in settings.mirror
            if _serves(mirror, settings, by_digest=reference.digest is not None)
        ]
        home = _rewrite(reference, length, settings.location, settings.insecure, registry.path)
        return (*mirrors, home)

    def push_endpoint(self, reference: ImageReference) -> Endpoint:
        """Where to push to: what the name says (mirrors and locations are for pulls), insecure or not."""
        registry, _ = self._find(reference)
        insecure = registry is not None and registry.settings.insecure
        return Endpoint(reference.host, reference.repository, insecure)

    def _find(self, reference: ImageReference) -> tuple[_Registry | None, int]:
        """The registry whose prefix matches most of the name, and how many characters it matches."""
        best: _Registry | None = None
        rank = (0, 0)
        for registry in self._registries:
            length = match_prefix(reference.text, registry.prefix)
            # two wildcards match the same host: the longer one says more
            if length and (length, len(registry.prefix)) > rank:
                best, rank = registry, (length, len(registry.prefix))
        return best, rank[0]


def match_prefix(name: str, prefix: str) -> int:
    """How much of `HOST/REPOSITORY[:TAG][@DIGEST]` a prefix (or `*.DOMAIN`) matches, in characters."""
    if prefix.startswith("*."):
        domain = name.partition("/")[0].partition(":")[0]
        length = len(domain) if domain.endswith(prefix[1:]) else 0
    else:
        length = len(prefix) if name.startswith(prefix) else 0
    # "example.com" must not match "example.com:5000", which is another registry
    ends = "/:@" if "/" in prefix or prefix.startswith("*.") else "/"
    return length if length and (length == len(name) or name[length] in ends) else 0


def load_registries(
    environ: Mapping[str, str] | None = None, system: Path = SYSTEM_DIRECTORY
) -> RegistriesConf:
    """The configuration from its files; UsageError, naming the file, for one that is malformed."""
    merged: dict[str, _Registry] = {}
    for path in config_files(os.environ if environ is None else environ, system):
        for registry in _load_file(path):
            merged[registry.prefix] = registry  # later files replace earlier ones
    return RegistriesConf(tuple(merged.values()))


def config_files(environ: Mapping[str, str], system: Path = SYSTEM_DIRECTORY) -> list[Path]:
    """The files to read, later ones winning, as containers/image chooses them.

    $CONTAINERS_REGISTRIES_CONF or the user's file take the place of the system's; with the user's own file
    the system's drop-ins (registries.conf.d) are not read either.
    """
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or "/", ".config")
    user = Path(config, "containers")
    chosen = environ.get("CONTAINERS_REGISTRIES_CONF") or environ.get("REGISTRIES_CONFIG_PATH")
    main = Path(chosen) if chosen else user / "registries.conf"
    directories = [system / "registries.conf.d", user / "registries.conf.d"]
    if not chosen and main.is_file():
        directories = directories[1:]
    elif not chosen:
        main = system / "registries.conf"
    if chosen and not main.exists():
        raise UsageError(f"{chosen!r}, which CONTAINERS_REGISTRIES_CONF names, does not exist")
    drop_ins = [path for directory in directories for path in sorted(directory.glob("*.conf"))]
    return [path for path in (main, *drop_ins) if path.is_file()]


def _load_file(path: Path) -> list[_Registry]:
    import tomllib  # only where there is a file

    try:
        body = path.read_bytes()
        if not _REGISTRIES.search(body):
            return []  # aliases only, like the long list that distributions ship
        found = msgspec.convert(tomllib.loads(body.decode()), type=_FileToml)
    except OSError as error:
        raise UsageError(f"{str(path)!r} can't be read: {error.strerror}") from error
    except ValueError as error:  # of the decoder, tomllib and msgspec
        raise UsageError(f"{str(path)!r} is malformed: {error}") from error
    if found.registries is not None:
        raise UsageError(f"{str(path)!r} is of version 1; write [[registry]] tables instead of [registries]")
    return [_checked(settings, path) for settings in found.registry]


def _checked(settings: _RegistryToml, path: Path) -> _Registry:
    prefix = settings.prefix.rstrip("/") or settings.location.rstrip("/")
    locations = [settings.location, *(mirror.location for mirror in settings.mirror)]
    if not prefix or not all(mirror.location for mirror in settings.mirror):
        raise UsageError(
            f"{str(path)!r} has a registry without prefix and location, or a mirror without location"
        )
    if any("://" in text for text in (prefix, *locations)):
        raise UsageError(f"{str(path)!r}: the registry {prefix!r} is written as a URL; leave out the scheme")
    if not settings.location and not prefix.startswith("*."):
        settings = msgspec.structs.replace(settings, location=prefix)
    return _Registry(prefix, settings, str(path))


def _serves(mirror: _MirrorToml, settings: _RegistryToml, by_digest: bool) -> bool:
    if settings.mirror_by_digest_only:
        return by_digest
    return mirror.pull_from_mirror != ("tag-only" if by_digest else "digest-only")


def _rewrite(
    reference: ImageReference, length: int, location: str, insecure: bool, path: str, mirror: bool = False
) -> Endpoint:
    """The endpoint with the matched prefix replaced by `location` (none: nothing is replaced)."""
    if not location:
        return Endpoint(reference.host, reference.repository, insecure)
    try:
        found = parse_image(location.rstrip("/") + reference.text[length:])
    except UsageError as error:
        raise UsageError(f"{path!r}: the location {location!r} makes no image's name: {error}") from error
    namespace = reference.host if mirror and found.host != reference.host else None
    return Endpoint(found.host, found.repository, insecure, namespace)
