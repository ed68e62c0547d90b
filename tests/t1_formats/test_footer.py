"""Footers, against the bytes that the specifications print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.formats.footer import Footer, FooterKind, build_footer, find_footer

ESTARGZ_3039 = bytes.fromhex(
    "1f8b08040000000000ff1a00534716003030303030303030303030303330333953544152475a010000ffff0000000000000000"
)


def test_estargz_footer_is_the_specified_bytes() -> None:
    assert build_footer(FooterKind.ESTARGZ, 0x3039) == ESTARGZ_3039


@given(
    st.sampled_from([FooterKind.STARGZ, FooterKind.ESTARGZ]),
    st.integers(0, 2**63 - 1),
    st.binary(max_size=64),
)
def test_footer_is_found_behind_anything(kind: FooterKind, toc_off: int, before: bytes) -> None:
    footer = build_footer(kind, toc_off)
    assert len(footer) == kind.value
    assert find_footer(before + footer) == Footer(kind, toc_off)


def test_external_toc_footer_has_no_offset() -> None:
    footer = build_footer(FooterKind.EXTERNAL_TOC, 7)
    assert len(footer) == 46
    assert find_footer(footer) == Footer(FooterKind.EXTERNAL_TOC, 0)


@pytest.mark.parametrize("cut", [1, 10, 25, 50])
def test_should_fail_cut_footer(cut: int) -> None:
    assert find_footer(ESTARGZ_3039[cut:]) is None


@given(st.integers(0, 50), st.integers(1, 255))
def test_should_fail_altered_footer(at: int, flip: int) -> None:
    altered = bytearray(ESTARGZ_3039)
    altered[at] ^= flip
    found = find_footer(bytes(altered))
    # an altered digit is another offset; nothing else may still read as a footer
    assert found is None or (18 - 2 <= at < 18 + 14 and found.toc_off != 0x3039)
