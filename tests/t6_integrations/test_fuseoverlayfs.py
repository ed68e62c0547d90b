"""fuse-overlayfs's command line, as podman and others write it."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from crfs.errors import UsageError
from crfs.formats.overridestat import XattrPermissions
from crfs.formats.reference import UrlSource
from crfs.integrations.crfsplugin import CrfsLower
from crfs.integrations.fuseoverlayfs import Words, parse_request, parse_words
from crfs.integrations.idmap import IdMap, IdRange
from crfs.integrations.overlayrequest import (
    Acl,
    DirectoryLower,
    OverlayRequest,
    RedirectDir,
    Xino,
    id_maps,
    libfuse_options,
)

CWD = Path("/graph/overlay")
LINE = "lowerdir=/l"
# what LINE alone asks for
BARE = OverlayRequest(Path("/m"), (DirectoryLower(Path("/l")),), read_only=True)
URL = "https://url/to/stargzified-layer.tar.gz"
PLUGIN = f"//crfs/{base64.b64encode(URL.encode()).decode()}//home/user/lower"


def parse(*argv: str) -> OverlayRequest:
    return parse_request(parse_words(argv), CWD)


def parse_options(options: str) -> OverlayRequest:
    return parse("-o", f"{LINE},{options}", "/m")


def directories(*paths: str) -> tuple[DirectoryLower, ...]:
    return tuple(DirectoryLower(Path(path)) for path in paths)


def test_bare() -> None:
    assert parse("-o", LINE, "/m") == BARE


def test_as_podman_calls() -> None:
    graph = "/graph/overlay"
    ids = ":".join(f"{graph}/l/ID{number}" for number in (3, 2, 1))
    options = f"lowerdir={ids},upperdir={graph}/HEX/diff,workdir={graph}/HEX/work,,volatile"
    assert parse("-o", options, f"{graph}/HEX/merged") == OverlayRequest(
        Path("/graph/overlay/HEX/merged"),
        directories("/graph/overlay/l/ID3", "/graph/overlay/l/ID2", "/graph/overlay/l/ID1"),
        Path("/graph/overlay/HEX/diff"),
        Path("/graph/overlay/HEX/work"),
        volatile=True,
        fsync=False,
    )


def test_as_podman_calls_with_labels_and_user_namespaces() -> None:
    label = 'context="system_u:object_r:container_file_t:s0:c1,c2"'
    request = parse(
        "-o",
        f"lowerdir=l/ID1,upperdir=H/diff,workdir=H/work,nodev,{label},"
        "uidmapping=0:1000:1:1:100000:65536,gidmapping=0:1000:1:1:100000:65536,xattr_permissions=2",
        "H/merged",
    )
    assert request == OverlayRequest(
        Path("/graph/overlay/H/merged"),
        directories("/graph/overlay/l/ID1"),
        Path("/graph/overlay/H/diff"),
        Path("/graph/overlay/H/work"),
        uid_ranges=(IdRange(0, 1000, 1), IdRange(1, 100000, 65536)),
        gid_ranges=(IdRange(0, 1000, 1), IdRange(1, 100000, 65536)),
        xattr_permissions=XattrPermissions.USER,
        context="system_u:object_r:container_file_t:s0:c1,c2",
        fuse_options=("nodev",),
    )


def test_dots_behind_a_symlink_stay() -> None:
    request = parse("-o", "lowerdir=l/ID/../diff1:l/ID", "m")
    assert [str(lower.path) for lower in request.lowers if isinstance(lower, DirectoryLower)] == [
        "/graph/overlay/l/ID/../diff1",
        "/graph/overlay/l/ID",
    ]


def test_as_crfs_plugin_documents() -> None:
    request = parse(
        "-o",
        f"fast_ino=1,plugins=/path/to/crfs-plugin.so,lowerdir={PLUGIN},upperdir=upper,workdir=work",
        "merged",
    )
    assert request == OverlayRequest(
        CWD / "merged",
        (CrfsLower(UrlSource(URL), "/home/user/lower"),),
        CWD / "upper",
        CWD / "work",
        fast_ino=True,
    )


def test_images_between_directories() -> None:
    request = parse("-o", f"lowerdir=top:{PLUGIN}:/low", "/m")
    crfs = CrfsLower(UrlSource(URL), "/home/user/lower")
    assert request.lowers == (*directories("/graph/overlay/top"), crfs, *directories("/low"))


OPTIONS = {
    "": BARE,
    ",,,": BARE,
    "rw": BARE,
    "upperdir=u,workdir=w": replace(BARE, upperdir=CWD / "u", workdir=CWD / "w", read_only=False),
    "upperdir=u,workdir=w,ro": replace(BARE, upperdir=CWD / "u", workdir=CWD / "w"),
    "upperdir=u,workdir=w,ro,rw": replace(BARE, upperdir=CWD / "u", workdir=CWD / "w", read_only=False),
    "upperdir=a\\,b,workdir=c\\:d": replace(BARE, upperdir=CWD / "a,b", workdir=CWD / "c:d", read_only=False),
    "workdir=w": BARE,
    "debug": replace(BARE, debug=True, foreground=True),
    "uidmapping=": BARE,
    "uidmapping=0:10:100:100:10000:2000": replace(
        BARE, uid_ranges=(IdRange(0, 10, 100), IdRange(100, 10000, 2000))
    ),
    "gidmapping=5:6:7:": replace(BARE, gid_ranges=(IdRange(5, 6, 7),)),
    "uidmapping=0:0:4294967296": replace(BARE, uid_ranges=(IdRange(0, 0, 2**32),)),
    "squash_to_root": replace(BARE, squash_uid=0, squash_gid=0),
    "squash_to_uid=7": replace(BARE, squash_uid=7),
    "squash_to_gid=8": replace(BARE, squash_gid=8),
    "squash_to_uid=7,squash_to_root": replace(BARE, squash_uid=7, squash_gid=0),
    "static_nlink": replace(BARE, static_nlink=True),
    "xino=off": replace(BARE, xino=Xino.OFF),
    "xino=auto": BARE,
    "xino=on": replace(BARE, xino=Xino.ON),
    "ino32_t": replace(BARE, ino32=True),
    "noacl": replace(BARE, acl=Acl.OFF),
    "timeout=0": replace(BARE, timeout=0.0),
    "timeout=1.5": replace(BARE, timeout=1.5),
    "timeout=1e3": replace(BARE, timeout=1000.0),
    "threaded=0": replace(BARE, threaded=False),
    "threaded=1": BARE,
    "fsync=0": replace(BARE, fsync=False),
    "fsync=1": BARE,
    "volatile": replace(BARE, volatile=True, fsync=False),
    "volatile,fsync=1": replace(BARE, volatile=True, fsync=False),
    "fast_ino=1": replace(BARE, fast_ino=True),
    "fast_ino=0": BARE,
    "writeback=0": replace(BARE, writeback=False),
    "noxattrs=1": replace(BARE, noxattrs=True),
    "userxattr": replace(BARE, userxattr=True),
    "xattr_permissions=0": BARE,
    "xattr_permissions=1": replace(BARE, xattr_permissions=XattrPermissions.PRIVILEGED),
    "xattr_permissions=2": replace(BARE, xattr_permissions=XattrPermissions.USER),
    "redirect_dir=off": replace(BARE, redirect_dir=RedirectDir.OFF),
    "redirect_dir=on": BARE,
    "redirect_dir=follow": replace(BARE, redirect_dir=RedirectDir.FOLLOW),
    "context=a:b": replace(BARE, context="a:b"),
    "plugins=/a.so:/b.so": BARE,
    "allow_root,default_permissions": replace(BARE, fuse_options=("allow_root", "default_permissions")),
    "nosuid,dev,noexec,atime": replace(BARE, fuse_options=("nosuid", "dev", "noexec", "atime")),
    "diratime,nodiratime,lazytime,kernel_cache,clone_fd,max_threads=4": BARE,
    "max_write=65536,fsname=a\\,b": replace(BARE, fuse_options=("max_write=65536", "fsname=a\\,b")),
    "_netdev,nofail,x-systemd.automount,noauto": BARE,
    "timeout=1,timeout=2,xino=on,xino=off": replace(BARE, timeout=2.0, xino=Xino.OFF),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_option(options: str) -> None:
    assert parse_options(options) == OPTIONS[options]


def test_every_field_has_an_option() -> None:
    asked = [*OPTIONS.values(), parse("-f", "-o", f"{LINE},unknown", "/m")]
    names = [field.name for field in fields(BARE)]
    same = [name for name in names if all(getattr(one, name) == getattr(BARE, name) for one in asked)]
    assert same == ["mountpoint", "lowers"]


@pytest.mark.parametrize(
    ("lowerdir", "paths"),
    [
        ("a", ["/graph/overlay/a"]),
        ("/a", ["/a"]),
        (":/a::/b:", ["/a", "/b"]),
        ("/a\\:b:/c", ["/a:b", "/c"]),
        ("/a\\,b:/c", ["/a,b", "/c"]),
        ("/a\\\\:/c", ["/a\\", "/c"]),
        ("/a\\072b\\054c:/d", ["/a:b,c", "/d"]),
        ("/a\\040b", ["/a b"]),
        ("/a b:/c\nd", ["/a b", "/c\nd"]),
        ("..:.", ["/graph/overlay/..", "/graph/overlay"]),
    ],
)
def test_lowers(lowerdir: str, paths: list[str]) -> None:
    assert parse("-o", f"lowerdir={lowerdir}", "/m").lowers == directories(*paths)


_NAME = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]) | st.sampled_from("\\:,\udcff"),
    min_size=1,
)


@given(st.lists(_NAME, min_size=1, max_size=6), _NAME, _NAME)
def test_any_names(lowers: list[str], upper: str, work: str) -> None:
    def escaped(name: str) -> str:
        return name.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")

    joined = ":".join(f"/{escaped(name)}" for name in lowers)
    request = parse("-o", f"lowerdir={joined},upperdir={escaped(upper)},workdir={escaped(work)}", "/m")
    assert request == OverlayRequest(
        Path("/m"), tuple(DirectoryLower(Path("/", name)) for name in lowers), CWD / upper, CWD / work
    )


def refusal(*argv: str) -> str:
    """Why a command line is refused; empty where it is not."""
    try:
        parse(*argv)
    except UsageError as error:
        return str(error)
    return ""


@given(st.lists(st.text(), max_size=6))
def test_any_words_are_understood_or_refused(argv: list[str]) -> None:
    assert "\n" not in refusal(*argv)


@given(st.text(st.sampled_from('lowerdir=xtimuapng,:\\/0123-"o')).map(lambda text: f"lowerdir=/l,{text}"))
def test_any_options_are_understood_or_refused(options: str) -> None:
    assert "\n" not in refusal("-o", options, "/m")


WORDS = {
    ("-f", "m"): Words(places=("m",), foreground=True),
    ("-d", "m"): Words(places=("m",), debug=True),
    ("--debug", "m"): Words(places=("m",), debug=True),
    ("-h",): Words(help=True),
    ("--help",): Words(help=True),
    ("-V",): Words(version=True),
    ("--version",): Words(version=True),
    ("-s", "m"): Words(places=("m",)),
    ("-o", "a", "-ob,c", "m", "-o", "-f"): Words(options=("a", "b,c", "-f"), places=("m",)),
    ("overlay", "m"): Words(places=("overlay", "m")),
    ("--", "-m"): Words(places=("-m",)),
    ("-x", "m", "--foo"): Words(places=("m",), unknown=("-x", "--foo")),
}


@pytest.mark.parametrize("argv", WORDS)
def test_words(argv: tuple[str, ...]) -> None:
    assert parse_words(argv) == WORDS[argv]


def test_last_place_counts_as_for_mount() -> None:
    assert parse("overlay", "m", "-o", LINE).mountpoint == CWD / "m"


def test_debug_stays_in_the_foreground() -> None:
    assert parse("-d", "-o", LINE, "/m") == replace(BARE, debug=True, foreground=True)


@pytest.mark.parametrize(
    "option",
    ["foo", "foo=1", "metacopy=on", "volatile=1", "fsync", "uidmapping", "ro=1", "max_write", "LOWERDIR=x"],
)
def test_unknown_is_ignored_with_a_warning(option: str) -> None:
    assert parse_options(option) == replace(BARE, warnings=(f"{option!r}: unknown option, ignored",))


def test_unknown_words_are_ignored_with_a_warning() -> None:
    assert parse("-x", "-o", LINE, "/m") == replace(BARE, warnings=("'-x': unknown option, ignored",))


def test_id_maps() -> None:
    uids, gids = id_maps(parse_options("uidmapping=0:1:2,squash_to_gid=3"), (7, 8))
    assert uids == IdMap((IdRange(0, 1, 2),), None, 7)
    assert gids == IdMap((), 3, 8)


def test_libfuse_options_of_root() -> None:
    mine = ("nonempty", "default_permissions", "noatime", "nodev", "suid", "allow_other")
    assert libfuse_options(BARE, root=True) == (*mine, "ro")
    writable = parse_options("upperdir=u,workdir=w,nosuid")
    assert libfuse_options(writable, root=True) == (*mine, "nosuid")


def test_libfuse_options_of_others() -> None:
    assert libfuse_options(BARE, root=False) == (
        "nonempty",
        "default_permissions",
        "noatime",
        "nodev",
        "ro",
    )


def test_allow_root_takes_the_place_of_allow_other() -> None:
    options = libfuse_options(parse_options("allow_root"), root=True)
    assert "allow_root" in options
    assert "allow_other" not in options


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("upperdir=u", "workdir= is missing"),
        ("upperdir=,workdir=w", "upperdir='' is not a path"),
        ("upperdir=u,workdir=", "workdir='' is not a path"),
        ("upperdir=u\\000,workdir=w", "not a path"),
        ("lowerdir=", "lowerdir= is missing"),
        ("lowerdir=::", "lowerdir= is missing"),
        ("lowerdir=a\\000b", "not a path"),
        ("lowerdir=//other/x/y", "no plugin 'other'"),
        ("lowerdir=//crfs/x/y", "is not the base64"),
        ("uidmapping=1:2", "HOST:TO:LENGTH"),
        ("uidmapping=1:2:3:4", "HOST:TO:LENGTH"),
        ("gidmapping=1:2:x", "HOST:TO:LENGTH"),
        ("gidmapping=1:-2:3", "HOST:TO:LENGTH"),
        ("uidmapping=1:2:\u0663", "HOST:TO:LENGTH"),
        ("uidmapping=4294967295:0:2", "32 bits"),
        ("uidmapping=0:4294967295:2", "32 bits"),
        ("squash_to_uid=-1", "not an id"),
        ("squash_to_uid=", "not an id"),
        ("squash_to_gid=4294967296", "not an id"),
        ("timeout=", "not a number of seconds"),
        ("timeout=abc", "not a number of seconds"),
        ("timeout=-1", "not a number of seconds"),
        ("timeout=inf", "not a number of seconds"),
        ("timeout=nan", "not a number of seconds"),
        ("threaded=x", "0 or 1"),
        ("fsync=", "0 or 1"),
        ("fast_ino=yes", "0 or 1"),
        ("writeback=on", "0 or 1"),
        ("noxattrs=1x", "0 or 1"),
        ("xino=yes", "off, auto, on"),
        ("redirect_dir=yes", "off, follow, on"),
        ("xattr_permissions=3", "0, 1 or 2"),
        ("xattr_permissions=", "0, 1 or 2"),
    ],
)
def test_should_fail_option(options: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_options(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ((), "directory to mount on is missing"),
        (("-o", LINE), "directory to mount on is missing"),
        (("-o", LINE, ""), "mountpoint='' is not a path"),
        (("m",), "lowerdir= is missing"),
        (("m", "-o"), "-o: the options are missing"),
    ],
)
def test_should_fail_words(argv: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse(*argv)
