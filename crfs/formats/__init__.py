"""Bytes to values, pure: references, manifests, footers, tables of contents."""
