"""How images are reached, and what outlives one of them: threads, connections, the disk cache.

The network starts when it is needed.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, field

from crfs.blobs.directories import cache_directory
from crfs.blobs.documents import Documents
from crfs.blobs.eviction import default_limits
from crfs.blobs.network import Network
from crfs.blobs.store import Store, open_store
from crfs.blobs.threads import leave_signals
from crfs.formats.platforms import Platform, host_platform, parse_platform


class Settings(Struct, frozen=True):
    """How images are reached and where their bytes are kept; None leaves it to the defaults."""

    cache: Path | None = None
    authfile: str | None = None
    tls_verify: bool | None = None
    platform: str | None = None
    allow_unverified: bool = False
    pull: str = "newer"
    cache_size: int | None = None
    cache_free: int | None = None
    record: Path | None = None
    trace: Path | None = None
    traces: bool = True
    background_fetch: bool = False
    background_rate: int | None = None
    image_config: Path | None = None


def settings_of(args: argparse.Namespace) -> Settings:
    """What the options of crfs.cli.options.add_source_options() say."""
    return Settings(
        args.cache,
        args.authfile,
        args.tls_verify,
        args.platform,
        args.allow_unverified,
        args.pull,
        args.cache_size,
        args.cache_free,
        getattr(args, "record", None),
        getattr(args, "trace", None),
        getattr(args, "traces", True),
        getattr(args, "background_fetch", False),
        getattr(args, "background_rate", None),
        getattr(args, "image_config", None),
    )


def platform_of(settings: Settings) -> Platform:
    """Which image of an index is wanted."""
    return parse_platform(settings.platform) if settings.platform else host_platform()


class Workers(Struct, frozen=True):
    """Threads: `pool` is for what somebody waits for, `idle` (one thread) for the rest."""

    pool: ThreadPoolExecutor
    idle: ThreadPoolExecutor

    def close(self) -> None:
        """End every thread, once it has done what it was given."""
        for pool in (self.pool, self.idle):
            pool.shutdown(wait=True)


def open_workers() -> Workers:
    """Threads start here, so a daemon forks before."""
    return Workers(
        ThreadPoolExecutor(os.cpu_count() or 2, "crfs-decode", leave_signals),
        ThreadPoolExecutor(1, "crfs-idle", leave_signals),
    )


class Services(Struct, frozen=True):
    """What outlives one image: the network, the decoders, the disk cache.

    `endings` are called when everything else has ended. The threads may be `lent` by who has other images to serve.
    """

    network: Network
    workers: Workers
    store: Store
    lent: bool = False
    endings: list[Callable[[], None]] = field(default_factory=list)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """For what somebody waits for."""
        return self.workers.pool

    @property
    def idle(self) -> ThreadPoolExecutor:
        """For what nobody waits for."""
        return self.workers.idle

    @property
    def documents(self) -> Documents:
        """The manifests and configs in the disk cache."""
        return Documents(self.store.directory)

    def close(self) -> None:
        """End every thread of ours; what still waits fails, what has arrived is kept."""
        self.network.close()
        if not self.lent:
            self.workers.close()
        for ending in self.endings:
            ending()
        self.store.close()


def open_services(settings: Settings, workers: Workers | None = None) -> Services:
    """Make ready; the network starts when it is needed. CrfsError where the cache can't be used.

    `workers` are lent to these services.
    """
    store = open_store(
        (settings.cache or cache_directory()).absolute(),
        lambda root: default_limits(root, settings.cache_size, settings.cache_free),
    )
    network = Network(store.directory.root)
    return Services(network, workers or open_workers(), store, workers is not None)
