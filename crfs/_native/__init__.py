"""Compiled kernels: bytes in, bytes out; no I/O, no logging, no knowledge of registries or FUSE."""
