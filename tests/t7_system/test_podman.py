"""podman, buildah and the runtimes below them on crfs: as the mount program of a store, and with a mount as rootfs."""

import json
from collections.abc import Iterator

import pytest

from crfs.registry.server import Registry
from tests.support.layers import tree_entries
from tests.support.mounting import Crfs, crfs_in
from tests.support.podman import Podman, fill_rootfs, need_podman, podman_in
from tests.t6_mount.images import estargz_layer, push

CONTAINERFILE = """\
FROM base AS first
RUN echo one > /one && chmod 4711 /one && mkdir /dir && echo x > /dir/x
RUN rm /bin/touch && mv /dir /moved && ln -s /moved /link
FROM base
COPY --from=first /moved /copied
COPY file /file
RUN cat /file /copied/x > /both && rm -r /copied && mkdir /copied
"""

# what podman does for a user, but for the ids: /dev/fuse may be root's alone
SETTINGS = ("_CONTAINERS_USERNS_CONFIGURED=done", "_CONTAINERS_ROOTLESS_UID=0", "_CONTAINERS_ROOTLESS_GID=0")
NO_ROOT = ("unshare", "-Urm", "env", *SETTINGS)


@pytest.fixture(scope="module")
def crfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crfs]:
    need_podman()
    with crfs_in(tmp_path_factory.mktemp("crfs")) as commands:
        yield commands


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, crfs: Crfs) -> Iterator[Podman]:
    with podman_in(tmp_path_factory.mktemp("podman"), crfs) as running:
        yield running
    crfs.expect_nothing()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same tree as eStargz in a registry."""
    root = tmp_path_factory.mktemp("tree")
    fill_rootfs(root)
    with Registry() as registry:
        yield push(registry.address, "base", estargz_layer(tree_entries(root)))


def test_run(podman: Podman) -> None:
    """It writes, is mounted by crfs, has volumes, and hands its exit status on."""
    (podman.place / "volume").mkdir()
    script = "echo written > /etc/file; cat /etc/file; stat -f -c %T /; echo out > /volume/out; exit 7"
    done = podman.run(f"podman run --rm $RUN -v $PWD/volume:/volume base sh -c '{script}'")
    assert (done.status, done.out) == (7, "written\nfuseblk\n")
    assert (podman.place / "volume/out").read_text() == "out\n"


@pytest.mark.parametrize("options", ["$RUN", "$RUNC"])
def test_users_and_permissions(podman: Podman, options: str) -> None:
    script = (
        "echo mine > /tmp/file && stat -c %u:%A /tmp/file && ! rm /bin/cat 2>/dev/null && chmod 600 /tmp/file"
    )
    said = podman.sh(f"podman run --rm {options} --user 1000 base sh -c '{script}'")
    assert said == "1000:-rw-r--r--\n"


def test_several_at_once(podman: Podman) -> None:
    said = podman.sh(
        "mkdir gate; for i in 1 2 3; do podman run -d --name many$i -v $PWD/gate:/gate $RUN base"
        ' sh -c "echo $i > /n; while ! [ -e /gate/open ]; do sleep 0.1; done; cat /n"; done >&2;'
        "mount | grep -c $PWD/graph.*fuse.crfs; touch gate/open; podman wait many1 many2 many3;"
        "podman logs many2; podman rm -a >&2"
    )
    assert said.split() == ["3", "0", "0", "0", "2"]


def test_diff_commit_and_cp(podman: Podman) -> None:
    script = "echo c > /c; rm /bin/ls; mkdir /new; mv /etc/passwd /etc/moved"
    said = podman.sh(
        f"podman run --name changed $RUN base sh -c '{script}' >&2; podman diff changed; podman cp changed:/c copied;"
        "podman cp copied changed:/etc/in; podman commit -q changed committed >&2; podman rm changed >&2;"
        "podman run --rm $RUN committed sh -c 'cat /c /etc/in /etc/moved; ! cat /bin/ls'"
    )
    diff = {"C /bin", "D /bin/ls", "C /etc", "A /etc/moved", "D /etc/passwd", "A /new", "A /c"}
    assert diff <= set(said.splitlines())
    assert said.splitlines()[-4:] == ["c", "c", *(podman.place / "root/etc/passwd").read_text().splitlines()]


def test_build(podman: Podman) -> None:
    """Several stages, each step a layer."""
    (podman.place / "context").mkdir()
    (podman.place / "context/file").write_text("context\n")
    (podman.place / "context/Containerfile").write_text(CONTAINERFILE)
    said = podman.sh(
        "podman build -q --layers --isolation chroot --network=host -t built context >&2;"
        "podman build -q --target first --isolation chroot --network=host -t first context >&2;"
        "podman run --rm $RUN built sh -c 'cat /both; find /copied';"
        "podman run --rm $RUN first sh -c 'stat -c %A /one; cat /link/x; ! ls /dir /bin/touch 2>/dev/null'"
    )
    assert said == "context\nx\n/copied\n-rws--x--x\nx\n"


def test_buildah(podman: Podman) -> None:
    said = podman.sh(
        "c=$(buildah from base); buildah run --isolation chroot $c sh -c 'echo b > /b; rm /bin/find';"
        "(cd $(buildah mount $c) && cat b && ! ls bin/find 2>/dev/null); buildah umount $c >&2;"
        "buildah commit -q $c by-buildah >&2; buildah rm $c >&2; podman run --rm $RUN by-buildah cat /b"
    )
    assert said == "b\nb\n"


def test_without_root(podman: Podman) -> None:
    """As podman runs for a user, by whom it has a user namespace made."""
    state = 'graphroot = .*|graphroot = "$PWD/rootless"|; s|runroot = "\\(.*\\)"|runroot = "\\1-rootless"'
    said = podman.sh(
        f"sed 's|{state}|' storage.conf > rootless.conf; export CONTAINERS_STORAGE_CONF=$PWD/rootless.conf;"
        "tar -C root -c . | podman import -q - base >&2; podman info --format '{{.Host.Security.Rootless}}';"
        "podman run --rm $RUN base sh -c 'rm -r /var && mkdir /var && ls /var; echo x > /x; cat /x';"
        "podman system reset -f >&2; ! mount | grep $PWD/rootless",
        *NO_ROOT,
    )
    assert said == "true\nx\n"


def test_rootfs(podman: Podman, crfs: Crfs, image: str) -> None:
    """A mount of a registry's image, under an upper directory."""
    script = "echo written > /written; cat /written; rm /bin/ls; exit 5"
    done = podman.run(
        f"mkdir merged upper work; crfs mount {image} merged --upper upper --work work;"
        f"podman run --rm $RUN --rootfs $PWD/merged sh -c '{script}' || echo $?;"
        "podman run --rm $RUNC --rootfs $PWD/merged sh -c 'cat /written; ! ls 2>/dev/null' || echo $?;"
        "crfs umount merged"
    )
    assert (done.status, done.out) == (0, "written\n5\nwritten\n"), done
    assert (podman.place / "upper/written").read_text() == "written\n"


def test_rootfs_without_root(podman: Podman, image: str) -> None:
    """The mount is made by `podman unshare`, in whose namespace podman runs the container."""
    script = "rm /bin/ls; echo written > /written; cat /written; exit 4"
    said = podman.sh(
        f'mkdir theirs upper1 work1; podman unshare sh -c "crfs mount {image} theirs --upper upper1 --work work1;'
        f"podman run --rm $RUN --rootfs $PWD/theirs sh -c '{script}'; echo \\$?; crfs umount theirs\"",
        *NO_ROOT,
    )
    assert said == "written\n4\n"
    assert (podman.place / "upper1/written").read_text() == "written\n"


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_bundle(podman: Podman, image: str, runtime: str) -> None:
    """A runtime by itself, the bundle's rootfs a mount."""
    bundle = podman.place / f"bundle-{runtime}"
    for name in ("rootfs", "upper", "work"):
        (bundle / name).mkdir(parents=True)
    podman.sh(f"cd {bundle}; {runtime} spec")
    config = json.loads((bundle / "config.json").read_text())
    config["root"] = {"path": "rootfs", "readonly": False}
    config["process"] |= {
        "terminal": False,
        "rlimits": [],
        "args": ["sh", "-c", "echo b > /b; cat /b; exit 3"],
    }
    (bundle / "config.json").write_text(json.dumps(config))
    command = {"crun": "crun --cgroup-manager=disabled", "runc": "runc"}[runtime]
    said = podman.sh(
        f"cd {bundle}; crfs mount {image} rootfs --upper upper --work work;"
        f"{command} run -b . crfs-test-$$ || echo $?; crfs umount rootfs"
    )
    assert said == "b\n3\n"
    assert (bundle / "upper/b").read_text() == "b\n"
