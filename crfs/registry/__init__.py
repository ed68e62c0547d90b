"""A small, spec-strict OCI registry on loopback: the demo and the tests push to it and mount from it.

Server only, and it shares no parser with the client in blobs/: a mistake there must not hide itself here.
"""
