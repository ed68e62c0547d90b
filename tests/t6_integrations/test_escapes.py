"""What a backslash does in mount options and in lists of directories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.integrations.escapes import split_list, split_options, unescape

# what argv may hold; surrogates are bytes that are no UTF-8
_TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from('\\,:"=0127\udcff')
)


def escape(text: str, special: str) -> str:
    return "".join(f"\\{char}" if char in f"\\{special}" else char for char in text)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        (",", []),
        ("a,,b,", ["a", "b"]),
        ("a\\,b,c", ["a\\,b", "c"]),
        ("a\\\\,b", ["a\\\\", "b"]),
        ("a\\", ["a\\"]),
        ("a,b\\", ["a", "b\\"]),
        ("lower=a\nb,c", ["lower=a\nb", "c"]),
        ('ro,context="u:r:t:s0:c1,c2",rw', ["ro", 'context="u:r:t:s0:c1,c2"', "rw"]),
        ('context="a,b', ['context="a', "b"]),
        ('fscontext="a,b"', ['fscontext="a,b"']),
        ('upperdir="a,b"', ['upperdir="a', 'b"']),
    ],
)
def test_options(text: str, options: list[str]) -> None:
    assert split_options(text) == options


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (":", []),
        ("a:b", ["a", "b"]),
        (":a::b:", ["a", "b"]),
        ("a\\:b:c", ["a\\:b", "c"]),
        ("a\\\\:b", ["a\\\\", "b"]),
        ("a\\072b:c", ["a\\072b", "c"]),
        ("a:\\", ["a", "\\"]),
    ],
)
def test_lists(text: str, names: list[str]) -> None:
    assert split_list(text) == names


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a\\:b", "a:b"),
        ("a\\,b", "a,b"),
        ("a\\\\b", "a\\b"),
        ("a\\\\054", "a\\054"),
        ("a\\b", "ab"),
        ("a\\054b", "a,b"),
        ("a\\0541", "a,1"),
        ("a\\05", "a05"),
        ("a\\477", "a477"),
        ("\\303\\244", "\u00e4"),
        ("\\377", "\udcff"),
        ("\\\u00e4", "\u00e4"),
        ("a\\", "a\\"),
    ],
)
def test_meaning(text: str, meant: str) -> None:
    assert unescape(text) == meant


@given(st.lists(_TEXT.filter(bool), max_size=5))
def test_any_names_survive_a_list_in_an_option(names: list[str]) -> None:
    text = ":".join(escape(name, ":,") for name in names)
    options = split_options(f"rw,x={text},ro")
    assert options == ["rw", f"x={text}", "ro"]
    assert [unescape(name) for name in split_list(text)] == names


@given(_TEXT)
def test_nothing_but_separators_is_lost(text: str) -> None:
    for split, separator in ((split_list, ":"), (split_options, ",")):
        pieces = split(text)
        assert all(pieces)
        assert "".join(pieces).replace(separator, "") == text.replace(separator, "")
