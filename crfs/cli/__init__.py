"""Argument parsing, tables; the composition root."""
