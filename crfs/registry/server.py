"""The registry in a thread of its own, with an event loop of its own: for any program and any thread."""

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from crfs.errors import TransportError
from crfs.registry.app import build_app
from crfs.registry.bodies import Counters, Meter
from crfs.registry.directory import DirectoryFiles
from crfs.registry.memory import MemoryFiles
from crfs.registry.storage import Storage

# requests that are still under way when the registry closes get this long, in seconds
_GRACE = 1.0


class Registry:
    """A registry on `host` and `port` (0: a free one), over `root` or, without one, in memory.

    With `credentials` (user, password) it asks for them (Basic). It serves plain HTTP between start() and
    close(); as a context manager it does both. It can't be started twice.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self._storage = Storage(MemoryFiles() if root is None else DirectoryFiles(root))
        self._host = host
        self._port = port
        self._credentials = credentials
        self._meter = Meter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="crfs-registry", daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as in a reference."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    @property
    def counters(self) -> Counters:
        """What was answered until now; a value of its own, to be compared with a later one."""
        return self._meter.counters

    def start(self) -> None:
        """Listen, or TransportError."""
        self._thread.start()
        try:
            self._port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except OSError as error:
            self.close()
            raise TransportError(f"can't listen on {self.address}: {error.strerror or error}") from error

    async def _open(self) -> int:
        """The port that is listened on."""
        app = build_app(self._storage, self._meter, self._credentials)
        # bodies are stored as they come: whatever Content-Encoding says, the digest is of what was sent
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=_GRACE)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        port: int = self._runner.addresses[0][1]
        return port

    def close(self) -> None:
        """Stop listening and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self._loop.shutdown_default_executor()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
