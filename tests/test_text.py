"""What other people chose must not drive a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("nginx: worker (größe) 数", "nginx: worker (größe) 数", id="ordinary text stays"),
        pytest.param("\x1b[2Jowned", r"\x1b[2Jowned", id="escape sequence"),
        pytest.param("a\nb\tc\r", r"a\x0ab\x09c\x0d", id="line ends and tabs"),
        pytest.param("\x9b31m\x7f", r"\x9b31m\x7f", id="C1 and DEL"),
        pytest.param("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066", id="bidirectional override"),
        pytest.param("adm\u200bin\ufeff", r"adm\u200bin\ufeff", id="no width"),
        pytest.param("\u2028\udc80", r"\u2028\udc80", id="line separator and lone surrogate"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_what_is_printable_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert bool(shown.encode("utf-8")) == bool(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    assert printable(shown) == shown
