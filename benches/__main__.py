"""List the benches with the question that each asks."""

from __future__ import annotations

import importlib

BENCHES = ("start", "walk", "read", "memory")


def main() -> None:
    """One line a bench."""
    for name in BENCHES:
        doc = importlib.import_module(f"benches.{name}").__doc__ or ""
        print(f"python -m benches.{name:<8} {doc.splitlines()[0]}")
    print("\nEach takes --json OUT, --runs N, --tag TAG and --peers A,B.")
    print("`python -m benches.images` builds the images they need.")


if __name__ == "__main__":
    main()
