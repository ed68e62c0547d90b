"""The command `stargzify SRC DST`: an image, or with `file:` a layer's tar, as stargz, called as google/crfs's is.

`crfs convert` does the work, and more; this one knows the options that scripts give to its elder. The flags are
those of Go's flag package: with one dash or two, and before the names.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crfs import __version__
from crfs.cli.convert import print_report
from crfs.convert.plan import LayerFormat, Plan
from crfs.errors import CrfsError, UsageError

PROGRAM = "stargzify"
_FILE = "file:"
_FLAGS = ("upgrade", "flatten", "insecure", "version", "help", "h")
HELP = f"""\
usage: {PROGRAM} [-upgrade] [-flatten] [-insecure] input [output]

Converting images:
  # converts "ubuntu" from Docker Hub and pushes it to a registry of yours
  {PROGRAM} ubuntu registry.example/ubuntu:stargz

  # converts and overwrites :latest
  {PROGRAM} -upgrade registry.example/ubuntu:latest

  # converts and flattens "ubuntu"
  {PROGRAM} -flatten ubuntu registry.example/ubuntu:flattened

Converting files ("-" is standard input, or output):
  {PROGRAM} file:/tmp/input.tar.gz file:output.stargz

  # writes to /tmp/input.stargz
  {PROGRAM} file:/tmp/input.tar.gz

  -upgrade    upgrade the image in-place by overwriting the tag
  -flatten    flatten the image's layers into a single layer
  -insecure   allow plain HTTP, and certificates that can't be verified

`crfs convert` knows eStargz and zstd:chunked as well, which can be verified chunk by chunk.
"""


class Request(Struct, frozen=True):
    """What the command line asks for."""

    flags: frozenset[str]
    source: str
    target: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except CrfsError as error:
        print(f"{PROGRAM}:", str(error).replace("\n", "\\n"), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    flags, names = parse_flags(argv)
    if flags & {"help", "h"}:
        print(HELP, end="")
        return 0
    if "version" in flags:
        print(f"{PROGRAM} version {__version__}")
        return 0
    request = parse_names(flags, names)
    if request.source.startswith(_FILE):
        with _standard_streams(request) as (source, target):
            _convert(request, source, target)
        return 0
    _convert(request, _image(request.source), _image(request.target))
    return 0


def parse_flags(argv: Sequence[str]) -> tuple[frozenset[str], list[str]]:
    """Flags that are set, up to the first name, and the names; UsageError for a flag that there isn't."""
    flags: set[str] = set()
    rest = list(argv)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, _, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name not in _FLAGS or value.lower() not in ("", "1", "t", "true", "0", "f", "false"):
            raise UsageError(f"{word}: there is no such flag; {PROGRAM} -help shows those there are")
        flags.discard(name)
        if value.lower() not in ("0", "f", "false"):
            flags.add(name)
    return frozenset(flags), rest


def parse_names(flags: frozenset[str], names: Sequence[str]) -> Request:
    """The source and the target; UsageError where there is none, or there are too many."""
    if not names or len(names) > 2:
        raise UsageError(f"name an input and an output; {PROGRAM} -help tells more")
    source, given = names[0], names[1] if len(names) == 2 else None
    if source.startswith(_FILE):
        return Request(flags, source, given if given is not None else _FILE + _beside(source[len(_FILE) :]))
    if "upgrade" in flags:
        if given is not None:
            raise UsageError("-upgrade overwrites the input: there is no output to name")
        return Request(flags, source, source)
    if given is None:
        raise UsageError("name an output, or say -upgrade to overwrite the input")
    return Request(flags, source, given)


def _beside(source: str) -> str:
    """Where a file's conversion goes."""
    if source == "-":
        return "-"
    for suffix in (".gz", ".tgz", ".tar"):
        source = source.removesuffix(suffix)
    return source + ".stargz"


def _image(name: str) -> str:
    """A name as Docker has it, in our own notation; what has a scheme already is left alone."""
    for scheme in ("http://", "https://"):
        name = name.removeprefix(scheme)
    return (
        name
        if "://" in name or name.startswith(("oci:", "oci-archive:", "docker-archive:"))
        else f"docker://{name}"
    )


def _convert(request: Request, source: str, target: str) -> None:
    # late: wrong uses answer before aiohttp is loaded
    from crfs.cli.compose_convert import Access, convert

    plan = Plan(format=LayerFormat.STARGZ, flatten="flatten" in request.flags)
    access = Access(tls_verify=False if "insecure" in request.flags else None)
    report = convert(source, target, plan, access, jobs=os.cpu_count() or 1)
    if request.target != f"{_FILE}-":
        print_report(report, json=False)


@contextlib.contextmanager
def _standard_streams(request: Request) -> Iterator[tuple[str, str]]:
    """Paths for the files of a request; standard input and output go by way of temporary ones."""
    source, target = request.source.removeprefix(_FILE), request.target.removeprefix(_FILE)
    if not source or not target:
        raise UsageError(f"{_FILE} needs the name of a file")
    with tempfile.TemporaryDirectory(prefix="stargzify-") as place:
        if source == "-":
            source = os.path.join(place, "in")
            with open(source, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if target != "-":
            yield source, os.path.abspath(target)
            return
        target = os.path.join(place, "out")
        yield source, target
        with open(target, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
