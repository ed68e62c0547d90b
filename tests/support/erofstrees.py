"""Trees that have everything an EROFS image can hold, drawn at random or made to measure."""

import stat
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from crfs._native.layerindex import LayerIndex

_NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"-", b"!", b"...", b".x", b"\xff", b"n" * 255, b"N" * 200]),
    st.binary(min_size=1, max_size=255).filter(
        lambda name: not set(name) & {0, 47} and name not in (b".", b"..")
    ),
).filter(lambda name: not name.startswith(b".wh."))
_TIMES = st.one_of(st.just(5 * 10**9), st.integers(-(10**18), 9 * 10**18))
_IDS = st.one_of(st.just(0), st.integers(0, 0xFFFFFFFE))
_XATTRS = st.dictionaries(
    st.sampled_from(
        [
            b"user.a",
            b"user." + b"l" * 250,
            b"trusted.t",
            b"security.s",
            b"trusted.overlay.opaque",
            b"trusted.overlay.redirect",
            b"trusted.overlay.overlay.metacopy",
        ]
    ),
    st.one_of(st.sampled_from([b"", b"y", b"value"]), st.binary(max_size=60), st.just(b"v" * 3000)),
    max_size=4,
)
_SIZES = st.one_of(
    st.sampled_from([0, 1, 4096, (1 << 43) - 1, 1 << 43, (1 << 43) + 1, (1 << 48) + 7]), st.integers(0, 9999)
)
_DEVICES = st.sampled_from([0, 1, 0x0103, 0x10300, 0x12345678])
_TARGETS = st.one_of(
    st.sampled_from([b"t", b"t" * 4063, b"t" * 4064, b"t" * 4065, b"t" * 4095]), st.just(b"../x")
)
_FORMATS = (
    stat.S_IFREG,
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
)


@st.composite
def indexes(draw: st.DrawFn) -> LayerIndex:
    """One layer of up to 40 names, in directories that are in it or implied."""
    index = LayerIndex()
    paths: list[bytes] = []
    places = [b""]
    for _ in range(draw(st.integers(0, 40))):
        path = draw(st.sampled_from(places)) + draw(_NAMES)
        if path in paths:
            continue
        paths.append(path)
        others = [found for found in paths[:-1] if found + b"/" not in places]
        if others and draw(st.integers(0, 5)) == 0:
            index.add_hardlink(path, draw(st.sampled_from(others)))
            continue
        kind = draw(st.sampled_from(_FORMATS))
        _add(draw, index, path, kind)
        if kind == stat.S_IFDIR and path.count(b"/") < 5:
            places.append(path + b"/")
    index.seal(1 << 60)
    return index


def _add(draw: st.DrawFn, index: LayerIndex, path: bytes, kind: int) -> None:
    size = draw(_SIZES) if kind == stat.S_IFREG else 0
    index.add(
        path,
        kind | draw(st.sampled_from([0o644, 0o7777, 0])),
        draw(_IDS),
        draw(_IDS),
        size,
        draw(_TIMES),
        draw(_DEVICES) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        draw(_TARGETS) if kind == stat.S_IFLNK else b"",
        # Linux shows those of users for files and directories only
        {
            name: value
            for name, value in draw(_XATTRS).items()
            if kind in (stat.S_IFREG, stat.S_IFDIR) or not name.startswith(b"user.")
        },
    )
    for number in range(draw(st.integers(0, 2)) if size > 1 else 0):
        half = size // 2
        index.add_chunk(
            number * half, half, len(path) * 1000 + number, 0, draw(st.sampled_from([None, b"d" * 32]))
        )


def files(
    paths: Sequence[bytes], *, xattrs: Mapping[bytes, bytes] | None = None, mtimes_ns: Sequence[int] = (0,)
) -> LayerIndex:
    """Files of ten bytes; the times are taken in turn."""
    index = LayerIndex()
    for number, path in enumerate(paths):
        mtime_ns = mtimes_ns[number % len(mtimes_ns)]
        index.add(path, stat.S_IFREG | 0o644, 0, 0, 10, mtime_ns, 0, b"", xattrs)
        index.add_chunk(0, 10, number * 10, 0, None)
    index.seal(1 << 40)
    return index
