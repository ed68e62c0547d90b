"""A TOC has each name once, as what stands of it, whatever is in the tar."""

import gzip
import io
import stat
import tarfile
from pathlib import Path

import pytest

from crfs.convert.entries import clean_name
from crfs.formats.toc import NO_PREFETCH_LANDMARK
from tests.support.layers import Dir, File, make_estargz, make_tar
from tests.t5_convert.test_estargz import read_files, read_toc
from tests.t5_convert.test_standing import TWICE, extracted, stand


@pytest.mark.parametrize("chunk_size", [100, 4096])
@pytest.mark.parametrize("case", [case for case in TWICE if stand(TWICE[case]).trouble is None])
def test_toc_tells_of_each_name_once(tmp_path: Path, case: str, chunk_size: int) -> None:
    """Readers that look files and links up by their names find what tar extracts; the tar has all its entries."""
    blob, _ = make_estargz(TWICE[case], chunk_size=chunk_size)
    toc = read_toc(blob)
    names = [clean_name(entry["name"]) for entry in toc if entry["type"] != "chunk"]
    assert len(names) == len(set(names))
    files = {clean_name(name): data for name, data in read_files(blob, toc).items()}
    links = [entry for entry in toc if entry["type"] == "hardlink"]
    files |= {clean_name(link["name"]): files[clean_name(link["linkName"])] for link in links}
    found = extracted(make_tar(TWICE[case]), tmp_path / "it")
    assert {name: data for name, data in files.items() if name != NO_PREFETCH_LANDMARK} == {
        name: data for name, (mode, data, _) in found.items() if stat.S_ISREG(mode)
    }
    shared = {name: same for name, (mode, _, same) in found.items() if stat.S_ISREG(mode)}
    assert all(clean_name(link["linkName"]) in shared[clean_name(link["name"])] for link in links)
    assert sum(len(same) - 1 for same in set(map(tuple, shared.values()))) == len(links)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as tar:
        assert len(tar.getnames()) == len(TWICE[case]) + 2


def test_owners_of_what_was_replaced_are_still_told() -> None:
    entries = [
        File("a", uid=1, gid=2, uname="u", gname="g"),
        File("a", uid=1, gid=2),
        File("b", uid=1, gid=2),
    ]
    toc = read_toc(make_estargz(entries)[0])[1:]
    assert [(e["name"], e.get("userName"), e.get("groupName")) for e in toc] == [
        ("a", "u", "g"),
        ("b", None, None),
    ]


def test_toc_has_all_entries_where_no_name_can_stand_alone() -> None:
    toc = read_toc(make_estargz([File("a", b"old"), Dir("a"), File("b"), File("b", b"x")])[0])
    assert [entry["name"] for entry in toc[1:]] == ["a", "a/", "b", "b"]
