"""Puts a conversion together: what is read, what is written, the threads between. Imported late."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from crfs.blobs.archive import ArchiveFiles, DockerArchiveImage
from crfs.blobs.blob import ImageSource
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access as RegistryAccess
from crfs.blobs.http import Http
from crfs.blobs.layout import LayoutImage
from crfs.blobs.localfile import FileBlob
from crfs.blobs.network import Network
from crfs.blobs.push import RegistryPush
from crfs.blobs.registriesconf import load_registries
from crfs.blobs.registry import RegistryImage
from crfs.blobs.threads import leave_signals
from crfs.blobs.url import UrlBlob
from crfs.cli.terminable import terminable
from crfs.convert.archivetarget import ArchiveTarget
from crfs.convert.convert import Converter, LayerResult, Progress, Report, Services
from crfs.convert.image import Run, build_config
from crfs.convert.inputs import BlobInput, TreeInput
from crfs.convert.layouttarget import BlobFileTarget, LayoutTarget
from crfs.convert.plan import Plan
from crfs.convert.registrytarget import RegistryTarget
from crfs.convert.targets import NullTarget, Target
from crfs.errors import UsageError
from crfs.formats.platforms import host_platform, parse_platform
from crfs.formats.reference import (
    ArchiveReference,
    FileSource,
    ImageReference,
    LayoutReference,
    Source,
    UrlSource,
    parse_source,
)
from crfs.image.resolve import fetch_manifest

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Access(msgspec.Struct, frozen=True):
    """How registries are reached."""

    authfile: str | None = None
    tls_verify: bool | None = None

    def to(self, http: Http) -> RegistryAccess:
        """With a session; UsageError where credentials can't be read."""
        if self.authfile and not os.access(self.authfile, os.R_OK):
            raise UsageError(f"{self.authfile}: the credentials can't be read")
        return RegistryAccess(http, CredentialStore(self.authfile), self.tls_verify)


def convert(
    source: str,
    target: str,
    plan: Plan,
    access: Access,
    *,
    jobs: int,
    platform: str | None = None,
    all_platforms: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> Report:
    """Convert what `source` names to what `target` names; any CrfsError."""
    found, to = parse_source(source), parse_source(target)
    wanted = parse_platform(platform) if platform else host_platform()
    with running(to, access, jobs, dry_run, quiet) as (network, place, services):
        opened = open_input(found, access, network)
        if isinstance(opened, BlobInput | TreeInput):
            converter = Converter(place, plan, services)
            config = build_config([], Run(), wanted)
            return finish(place, lambda: converter.convert_layers(str(found), [opened], None, config))
        if isinstance(place, BlobFileTarget) and not plan.flatten:
            _need_one_layer(network, opened, wanted)
        if isinstance(found, ImageReference):
            services = Services(
                services.submit, services.pool, services.progress, found, services.layers_at_once
            )
        converter = Converter(place, plan, services)
        return finish(place, lambda: converter.convert_image(opened, None if all_platforms else wanted))


def finish(target: Target, work: Callable[[], Report]) -> Report:
    """Do the work, then close the target; after a failure nothing of it is left."""
    try:
        report = work()
        target.close()
    except BaseException:
        target.abort()
        raise
    if isinstance(target, BlobFileTarget):
        # there is no manifest: the file is the layer
        report = msgspec.structs.replace(report, digest=report.images[0].layers[0].descriptor.digest)
    return report


@contextlib.contextmanager
def running(
    to: Source, access: Access, jobs: int, dry_run: bool, quiet: bool
) -> Iterator[tuple[Network, Target, Services]]:
    """Network, target and threads, for as long as a conversion takes."""
    network = Network()
    pool = ThreadPoolExecutor(jobs, "crfs-pack", leave_signals)
    try:
        target = open_target(to, access, network)
        at_once = 1 if isinstance(target, ArchiveTarget) else 2
        with terminable(network.give_up), shown(quiet) as progress:
            services = Services(network.submit, pool, progress, None, at_once)
            yield network, NullTarget(target) if dry_run else target, services
    finally:
        network.close()
        pool.shutdown(wait=True, cancel_futures=True)


def open_input(source: Source, access: Access, network: Network) -> ImageSource | BlobInput | TreeInput:
    """An image, or what becomes a layer. Nothing is fetched yet."""
    match source:
        case ImageReference():
            return RegistryImage(source, access.to(network.http), load_registries())
        case LayoutReference():
            return LayoutImage(source)
        case ArchiveReference():
            if source.transport == "docker-archive":
                return DockerArchiveImage(source)
            return LayoutImage(source, ArchiveFiles(source.path))
        case UrlSource():
            http, verify = network.http, access.tls_verify is not False
            return BlobInput(
                str(source), None, None, lambda: UrlBlob(source, http, verify=verify), network.submit
            )
        case FileSource():
            return open_file(source.path, network)


def open_file(path: str, network: Network) -> BlobInput | TreeInput:
    """A directory's tree, or a tar."""
    if os.path.isdir(path):
        return TreeInput(Path(path))
    size = os.path.getsize(path) if os.path.isfile(path) else None
    return BlobInput(path, size, None, lambda: FileBlob(path), network.submit)


def open_target(to: Source, access: Access, network: Network) -> Target:
    """Where `to` is; UsageError where nothing can be written there."""
    match to:
        case ImageReference():
            if to.digest:
                raise UsageError(f"{to}: a digest can't be chosen for what is written")
            push = RegistryPush(to, access.to(network.http), load_registries())
            return RegistryTarget(push, to.tag, network.submit)
        case LayoutReference():
            if to.digest:
                raise UsageError(f"{to}: a digest can't be chosen for what is written")
            return LayoutTarget(Path(to.directory), to.name)
        case ArchiveReference():
            return ArchiveTarget(_file(to.path), to.name, docker=to.transport == "docker-archive")
        case UrlSource():
            raise UsageError(f"{to}: nothing can be written to a URL; a registry is docker://HOST/REPO:TAG")
        case FileSource():
            if os.path.isdir(to.path):
                raise UsageError(f"{to.path}: a layer is written to a file, an image to oci:{to.path}")
            return BlobFileTarget(_file(to.path))


def _file(path: str) -> Path:
    """The file to write, which a new one takes the place of: that must not happen to /dev/null."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: is no regular file, and can't be replaced by one")
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _need_one_layer(network: Network, source: ImageSource, platform: Any) -> None:
    manifest = network.submit(fetch_manifest(source, platform)).result()[1]
    if len(manifest.layers) != 1:
        raise UsageError(
            f"{source.name}: has {len(manifest.layers)} layers, a file takes one (--flatten makes one)"
        )


class Silent(Progress):
    """Shows nothing."""

    def begin(self, layer: str, size: int | None) -> None:
        """See `Progress`."""

    def advance(self, layer: str, size: int) -> None:
        """See `Progress`."""

    def end(self, layer: LayerResult) -> None:
        """See `Progress`."""


class BarProgress(Progress):
    """A bar a layer: bytes, bytes a second, what is left."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, layer: str, size: int | None) -> None:
        """See `Progress`."""
        self._tasks[layer] = self._bars.add_task(_short(layer), total=size)

    def advance(self, layer: str, size: int) -> None:
        """See `Progress`."""
        self._bars.advance(self._tasks[layer], size)

    def end(self, layer: LayerResult) -> None:
        """See `Progress`."""
        size = layer.source_size or 1
        self._bars.update(
            self._tasks[layer.source],
            description=f"{_short(layer.source)} {layer.how}",
            total=size,
            completed=size,
        )


def _short(layer: str) -> str:
    return layer[7:19] if layer.startswith("sha256:") else layer[-24:]


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Progress]:
    """Bars on a terminal, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        yield BarProgress(bars)
