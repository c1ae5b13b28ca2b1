"""Text tables, with aligned columns for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashpot.utils.terminal import printable


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table whose first column is left-aligned and whose other columns are right-aligned.

    >>> print(text_table(["method", "accuracy"], [["adam", "0.8771"], ["sgd", "0.84"]]))
    method  accuracy
    ------  --------
    adam      0.8771
    sgd         0.84
    """
    header, rows = [printable(cell) for cell in header], [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(_pad(cell, width, i) for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table.

    >>> print(markdown_table(["method", "accuracy"], [["adam", "0.8771"]]))
    | method | accuracy |
    |:--|--:|
    | adam | 0.8771 |
    """
    header, rows = [printable(cell) for cell in header], [[printable(cell) for cell in row] for row in rows]
    rule = "|:--|" + "--:|" * (len(header) - 1)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], rule, *lines[1:]])


def score_text(means: Mapping[str, float]) -> str:
    """Format accuracy and loss as "accuracy (loss)", or the loss alone.

    >>> score_text({"loss": 0.3351, "accuracy": 0.8771}), score_text({"loss": 0.3351})
    ('.877 (.335)', '0.3351')
    """
    if "loss" not in means:  # the phase was cancelled before its first batch
        return "-"
    if "accuracy" in means:
        return f"{_short(means['accuracy'])} ({_short(means['loss'])})"
    return f"{means['loss']:.4g}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if abs(value) < 100 else f"{value:.2e}"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
