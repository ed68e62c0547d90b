"""Debian's docker-registry as a process of our own, on a free port of the loopback interface.

Its storage outlives it: what was pushed once is there when it is started again.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.cache import cache_dir
from benches.commands import find_program

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: '127.0.0.1:{port}'}}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that answers on 127.0.0.1 in plain HTTP."""

    port: int
    storage: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


class RegistryFailed(Exception):
    """docker-registry is not installed, or ended or stayed silent when it should have answered."""


def default_storage() -> Path:
    """The storage that the images of this cache are pushed to."""
    return cache_dir() / "registry"


@contextmanager
def registry(storage: Path | None = None, port: int = 0) -> Iterator[Registry]:
    """Serve `storage` (by default the cache's) until the block ends; port 0 takes a free one."""
    served = Registry(port or free_port(), storage or default_storage())
    served.storage.mkdir(parents=True, exist_ok=True)
    process = _start(served)
    try:
        _await_answer(served, process)
        yield served
    finally:
        _stop(process)


def free_port() -> int:
    """A loopback TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _start(served: Registry) -> subprocess.Popen[bytes]:
    program = find_program("docker-registry")
    if program is None:
        raise RegistryFailed("docker-registry is not installed")
    config = served.storage / f".config-{served.port}.yml"
    config.write_text(_CONFIG.format(storage=served.storage, port=served.port))
    log = open(served.storage / f".log-{served.port}", "wb")  # noqa: SIM115 - the process keeps it
    with log:
        return subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)


def _await_answer(served: Registry, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RegistryFailed(f"docker-registry ended with code {process.returncode}")
        if _answers(served.port):
            return
        time.sleep(0.05)
    raise RegistryFailed(f"docker-registry did not answer within {seconds} s")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
