"""The images that a process serves by the erofs engine: each is opened once, for all mounts that ask for it alike."""

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from crfs.blobs.objects import drop_old, open_objects
from crfs.blobs.threads import leave_signals
from crfs.cli.compose import OpenedImage, current_digest, is_pinned, open_image, report_of
from crfs.cli.services import Services, Settings, Workers, open_services
from crfs.errors import CrfsError, EngineRefused
from crfs.formats.reference import FileSource, Source, UrlSource
from crfs.fuse.contenttree import Contained, ContentTree
from crfs.image.arrived import Arrived
from crfs.image.report import Report
from crfs.image.treeimage import contents_of, tree_image
from crfs.mount.memory import give_back

log = logging.getLogger(__name__)
Gone = Callable[[], bool]
# how long a mount waits for a look at a cache of very many files, which then goes on beside it
_LOOK_SECONDS = 0.1
# how often it is looked whether whoever waits is still there
_GONE_SECONDS = 0.1
# readers that were woken have returned by then
_READ_SECONDS = 10.0


class ServedImage(Struct, frozen=True):
    """An open image whose contents can be had. `path`: its tree's file; `objects`: where the kernel looks first."""

    opened: OpenedImage
    services: Services
    path: Path
    objects: Path | None
    until_end: contextlib.ExitStack

    def report(self) -> Report:
        """What it has been through so far; any thread."""
        return report_of(self.services, [self.opened])

    def write_config(self, source: Source, settings: Settings, at: Path) -> None:
        """Hand on the image's config; any CrfsError."""
        # late: only for who wants it
        from crfs.cli.imageconfig import write_config

        write_config(self.services, settings, source, self.opened.digest, at)


@dataclass(eq=False, slots=True)
class _Shared:
    """An image that was asked for, and by how many. What it is may be that of `base`, which was asked for before."""

    key: Hashable
    base: "_Shared | None" = None
    uses: int = 0
    future: Future[ServedImage] = field(default_factory=Future)
    services: Services | None = None

    @property
    def root(self) -> "_Shared | None":
        """Where the image was opened; None where that is not done."""
        done = self.future.done() and self.future.exception() is None
        return (self.base or self) if done else None


class Images:
    """Images by what they were asked for; any thread.

    `sees_reads`: what has arrived is read by way of us all the same, and so is known.
    """

    def __init__(self, operations: ContentTree, workers: Workers, *, sees_reads: bool = False) -> None:
        self._operations = operations
        self._workers = workers
        self._sees_reads = sees_reads
        self._lock = threading.Lock()
        # by how it was asked for, who has asked last
        self._shared: dict[Hashable, _Shared] = {}
        self._opened: list[ServedImage] = []
        self._looked: Future[None] | None = None

    @contextlib.contextmanager
    def opened(self, source: Source, settings: Settings, gone: Gone) -> Iterator[ServedImage]:
        """An image, for as long as this lasts; any CrfsError. It is given up once nobody is left who waits for it."""
        shared = self._take(source, settings)
        try:
            yield _await(shared.future, gone)
        finally:
            self._leave(shared)

    def stop(self) -> None:
        """Whoever waits for bytes is told that there will be none."""
        with self._lock:
            opened = list(self._opened)
        for image in opened:
            image.opened.reader.stop()

    def _take(self, source: Source, settings: Settings) -> _Shared:
        """What somebody else is about to find out, or what is found out now."""
        key = _key(source, settings)
        with self._lock:
            last = self._shared.get(key)
            if last is None or (last.future.done() and not (last.root and is_pinned(source, settings))):
                last = self._shared[key] = self._ask(key, source, settings, last and last.root)
            last.uses += 1
        return last

    def _ask(self, key: Hashable, source: Source, settings: Settings, base: _Shared | None) -> _Shared:
        asked = _Shared(key, base)
        if base is not None:
            base.uses += 1
        threading.Thread(
            target=self._find_out, args=(asked, source, settings), name="crfs-open", daemon=True
        ).start()
        return asked

    def _find_out(self, asked: _Shared, source: Source, settings: Settings) -> None:
        leave_signals()
        try:
            found = self._find_same(asked, source, settings) or self._open(asked, source, settings)
        except CrfsError as error:
            self._fail(asked, error)
            return
        except CancelledError:
            self._fail(asked, CrfsError(f"{source}: given up"))
            return
        except Exception as error:
            log.exception("an image could not be opened")
            self._fail(asked, error)
            return
        with self._lock:
            asked.future.set_result(found)
            wanted = asked.uses
        if not wanted:
            self._end(asked)

    def _fail(self, asked: _Shared, error: Exception) -> None:
        with self._lock:
            asked.future.set_exception(error)
        self._let_go_of_base(asked)

    def _find_same(self, asked: _Shared, source: Source, settings: Settings) -> ServedImage | None:
        """What was opened before, if that is what is meant now."""
        if asked.base is None:
            return None
        before = asked.base.future.result()
        if before.opened.digest is not None and before.opened.digest == current_digest(
            before.services, settings, source
        ):
            return before
        self._let_go_of_base(asked)
        return None

    def _open(self, asked: _Shared, source: Source, settings: Settings) -> ServedImage:
        with contextlib.ExitStack() as until_end:
            until_end.callback(give_back)
            services = asked.services = open_services(settings, self._workers)
            ended = contextlib.ExitStack()
            ended.callback(services.close)
            with ended:
                opened = open_image(services, settings, source)
                until_end.callback(ended.pop_all().close)
            return self._serve(services, opened, until_end)

    def _serve(self, services: Services, opened: OpenedImage, until_end: contextlib.ExitStack) -> ServedImage:
        tree, layers, store = opened.tree, opened.layers, services.store
        contents = contents_of(tree, layers)
        looked = None
        if not self._sees_reads:
            store.objects = open_objects(store.directory)
            looked = self._look(services)
        arrived = Arrived(tree, contents, layers, store, services.idle)
        contained = Contained(tree, contents, opened.reader, arrived.read_out)
        try:
            kept = tree_image(store, opened.name, opened.digest, tree, layers, contents)
            path = until_end.enter_context(kept)
        except CrfsError as error:
            raise EngineRefused(str(error)) from error
        if looked is not None:
            with contextlib.suppress(TimeoutError):
                looked.result(_LOOK_SECONDS)
        objects = None if store.objects is None else store.objects.root
        served = ServedImage(opened, services, path, objects, contextlib.ExitStack())
        until_end.callback(_retire, contained, opened)
        self._operations.add(contained)
        until_end.callback(self._operations.remove, contained)
        with self._lock:
            self._opened.append(served)
        until_end.callback(self._forget, served)
        served.until_end.push(until_end.pop_all())
        return served

    def _forget(self, served: ServedImage) -> None:
        with self._lock:
            self._opened = [each for each in self._opened if each is not served]

    def _look(self, services: Services) -> Future[None] | None:
        """Have what was changed in the cache dropped, once in a process: the first image waits for it."""
        with self._lock:
            if self._looked is not None or services.store.objects is None:
                return None
            self._looked = services.pool.submit(services.store.objects.drop_changed)
        services.idle.submit(drop_old, services.store.directory)
        return self._looked

    def _leave(self, shared: _Shared) -> None:
        with self._lock:
            shared.uses -= 1
            if shared.uses:
                return
            if self._shared.get(shared.key) is shared:
                del self._shared[shared.key]
            done, services = shared.future.done(), shared.services
        if done:
            self._end(shared)
        elif services is not None:
            # nobody waits any more: what is fetched for it fails
            services.network.close()

    def _end(self, shared: _Shared) -> None:
        if shared.base is not None:
            self._let_go_of_base(shared)
        elif shared.future.exception() is None:
            shared.future.result().until_end.close()

    def _let_go_of_base(self, shared: _Shared) -> None:
        base, shared.base = shared.base, None
        if base is not None:
            self._leave(base)


def _key(source: Source, settings: Settings) -> Hashable:
    """What is asked for alike. A layer alone has no digest by which it could be known again."""
    alone = object() if isinstance(source, FileSource | UrlSource) else None
    return (source, replace(settings, image_config=None), alone)


def _retire(contained: Contained, opened: OpenedImage) -> None:
    """Let go of the cache's files, once nobody reads them."""
    opened.reader.stop()
    if contained.await_unused(_READ_SECONDS):
        opened.reader.close()


def _await(future: Future[ServedImage], gone: Gone) -> ServedImage:
    while True:
        try:
            return future.result(_GONE_SECONDS)
        except TimeoutError as error:
            if future.done():
                raise
            if gone():
                raise CrfsError("nobody waits for the image any more") from error
