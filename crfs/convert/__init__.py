"""Tar in, lazily readable layer out."""
