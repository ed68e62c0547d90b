"""The part of an OCI runtime's config.json (runtime-spec config.md, config-linux.md) that crfs writes. Pure."""

import msgspec

OCI_VERSION = "1.0.2"


class _Json(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An object of the specification; what is left at its default is not written."""


class User(_Json, frozen=True):
    """Ids as they are in the container's user namespace."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()


class Capabilities(_Json, frozen=True):
    """Names of capabilities(7). None at all are written too, since a runtime would take another default."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...] | None = None
    permitted: tuple[str, ...] | None = None


class ConsoleSize(_Json, frozen=True):
    """Of a terminal, in characters."""

    height: int
    width: int


class Process(_Json, frozen=True):
    """`env` as NAME=VALUE."""

    user: User
    args: tuple[str, ...]
    cwd: str
    env: tuple[str, ...]
    capabilities: Capabilities
    terminal: bool = False
    console_size: ConsoleSize | None = None


class Root(_Json, frozen=True):
    """`path` from the bundle."""

    path: str
    readonly: bool = False


class Mount(_Json, frozen=True):
    """`destination` is absolute in the container; later ones lie over earlier ones."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()


class Namespace(_Json, frozen=True):
    """A namespace of its own, by the specification's name for its kind."""

    type: str


class Linux(_Json, frozen=True):
    """What is said of Linux alone."""

    namespaces: tuple[Namespace, ...]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]


class Spec(_Json, frozen=True):
    """All of it."""

    oci_version: str
    process: Process
    root: Root
    hostname: str
    mounts: tuple[Mount, ...]
    linux: Linux

    def encoded(self) -> bytes:
        """The bytes of config.json."""
        return msgspec.json.encode(self)
