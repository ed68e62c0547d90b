"""Engines: how a tree becomes a mount."""
