"""A module imports only from floors below its own, and each floor only the packages that are its business."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import crfs

ROOT = Path(crfs.__file__).parent
KERNELS = sorted((Path(__file__).parent.parent / "pyx").glob("*.pyx"))

# lowest first; those of one floor do not know each other
FLOORS = (
    {"errors"},
    {"_native"},
    {"formats"},
    {"blobs", "registry"},
    {"layers"},
    {"image"},
    {"convert"},
    {"overlay"},
    {"fuse"},
    {"mount"},
    {"integrations"},
    {"cli"},
)
# beside the standard library; `asyncio` is counted as a package, because only two floors may have a loop
PACKAGES = {
    "errors": set[str](),
    "_native": set[str](),
    "formats": {"msgspec"},
    "blobs": {"asyncio", "aiohttp", "multidict", "yarl", "msgspec", "platformdirs"},
    "registry": {"asyncio", "aiohttp", "msgspec"},
    "layers": {"msgspec", "zstandard"},
    "image": {"msgspec"},
    "convert": {"msgspec", "zstandard"},
    "overlay": {"msgspec"},
    "fuse": {"llfuse", "msgspec"},
    "mount": {"msgspec", "prometheus_client", "setproctitle"},
    "integrations": {"msgspec"},
    "cli": {"msgspec", "rich", "platformdirs"},
}
# arrows that go up or sideways all the same: (importer, imported) -> why
EXCEPTIONS = {
    ("crfs._native.tocindex", "crfs.formats.toc"): "only the stub: it names the type of what is read from",
}
# imports that are not at the top: (importer, imported) -> why. Both are patterns
LATE = {
    ("crfs.blobs.runtimeplace", "warnings"): "root needs no platformdirs, nor what is said by it",
    ("crfs.blobs.network", "crfs.blobs.*"): "not for a mount whose image is all in the cache",
    ("crfs.cli.compose", "crfs.cli.sources"): "not for a mount whose image is all in the cache",
    ("crfs.cli.likely", "crfs.image.attached"): "not for a mount that has a trace, or wants none",
    ("crfs.image.kept", "crfs.layers.unzstd"): "only for images that have such layers",
    ("crfs.cli.compose", "crfs.image.verify"): "not for a mount whose image is all in the cache",
    (
        "crfs.cli.*",
        "crfs.cli.services",
    ): "--help and wrong uses answer before the threads' modules are loaded",
    ("crfs.cli.inspect", "crfs.cli.sources"): "--help and wrong uses answer before aiohttp is loaded",
    ("crfs.cli.*", "crfs.cli.compose"): "--help and wrong uses answer before aiohttp is loaded",
    ("crfs.mount.engines.choice", "crfs.mount.engines.*"): "only the engines that may be used",
    ("crfs.cli.upper", "crfs.mount.engines.*"): "only the engine that is used",
    ("crfs.cli.run", "crfs.cli.progress"): "only where the line is shown",
    ("crfs.cli.compose", "crfs.cli.imageconfig"): "only for who wants it",
    ("crfs.cli.imageconfig", "crfs.*"): "not for a mount whose image is all in the cache",
    ("crfs.cli.*", "crfs.cli.erofs"): "only the engine that is used",
    ("crfs.cli.mount", "crfs.cli.wishes"): "only the engine that is used",
    ("crfs.cli.images", "crfs.cli.imageconfig"): "only for who wants it",
    ("crfs.cli.handedover", "crfs.cli.readahead"): "not for a command that is handed over",
    ("crfs.cli.erofs", "crfs.*overlay*"): "a read-only mount need not wait for the overlay",
    ("crfs.cli.upper", "crfs.fuse.lowertree"): "only the engine that is used",
    ("crfs.cli.mount", "crfs.cli.upper"): "a read-only mount need not wait for the overlay",
    ("crfs.cli.overlaycommand", "crfs.cli.overlay"): "the engine is of no use to --version and wrong uses",
    ("crfs.cli.main", "crfs.cli.commands"): "not for a mount that is handed over",
    ("crfs.cli.overlayfs", "crfs.cli.overlaycommand"): "not for a mount that is handed over",
    ("crfs.fuse.unmount", "subprocess"): "most mounts are taken down by others",
    ("crfs.blobs.runtimeplace", "platformdirs"): "not for root",
    ("crfs.cli.background", "crfs.mount.warm"): "only the first mount leaves a warm process",
    ("crfs.cli.*", "crfs.cli.compose_*"): "--help and wrong uses answer before aiohttp is loaded",
    ("crfs.cli.options", "crfs.mount.metrics"): "only for who asks for them",
    ("crfs.cli.*", "rich.*"): "only where a table or a progress bar is printed",
    ("crfs.blobs.tls", "ssl"): "aiohttp has it loaded, and what reads settings does not need it",
    ("crfs.blobs.http", "urllib"): "aiohttp has it loaded",
    ("crfs.blobs.transport", "email.utils"): "only for a Retry-After that is a date",
    ("crfs.blobs.registriesconf", "tomllib"): "only where there is a file",
    ("crfs.blobs.directories", "platformdirs"): "only where no option or fixed path says it all",
    ("crfs.layers.opener", "crfs.layers.ingest"): "zstandard is only needed for what is not read lazily",
    ("crfs.layers.findtoc", "crfs.layers.unzstd"): "zstandard is only needed for zstd:chunked",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One import: of `names` out of `module`, or of the module itself; `late` is one inside of a function."""

    path: Path
    line: int
    importer: str
    module: str
    names: tuple[str, ...]
    late: bool
    typing: bool

    def __str__(self) -> str:
        where = f"{self.path.relative_to(ROOT.parent)}:{self.line}"
        return f"{where}: {self.importer} -> {self.module}"

    @property
    def floor(self) -> str:
        return _floor(self.importer)


def _floor(module: str) -> str:
    """`blobs` of crfs.blobs.store; what lies beside the packages is its own."""
    return module.split(".")[1] if "." in module else ""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources() -> dict[str, Path]:
    """Every module by its name; of the kernels, their stubs."""
    paths = [path for path in sorted(ROOT.rglob("*.py*")) if path.suffix in (".py", ".pyi")]
    return {_module(path): path for path in paths}


SOURCES = _sources()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in SOURCES.items()}


def _imports(name: str) -> Iterator[Import]:
    yield from _walk(name, TREES[name], late=False, typing=False)


def _walk(name: str, node: ast.AST, *, late: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        for_types = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(SOURCES[name], child.lineno, name, alias.name, (), late, typing)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            modules = {alias.name for alias in child.names if f"{module}.{alias.name}" in SOURCES}
            for part in sorted(modules):
                yield Import(SOURCES[name], child.lineno, name, f"{module}.{part}", (), late, typing)
            names = tuple(alias.name for alias in child.names if alias.name not in modules)
            if names:
                yield Import(SOURCES[name], child.lineno, name, module, names, late, typing)
        else:
            yield from _walk(name, child, late=inner, typing=for_types)


IMPORTS = [found for name in TREES for found in _imports(name)]


def _is_ours(module: str) -> bool:
    return module == "crfs" or module.startswith("crfs.")


def _rank(floor: str) -> int:
    return next((rank for rank, names in enumerate(FLOORS) if floor in names), -1)


def _report(lines: list[str]) -> None:
    assert not lines, "\n" + "\n".join(lines)


def test_every_module_has_a_floor() -> None:
    known = set().union(*FLOORS)
    assert {_floor(name) for name in SOURCES} - {""} <= known
    assert set(PACKAGES) == known


def test_arrows_go_down() -> None:
    ours = [found for found in IMPORTS if _is_ours(found.module) and found.module != "crfs"]
    up = [
        found
        for found in ours
        if _floor(found.module) != found.floor
        and _rank(_floor(found.module)) >= _rank(found.floor)
        and (found.importer, found.module) not in EXCEPTIONS
    ]
    _report([f"{found} ({found.floor} lies below)" for found in up])


def test_packages_stay_on_their_floors() -> None:
    others = [found for found in IMPORTS if found.floor and not _is_ours(found.module)]
    _report([f"{found} (not a package of {found.floor}/)" for found in others if not _may_use(found)])


def _may_use(found: Import) -> bool:
    package = found.module.partition(".")[0]
    plain = package in sys.stdlib_module_names and package != "asyncio"
    return plain or package in PACKAGES[found.floor]


def test_imports_are_absolute_and_of_what_the_module_defines() -> None:
    wrong = [f"{found} (relative)" for found in IMPORTS if found.module.startswith(".")]
    for found in IMPORTS:
        if _is_ours(found.module):
            strange = [name for name in found.names if name not in _defined(found.module)]
            wrong += [f"{found} ({name} is not defined there)" for name in strange]
    _report(wrong)


def _defined(module: str) -> set[str]:
    """The names that a module itself makes, in branches as well, or says that it passes on (`__all__`)."""
    names: set[str] = set()
    nodes: list[ast.AST] = [*TREES[module].body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            nodes += ast.iter_child_nodes(node)
    return names


def test_imports_are_at_the_top() -> None:
    late = [found for found in IMPORTS if found.late]
    _report([f"{found} (late, and not in LATE)" for found in late if not _may_be_late(found)])


def _may_be_late(found: Import) -> bool:
    return any(
        fnmatchcase(found.importer, importer) and fnmatchcase(found.module, module)
        for importer, module in LATE
    )


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in SOURCES}
    for found in IMPORTS:
        if found.module in SOURCES and not found.typing:
            graph[found.importer].add(found.module)
    _report([" -> ".join(chain) for chain in [_find_cycle(graph)] if chain])


def _find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """The first cycle there is, its first module once more at its end; nothing where there is none."""
    done: set[str] = set()

    def visit(name: str, chain: list[str]) -> list[str]:
        if name in chain:
            return [*chain[chain.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if cycle := visit(other, [*chain, name]):
                return cycle
        done.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.stem)
def test_kernels_know_nothing_but_each_other_and_errors(kernel: Path) -> None:
    modules = set(re.findall(r"^\s*(?:from|c?import) +(crfs[\w.]*)", kernel.read_text(), re.MULTILINE))
    assert {module for module in modules if not module.startswith("crfs._native.")} <= {"crfs.errors"}
    assert f"crfs._native.{kernel.stem}" in SOURCES


def test_cycle_is_found() -> None:
    assert _find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
