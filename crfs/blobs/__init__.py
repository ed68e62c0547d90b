"""Byte ranges by digest: registries, URLs, files, OCI layouts; the fetch thread and the disk cache."""
