"""Real servers and images for the tests of this floor."""

from tests.support.realimages import docker_registry, real_images

__all__ = ["docker_registry", "real_images"]
