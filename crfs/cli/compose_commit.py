"""Puts a commit together: an upper directory, the image below it, and where both go. Imported late."""

from pathlib import Path

from msgspec.structs import replace

from crfs.blobs.blob import ImageSource
from crfs.blobs.network import Network
from crfs.cli.compose_convert import Access, finish, open_input, running
from crfs.convert.changes import Committed, commit_config
from crfs.convert.convert import Converter, Report
from crfs.convert.inputs import BlobInput, TreeInput
from crfs.convert.plan import Plan
from crfs.errors import UsageError
from crfs.formats.manifest import Manifest
from crfs.formats.platforms import Platform, host_platform, parse_platform
from crfs.formats.reference import FileSource, ImageReference, parse_source
from crfs.image.resolve import fetch_manifest
from crfs.overlay.layer import iter_upper


def commit(
    upper: Path,
    shown: Path | None,
    base: str,
    target: str,
    committed: Committed,
    plan: Plan,
    access: Access,
    *,
    jobs: int,
    platform: str | None = None,
    quiet: bool = False,
) -> Report:
    """Put what is in `upper` on top of `base`, as `target`; any CrfsError. Of `base`, only what `target` lacks is read.

    `shown` is where both are mounted, if they are.
    """
    below, to = parse_source(base), parse_source(target)
    if isinstance(to, FileSource):
        raise UsageError(
            f"{target}: an image is written to a registry, a layout or an archive, not to a file"
        )
    wanted = parse_platform(platform) if platform else host_platform()
    with running(to, access, jobs, False, quiet) as (network, place, services):
        opened = open_input(below, access, network)
        if isinstance(opened, BlobInput | TreeInput):
            raise UsageError(f"{base}: is no image, and a layer goes on top of one")
        if isinstance(below, ImageReference):
            services = replace(services, origin=below)
        manifest, config = _read_base(network, opened, wanted)
        layer = TreeInput(upper, lambda path: iter_upper(path, shown))
        converter = Converter(place, plan, services)
        new_config = commit_config(config, committed)
        return finish(place, lambda: converter.convert_layers(base, [layer], (opened, manifest), new_config))


def _read_base(network: Network, image: ImageSource, platform: Platform) -> tuple[Manifest, bytes]:
    manifest = network.submit(fetch_manifest(image, platform)).result()[1]
    return manifest, network.submit(image.fetch_blob(manifest.config)).result()
