"""Lower trees as a user names them, and opens them: directories as they are, images by way of one set of threads."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from crfs.cli.compose import OpenedImage, open_image, report_of
from crfs.cli.pinned import pinned
from crfs.cli.services import Services, Settings, open_services
from crfs.errors import MountError
from crfs.formats.reference import (
    FileSource,
    parse_source,
)
from crfs.image.report import Report
from crfs.integrations.crfsplugin import PREFIX, CrfsLower, parse_crfs_lower
from crfs.integrations.overlayrequest import DirectoryLower
from crfs.overlay.lower import ImageLower, Lower, open_directory

Named = DirectoryLower | CrfsLower


def parse_lower(text: str) -> Named:
    """A directory, or an image or layer in any form that a SOURCE has; UsageError."""
    if text.startswith(PREFIX):
        return parse_crfs_lower(text, Path.cwd())
    source = parse_source(text)
    if isinstance(source, FileSource) and os.path.isdir(source.path):
        return DirectoryLower(Path(source.path).absolute())
    return CrfsLower(source)


def shown_name(lower: Named) -> str:
    """What to call it where a user looks."""
    return str(lower.path if isinstance(lower, DirectoryLower) else lower.source)


def directories(lowers: Sequence[Named]) -> list[bytes]:
    """Those that are directories of this machine."""
    return [os.fsencode(lower.path) for lower in lowers if isinstance(lower, DirectoryLower)]


class OpenLowers:
    """Lower trees that are open. Images share one set of threads, which close() ends; any thread may stop() it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = contextlib.ExitStack()
        self.services: Services | None = None
        # those that are images, in the order in which they were opened
        self.images: list[OpenedImage] = []
        # of the trees, in the order in which they were opened: what opens each again, wherever a tag leads by then
        self.sources: list[str] = []

    def open(self, lower: Named) -> Lower:
        """One more tree; any CrfsError."""
        if isinstance(lower, DirectoryLower):
            self.sources.append(str(lower.path))
            try:
                return open_directory(os.fsencode(lower.path))
            except OSError as error:
                raise MountError(f"{lower.path}: {error.strerror}") from error
        if self.services is None:
            self.services = open_services(self._settings)
            self._opened.callback(self.services.close)
        image = open_image(self.services, self._settings, lower.source)
        self.images.append(image)
        self.sources.append(str(pinned(lower.source, image.digest)))
        return ImageLower(image.tree, image.reader)

    def report(self) -> Report:
        """What the images have been through so far; any thread."""
        return Report() if self.services is None else report_of(self.services, self.images)

    def stop(self) -> None:
        """Whoever waits for an image's bytes is told that there will be none."""
        for image in self.images:
            image.reader.stop()

    def close(self) -> None:
        """End the threads."""
        self._opened.close()
