"""What a Python program imports is fetched before it asks: modules that this Python compiled, on a server."""

import importlib.util
import marshal
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layers import Entry, File
from tests.support.mounting import wait_until
from tests.support.objects import link_library
from tests.t3_layers.images import Image, Place, lazy, whole

# more than travels along with another file
_PADDING = 200_000
_LIBRARY = "usr/lib/python3.99"
_SITE = "usr/lib/python3.99/site-packages"
_TAG = sys.implementation.cache_tag
SOURCES = {
    f"{_LIBRARY}/encodings/__init__.py": "from . import aliases",
    f"{_LIBRARY}/encodings/aliases.py": "",
    f"{_LIBRARY}/encodings/utf_8.py": "import codecs",
    f"{_LIBRARY}/codecs.py": "import unused",
    f"{_LIBRARY}/first.py": "import second, package.inner as inner, extension\ndef f():\n    import unused",
    f"{_LIBRARY}/second.py": "from package.other import name\nif __name__ == '__main__':\n    import unused",
    f"{_LIBRARY}/unused.py": "",
    f"{_SITE}/package/__init__.py": "from .sub import leaf, no_module",
    f"{_SITE}/package/inner.py": "",
    f"{_SITE}/package/other.py": "from .. import unused\nfrom . import missing",
    f"{_SITE}/package/sub/__init__.py": "",
    f"{_SITE}/package/sub/leaf.py": "from ..sub import deep",
    f"{_SITE}/package/sub/deep.py": "import first, namespace.part",
    f"{_SITE}/namespace/part.py": "",
}
IMPORTED = {path for path in SOURCES if not path.endswith(("unused.py", "codecs.py"))}


def noise(name: str) -> bytes:
    return random.Random(name).randbytes(_PADDING)


def compiled(path: str, source: str) -> File:
    """What the interpreter keeps of a module, with a constant that makes it large."""
    code = compile(f"{source}\nNOISE = {noise(path)!r}", path, "exec")
    directory, _, name = path.rpartition("/")
    head = importlib.util.MAGIC_NUMBER + bytes(12)
    return File(f"{directory}/__pycache__/{name[:-3]}.{_TAG}.pyc", head + marshal.dumps(code))


def cached(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/__pycache__/{name[:-3]}.{_TAG}.pyc"


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """An extension module that needs a library."""
    root = tmp_path_factory.mktemp("objects")
    link_library(root, "libneeded.so")
    made = link_library(root, "extension.so", "libneeded.so").read_bytes()
    return [
        File(f"{_LIBRARY}/lib-dynload/extension.{_TAG}-x86_64-linux-gnu.so", made + noise("extension")),
        File("usr/lib/libneeded.so", (root / "libneeded.so").read_bytes() + noise("libneeded")),
    ]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def is_here(image: Image, path: str) -> bool:
    return image.reader.find_cached(image.find(path.encode()), 100, 1) is not None


def test_what_a_module_imports_comes(place: Place, extension: list[Entry]) -> None:
    modules = [compiled(path, source) for path, source in SOURCES.items()]
    sources = [File(path, source.encode() + b"#" + noise(path)) for path, source in SOURCES.items()]
    place.push("app", lazy([*modules, *sources, *extension]))
    with place.open("app") as image:
        image.read(cached(f"{_LIBRARY}/first.py").encode(), 0, 4096)
        of_encodings = {path for path in IMPORTED if "/encodings/" in path}
        wanted = {cached(path) for path in IMPORTED - of_encodings}
        wanted |= {entry.name for entry in extension}
        every = {entry.name for entry in (*modules, *sources, *extension)}
        wait_until(lambda: {path for path in every if is_here(image, path)} == wanted, 20)
        # and a second look needs nothing
        asked = len(place.blob_ranges())
        image.read(cached(f"{_LIBRARY}/first.py").encode(), 0, 4096)
        image.settle()
        assert len(place.blob_ranges()) == asked


@pytest.mark.parametrize("chunk_size", [4 << 20, 64 << 10])
def test_sources_are_followed_where_nothing_is_compiled(place: Place, chunk_size: int) -> None:
    sources = [File(path, source.encode() + b"\n#" + noise(path)) for path, source in SOURCES.items()]
    program = File("srv/app/main.py", b"import first\nimport helper\n#" + noise("main"))
    helper = File("srv/app/helper.py", noise("helper"))
    place.push("app", lazy([*sources, program, helper], chunk_size=chunk_size))
    with place.open("app") as image:
        # what the interpreter reads before the program: where its library is
        image.read(f"{_LIBRARY}/encodings/utf_8.py".encode(), 0, 4096)
        image.read(b"srv/app/main.py", 0, 4096)
        wanted = {*IMPORTED, helper.name}
        wanted -= {f"{_LIBRARY}/encodings/{name}.py" for name in ("__init__", "aliases")}
        wait_until(lambda: all(is_here(image, path) for path in wanted), 20)
        assert not is_here(image, f"{_LIBRARY}/codecs.py")


def test_interpreters_are_known(place: Place, extension: list[Entry]) -> None:
    tag = "cpython-399"
    common = {f"{_LIBRARY}/re.py": "import sre", f"{_LIBRARY}/sre.py": ""}
    modules = [
        File(cached(path).replace(_TAG, tag), compiled(path, source).data)
        for path, source in (SOURCES | common).items()
    ]
    interpreter = File("usr/bin/python3.99", b"\x7fELF" + noise("interpreter"))
    zone = File("etc/localtime", noise("zone"))
    place.push("app", lazy([*modules, interpreter, zone]))
    with place.open("app") as image:
        image.read(b"usr/bin/python3.99", 0, 4096)
        wanted = {
            cached(path).replace(_TAG, tag)
            for path in IMPORTED | common.keys()
            if path in common or "/encodings/" in path
        }
        wanted.add(zone.name)
        wait_until(
            lambda: {path.name for path in (*modules, zone) if is_here(image, path.name)} == wanted, 20
        )


def test_whole_layers_have_nothing_to_fetch(place: Place) -> None:
    place.push("app", whole([compiled(path, source) for path, source in SOURCES.items()]))
    with place.open("app") as image:
        asked = len(place.blob_ranges())
        image.read(cached(f"{_LIBRARY}/first.py").encode(), 0, 4096)
        image.settle()
        assert len(place.blob_ranges()) == asked


def test_large_files_are_data(place: Place) -> None:
    data = File("data/table.py", b"TABLE = 1\n" + random.Random(0).randbytes(3 << 20))
    place.push("app", lazy([data], chunk_size=64 << 10))
    with place.open("app") as image:
        assert image.read(b"data/table.py", 0, 100) == data.data[:100]
        image.settle()
        assert image.reader.find_cached(image.find(b"data/table.py"), 2 << 20, 9) is None


def test_what_is_called_a_module_and_is_none(place: Place) -> None:
    files = [File("a/empty.py", b""), File("a/noise.py", noise("a")), File("a/__pycache__/b.pyc", noise("b"))]
    magic = File("a/__pycache__/c.pyc", importlib.util.MAGIC_NUMBER + noise("c"))
    place.push("app", lazy([*files, magic]))
    with place.open("app") as image:
        for file in (*files, magic):
            assert image.read(file.name.encode(), 0, 100) == file.data[:100]
        image.settle()
