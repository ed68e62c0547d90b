"""From an image's config, and what a user wants otherwise, to the config.json of an OCI bundle.

Defaults are podman's, where there is no reason for others. Reads the root directory, and makes the working directory.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from crfs.errors import MountError, UnsupportedError, UsageError
from crfs.formats.manifest import ContainerConfig
from crfs.integrations.runtime.namespace import UserNamespace
from crfs.integrations.runtime.rootfs import Bind, Rootfs
from crfs.integrations.runtime.spec import (
    OCI_VERSION,
    Capabilities,
    ConsoleSize,
    Linux,
    Mount,
    Namespace,
    Process,
    Root,
    Spec,
    User,
)
from crfs.integrations.runtime.users import Account, find_account

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# gid of the group tty, to whom terminals belong
_TTY = 5
_CAPABILITIES: tuple[str, ...] = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
)
_CAPABILITIES += ("SETPCAP", "SETUID", "SYS_CHROOT")
_MASKED: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
)
_MASKED += ("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/fs/selinux")
_MASKED += ("/sys/dev/block", "/sys/devices/virtual/powercap")
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# of a read-only root: what podman gives a tmpfs
_SCRATCH = ("/run", "/tmp", "/var/tmp")


class Volume(Struct, frozen=True):
    """A directory or file of this machine in the container; both paths are absolute and normal."""

    source: str
    destination: str
    read_only: bool = False


class Wish(Struct, frozen=True):
    """What a user wants otherwise than the image says; None: as the image says. `environment` is its own."""

    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = {}
    volumes: tuple[Volume, ...] = ()
    workdir: str | None = None
    user: str | None = None
    host_network: bool = True
    read_only: bool = False
    terminal: ConsoleSize | None = None


def command_of(config: ContainerConfig, wish: Wish) -> tuple[str, ...]:
    """What is run; an entrypoint of the user's own has nothing of the image's command. UsageError: nothing is."""
    if wish.entrypoint is None:
        args = (*(config.entrypoint or ()), *(wish.command or config.cmd or ()))
    else:
        args = (*wish.entrypoint, *wish.command)
    if not args:
        raise UsageError("the image names no command: say which one to run, behind SOURCE")
    return args


def make_spec(
    directory: Path, name: str, config: ContainerConfig, wish: Wish, files: Sequence[Volume]
) -> Spec:
    """For the bundle in `directory`, whose root is mounted at rootfs/; `files` are bound before the volumes.

    NotFoundError for an unknown user, UnsupportedError for one without a place in our user namespace, UsageError;
    FileNotFoundError and PermissionError where the program can't be run; MountError for all else that fails.
    """
    args = command_of(config, wish)
    volumes = (*files, *wish.volumes)
    rootfs = Rootfs(directory / "rootfs", [Bind(each.source, each.destination) for each in volumes])
    namespace = UserNamespace()
    account = find_account(rootfs, config.user if wish.user is None else wish.user)
    user = _user(account, namespace)
    cwd = os.path.join("/", wish.workdir if wish.workdir is not None else config.working_dir)
    try:
        rootfs.make_directories(cwd, user.uid, user.gid)
    except OSError as error:
        raise MountError(f"the working directory {cwd}: {error.strerror}") from error
    hostname = os.uname().nodename if wish.host_network else name
    environment = _environment(config, wish, account, hostname)
    rootfs.find_program(args[0], environment["PATH"], cwd)
    env = tuple(f"{key}={value}" for key, value in environment.items())
    process = Process(user, args, cwd, env, _capabilities(user), wish.terminal is not None, wish.terminal)
    return Spec(
        OCI_VERSION,
        process,
        Root("rootfs", wish.read_only),
        hostname,
        (*_system_mounts(namespace, wish), *map(_bound, volumes)),
        _linux(wish),
    )


def _user(account: Account, namespace: UserNamespace) -> User:
    ids = (account.uid, namespace.has_user), (account.gid, namespace.has_group)
    for number, has in ids:
        if not has(number):
            raise UnsupportedError(
                f"without root there is no id {number} here: /etc/subuid and /etc/subgid give you none (subuid(5))"
            )
    more = tuple(gid for gid in account.additional_gids if namespace.has_group(gid))
    return User(account.uid, account.gid, more if namespace.may_set_groups else ())


def _capabilities(user: User) -> Capabilities:
    names = tuple(f"CAP_{name}" for name in _CAPABILITIES)
    return Capabilities(names) if user.uid else Capabilities(names, names, names)


def _environment(config: ContainerConfig, wish: Wish, account: Account, hostname: str) -> dict[str, str]:
    """The image's over the defaults, the user's over both."""
    found = {"PATH": PATH, "HOSTNAME": hostname, "container": "crfs"}
    found |= {"TERM": "xterm"} if wish.terminal else {}
    found |= dict(line.split("=", 1) for line in config.env if "=" in line)
    return {"HOME": account.home} | found | dict(wish.environment)


def _system_mounts(namespace: UserNamespace, wish: Wish) -> list[Mount]:
    terminals: tuple[str, ...] = ("newinstance", "ptmxmode=0666", "mode=0620")
    if namespace.has_group(_TTY):
        terminals += (f"gid={_TTY}",)
    quiet = ("nosuid", "noexec", "nodev")
    mounts = [
        Mount("/proc", "proc", "proc", quiet),
        Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", *terminals)),
        Mount("/dev/shm", "tmpfs", "shm", (*quiet, "mode=1777", "size=65536k")),
        Mount("/dev/mqueue", "mqueue", "mqueue", quiet),
    ]
    if namespace.is_first:
        mounts.append(Mount("/sys", "sysfs", "sysfs", (*quiet, "ro")))
        mounts.append(Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*quiet, "relatime", "ro")))
    else:
        # sysfs is the network namespace's owner's to mount
        mounts.append(Mount("/sys", "bind", "/sys", ("rbind", "rprivate", *quiet, "ro")))
    if wish.read_only:
        mounts += [Mount(at, "tmpfs", "tmpfs", ("nosuid", "nodev", "mode=1777")) for at in _SCRATCH]
    return mounts


def _bound(volume: Volume) -> Mount:
    options = ("rbind", "rprivate", "ro" if volume.read_only else "rw")
    return Mount(volume.destination, "bind", volume.source, options)


def _linux(wish: Wish) -> Linux:
    kinds = ["pid", "ipc", "uts", "mount", "cgroup"]
    kinds += [] if wish.host_network else ["network"]
    return Linux(tuple(map(Namespace, kinds)), _MASKED, _READONLY)
