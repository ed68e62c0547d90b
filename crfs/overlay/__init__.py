"""Lower trees, an upper and a work directory to one writable tree: POSIX and overlay semantics live here only."""
