"""Text from names, made safe for terminals and CSV files."""

from __future__ import annotations

import pytest

from dashpot.training.callbacks.csv_columns import add_columns, read_header, to_line
from dashpot.utils.terminal import cell, cell_text, printable


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://x")'])
def test_formula_in_csv_cell_gets_an_apostrophe(text):
    assert cell(text) == f"'{text}"
    assert cell_text(cell(text)) == text
    assert cell(cell(text)) == cell(text)


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "-inf", "-nan", "loss", "", "'quoted'", "a=b"])
def test_numbers_and_plain_text_are_unchanged(text):
    assert cell(text) == text
    assert cell_text(text) == text


def test_header_with_formula_is_read_back():
    line = to_line(["step", "=1+1", -0.5])
    assert line == "step,'=1+1,-0.5"
    assert read_header(line.encode()) == ["step", "=1+1", "-0.5"]
    assert add_columns(line.encode() + b"\n1,-2,3\n", ["@x"]) == b"step,'=1+1,-0.5,'@x\n1,-2,3,\n"


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b31m", "a\rb", "\x00", "\u202e", "\x7f"])
def test_control_characters_are_printed_as_escapes(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_line_breaks_and_letters_are_unchanged():
    assert printable("zwölf\n\t12 µs") == "zwölf\n\t12 µs"
