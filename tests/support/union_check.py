"""Merge layers and have the oracle agree, so that a test is right about all that it does not look at."""

import stat
from collections.abc import Sequence

import pytest

from crfs._native.index import Tree
from crfs._native.union import merge
from crfs.errors import FormatError
from tests.support.union_entries import Entry, indexed, plain
from tests.support.union_oracle import Seen, look_at, merge_plainly


def merged(*layers: Sequence[Entry]) -> dict[bytes, Seen]:
    """All paths of the layers' tree."""
    seen = look_at(Tree(merge([indexed(layer) for layer in layers])))
    assert seen == merge_plainly([plain(layer) for layer in layers]).look()
    return seen


def merged_files(*layers: Sequence[Entry]) -> dict[bytes, int]:
    """The regular files, by the marks of their bytes."""
    return {
        path: seen.pieces[0].blob_off if seen.pieces else 0
        for path, seen in merged(*layers).items()
        if stat.S_ISREG(seen.mode)
    }


def refused(*layers: Sequence[Entry]) -> str:
    """Why the layers have no tree."""
    with pytest.raises(FormatError):
        merge_plainly([plain(layer) for layer in layers])
    with pytest.raises(FormatError) as caught:
        merge([indexed(layer) for layer in layers])
    return str(caught.value)
