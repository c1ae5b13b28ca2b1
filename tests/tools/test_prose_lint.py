"""The prose lint: extraction of prose, the list of phrases, and the budget, which may only decrease."""

import json
import re

import prose_lint
import pytest

MODULE = '''"""Summary that goes on.

>>> "told"
"""

import warnings


def check(x):
    """Return x.

    Detail of another kind.
    """
    # Nobody calls this.
    text = "an ordinary string: told"
    if x:
        raise ValueError(f"Owner: {x} is no number, {x!r} to be had")
    warnings.warn("looked at " "anew", stacklevel=2)
    return text
'''

PAGE = """# Title

Text with `told` in code, and told outside.

```python
# told
```

    told in an indented block
"""


def phrases(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    return [(finding.line, finding.phrase) for finding in prose_lint.findings(file, tmp_path)]


def test_python_docstrings_comments_and_messages_are_checked(tmp_path):
    assert phrases(tmp_path, "module.py", MODULE) == [
        (1, "goes on"),
        (12, "of another"),
        (14, "Nobody"),
        (17, "is no"),
        (17, "to be had"),
        (18, "looked at"),
        (18, "anew"),
    ]


def test_markdown_code_is_not_checked(tmp_path):
    assert phrases(tmp_path, "page.md", PAGE) == [(3, "told")]


def test_names_of_tests_are_checked(tmp_path):
    assert phrases(tmp_path, "module.py", "def test_run_goes_on(): ...\ndef run_goes_on(): ...\n") == [(1, "goes on")]


def test_phrase_across_a_line_break_is_found(tmp_path):
    assert phrases(tmp_path, "module.py", '"""It was to be\nhad."""\n') == [(1, "to be had")]


@pytest.mark.parametrize("text", ["bespoke tools", "a landslide", "it is now clear", "is nothing"])
def test_parts_of_words_are_not_found(tmp_path, text):
    assert not phrases(tmp_path, "page.md", text)


def test_every_pattern_compiles_and_has_a_suggestion():
    for pattern, suggestion in prose_lint.PHRASES:
        assert re.compile(pattern).groups == 0
        assert suggestion


def test_folder_over_budget_fails():
    complaints, over = prose_lint.compare({"src": 3, "docs": 1}, {"src": 2, "docs": 1}, strict=False)
    assert complaints == ["src: 3 phrases, budget 2"]
    assert over == {"src"}


def test_folder_without_a_budget_has_budget_zero():
    assert prose_lint.compare({"new": 1}, {}, strict=False)[1] == {"new"}


@pytest.mark.parametrize("strict", [False, True])
def test_folder_below_budget_fails_if_strict(strict):
    complaints, over = prose_lint.compare({"src": 1}, {"src": 2}, strict=strict)
    assert bool(complaints) == strict
    assert not over


def test_update_only_lowers_the_budget():
    assert prose_lint.lowered({"a": 1, "b": 5, "new": 2}, {"a": 3, "b": 4, "gone": 2}) == {"a": 1, "b": 4}


def test_update_rewrites_the_budget_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "module.py").write_text(MODULE)
    budget = tmp_path / "budget.json"
    budget.write_text('{"src": 9}')
    monkeypatch.setattr(prose_lint, "ROOT", tmp_path)
    monkeypatch.setattr(prose_lint, "BUDGET", budget)
    assert prose_lint.main(["--strict"]) == 1
    assert "lower the budget to 7" in capsys.readouterr().out
    assert prose_lint.main(["--update", "--strict"]) == 0
    assert json.loads(budget.read_text()) == {"src": 7}
    assert prose_lint.main([]) == 0
    assert "7 phrases, within budget" in capsys.readouterr().out


def test_rates_are_findings_per_thousand_words(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("told " * 4 + "word " * 4)
    assert prose_lint.rates([page], {".": 4}, tmp_path) == [
        " 500.0      4 in      8 words  .",
        " 500.0      4 in      8 words  total",
    ]
