"""Text tables and scores in text."""

from __future__ import annotations

from dashpot.runs.table import markdown_table, score_text, text_table


def test_text_table_columns_are_aligned():
    lines = text_table(["name", "x"], [["a", "1"], ["long name", "22.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert markdown_table(["a|b"], [["c"]]).splitlines()[0] == "| a\\|b |"


def test_score_text_follows_the_published_style():
    assert score_text({"loss": 1.788, "accuracy": 1.0}) == "1.000 (1.788)"
    assert score_text({"loss": 13181.007, "accuracy": 0.1}) == ".100 (1.32e+04)"
    assert score_text({"loss": 1e-9}) == "1e-09"
