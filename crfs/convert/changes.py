"""Changes to an image's config, as Dockerfile instructions that start no program: `CMD ["x"]`, `ENV A=b`. Pure.

Follows the OCI image configuration, and `podman commit --change`.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from crfs.errors import FormatError, UsageError

Config = dict[str, Any]


class Committed(msgspec.Struct, frozen=True):
    """What an image's config says of a layer that was put on top. `created` as in RFC 3339."""

    created: str
    created_by: str
    author: str | None = None
    message: str | None = None
    changes: tuple[str, ...] = ()


def commit_config(config: bytes, committed: Committed) -> bytes:
    """The config with one more step of its history, and changed; its diff_ids stay. UsageError, FormatError."""
    try:
        document = msgspec.json.decode(config, type=Config)
    except msgspec.MsgspecError as error:
        raise FormatError(f"the image config is malformed: {error}") from error
    container: Config = dict(document.get("config") or {})
    for change in committed.changes:
        _apply(container, change)
    step = {"created": committed.created, "created_by": committed.created_by}
    step |= {"author": committed.author} if committed.author else {}
    step |= {"comment": committed.message} if committed.message else {}
    document |= {"author": committed.author} if committed.author else {}
    document |= {"created": committed.created, "config": container}
    # podman and docker look at it first
    document.pop("container_config", None)
    layers = len(document.get("rootfs", {}).get("diff_ids") or ())
    history = list(document.get("history") or [{"created_by": "unknown"} for _ in range(layers)])
    document["history"] = [*history, step]
    return msgspec.json.encode(document)


def check_changes(changes: Sequence[str]) -> None:
    """UsageError for what is no change that can be made."""
    for change in changes:
        _apply({}, change)


def _apply(container: Config, change: str) -> None:
    words = change.split(None, 1) if not _has_early_equals(change) else change.split("=", 1)
    apply = _INSTRUCTIONS.get(words[0].strip().upper()) if words else None
    if apply is None or len(words) < 2 or not words[1].strip():
        known = ", ".join(sorted(_INSTRUCTIONS))
        raise UsageError(f"--change {change!r}: write one of {known}, and what it shall be")
    try:
        apply(container, words[1].strip())
    except ValueError as error:
        raise UsageError(f"--change {change!r}: {error}") from error


def _has_early_equals(change: str) -> bool:
    """Podman takes `CMD=/bin/sh` as well."""
    return "=" in change.split(None, 1)[0] if change.strip() else False


def _command(value: str) -> list[str]:
    if not value.startswith("["):
        return ["/bin/sh", "-c", value]
    try:
        return msgspec.json.decode(value, type=list[str])
    except msgspec.MsgspecError as error:
        raise ValueError(f"no JSON array of words: {error}") from error


def _words(value: str) -> list[str]:
    if value.startswith("["):
        return _command(value)
    return shlex.split(value)


def _pairs(value: str) -> list[tuple[str, str]]:
    words = shlex.split(value)
    if words and "=" not in words[0]:
        name, _, rest = value.partition(" ")
        return [(name, rest.strip())]
    pairs = [word.partition("=") for word in words]
    if not all(equals and name for name, equals, _ in pairs):
        raise ValueError("write NAME=VALUE")
    return [(name, text) for name, _, text in pairs]


def _set(key: str, read: Callable[[str], Any]) -> Callable[[Config, str], None]:
    def apply(container: Config, value: str) -> None:
        container[key] = read(value)

    return apply


def _env(container: Config, value: str) -> None:
    env = list(container.get("Env") or ())
    for name, text in _pairs(value):
        at = next((at for at, old in enumerate(env) if old.startswith(f"{name}=")), len(env))
        env[at : at + 1] = [f"{name}={text}"]
    container["Env"] = env


def _labels(container: Config, value: str) -> None:
    container["Labels"] = {**(container.get("Labels") or {}), **dict(_pairs(value))}


def _named(key: str, complete: Callable[[str], str] = str) -> Callable[[Config, str], None]:
    def apply(container: Config, value: str) -> None:
        names: Config = {complete(word): {} for word in _words(value)}
        container[key] = {**(container.get(key) or {}), **names}

    return apply


def _port(word: str) -> str:
    number, _, protocol = word.partition("/")
    if not number.isdigit() or not 0 < int(number) < 1 << 16 or protocol not in ("", "tcp", "udp", "sctp"):
        raise ValueError(f"{word!r} is no port: write NUMBER[/tcp|/udp|/sctp]")
    return f"{number}/{protocol or 'tcp'}"


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _set("Cmd", _command),
    "ENTRYPOINT": _set("Entrypoint", _command),
    "ENV": _env,
    "EXPOSE": _named("ExposedPorts", _port),
    "LABEL": _labels,
    "STOPSIGNAL": _set("StopSignal", str),
    "USER": _set("User", str),
    "VOLUME": _named("Volumes"),
    "WORKDIR": _set("WorkingDir", str),
}
