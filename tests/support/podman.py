"""podman and buildah with a store of their own, whose mounts are made by crfs-overlayfs; and an image for them.

    with podman_in(place, crfs) as podman:
        podman.sh("podman run --rm $RUN base cat /etc/passwd")

Each script has a mount namespace of its own, without the second cgroup hierarchy that confuses crun where both
versions are mounted. `$RUN` is what `podman run` needs there, and without the right to raise limits. As root.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import Crfs, Done, need_fuse

PROGRAMS = ("sh", "cat", "ls", "chmod", "chown", "touch", "stat", "rm", "mkdir", "mv", "ln", "sleep", "find")
_LIMITS = "--ulimit nofile=1024:4096 --ulimit nproc=1000:1000"
RUN = f"{_LIMITS} --cgroups=disabled --network=none"
RUNC = f"--runtime runc {_LIMITS} --network=none"
_LIBRARY = re.compile(r"(/\S+) \(0x")
OWN_NAMESPACE = """\
mount --make-rprivate /
umount /sys/fs/cgroup/unified 2>/dev/null
exec "$@"
"""


def fill_rootfs(root: Path, programs: Sequence[str] = PROGRAMS) -> None:
    """A tree that programs can be run in: some of this machine's, with their libraries."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    for name in programs:
        found = shutil.which(name)
        assert found is not None, name
        shutil.copy2(os.path.realpath(found), root / "bin" / name)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True)
        for library in _LIBRARY.findall(listed.stdout):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.realpath(library), root / library[1:])


@dataclass(frozen=True, slots=True)
class Podman:
    """See the module."""

    place: Path
    environment: dict[str, str]

    def run(self, script: str, *wrapper: str) -> Done:
        """A script to its end, and to that of its output, in `place`. It ends with the first command that fails."""
        command = ["unshare", "-m", "sh", "-c", OWN_NAMESPACE, "sh", *wrapper, "sh", "-ec", script]
        done = subprocess.run(
            command,
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def sh(self, script: str, *wrapper: str) -> str:
        """What a script says; it must succeed."""
        done = self.run(script, *wrapper)
        assert done.status == 0, done
        return done.out


def need_podman() -> None:
    """Skip the test where podman, or what it needs, is missing."""
    need_root()
    need_fuse()
    need_programs(["podman", "buildah", "crun", "runc"])


@contextlib.contextmanager
def podman_in(place: Path, crfs: Crfs) -> Iterator[Podman]:
    """A new store below `place`, with an image `base`; when it is reset, nothing of it is left."""
    # in a short path: podman's own clean-up after a container takes no longer ones
    with tempfile.TemporaryDirectory(prefix="crfs-", dir="/tmp") as run:
        yield from _podman_at(place, Path(run), crfs)


def _podman_at(place: Path, run: Path, crfs: Crfs) -> Iterator[Podman]:
    config = place / "storage.conf"
    program = Path(sys.executable).with_name("crfs-overlayfs")
    config.write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{run}/run"\ngraphroot = "{place}/graph"\n'
        f'[storage.options.overlay]\nmount_program = "{program}"\n'
    )
    (place / "containers.conf").write_text(f'[engine]\ntmp_dir = "{run}/tmp"\n')
    path = f"{program.parent}:{os.environ['PATH']}"
    settings = {"CONTAINERS_STORAGE_CONF": str(config), "CONTAINERS_CONF": f"{place}/containers.conf"}
    settings |= {"PATH": path, "RUN": RUN, "RUNC": RUNC}
    podman = Podman(place, {**crfs.environment, **settings})
    fill_rootfs(place / "root")
    podman.sh("tar -C root -c . | podman import -q - base")
    try:
        yield podman
    finally:
        podman.sh("podman system reset -f; ! mount | grep $PWD/graph; ! ls graph 2>/dev/null")
