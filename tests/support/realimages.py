"""The benches' images for tests: in a real registry under three tags, and unpacked by umoci as the oracle.

Import the fixture `real_images` in a conftest. Images are built by the first test that asks and kept in the
benches' cache, so that later sessions find them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benches.containerd import ConverterMissing
from benches.images import missing, oracle, pushed
from benches.registry import Registry
from tests.support.dockerregistry import docker_registry, lacking, need_programs

__all__ = ["RealImage", "RealImages", "docker_registry", "real_images"]


@dataclass(frozen=True, slots=True)
class RealImage:
    """One tag of an image in a registry, and the tree it should mount as."""

    ref: str
    tag: str
    oracle: Path

    @property
    def estargz(self) -> bool:
        """Whether the layers' TOC has whole seconds, as stargz-snapshotter writes it."""
        return self.tag not in ("plain", "zstd-skopeo")


class RealImages:
    """Hands out images by name and tag, building them when they are first asked for."""

    def __init__(self, served: Registry) -> None:
        self._served = served

    def get(self, name: str, tag: str) -> RealImage:
        """The image; skips the test, or fails it in CI, where a program to build it with is missing."""
        need_programs(missing(name))
        try:
            ref = pushed(name, self._served, tag)
        except ConverterMissing as error:
            lacking(str(error))
        return RealImage(ref, tag, oracle(name))


@pytest.fixture(scope="session")
def real_images(docker_registry: Registry) -> RealImages:
    """The images of benches/recipes in a running docker-registry."""
    return RealImages(docker_registry)
