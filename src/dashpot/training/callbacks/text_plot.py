"""Plots of a loss curve as text, with Braille dots or ASCII characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dashpot.training.callbacks.loss_curve import LossCurve, Points, is_logarithmic
from dashpot.utils.format import decimals

Segments = list[tuple[str, str]]
"""Parts of a line: text and style."""
TRAIN, EVAL, PLAIN = "cyan", "magenta", ""
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a Braille character, by row and column."""
SMALLEST = 20
"""Smallest width of a plot in columns."""


class Signs(NamedTuple):
    """Characters of a plot.

    Attributes:
        dots: Rows and columns of dots per character.
        dot: Function from the bits of the dots that are set to a character.
        marker: Character of an evaluation.
        line: Sample of the training line in the legend.
        tick, side, corner, bottom: Characters of the axes.
    """

    dots: tuple[int, int]
    dot: Callable[[int], str]
    marker: str
    line: str
    tick: str
    side: str
    corner: str
    bottom: str


UNICODE = Signs((4, 2), lambda bits: chr(0x2800 + bits), "●", "⠤⠤", "┤", "│", "└", "─")
ASCII = Signs((1, 1), lambda bits: "*", "o", "**", "+", "|", "+", "-")


def plot_lines(curve: LossCurve, width: int, height: int, signs: Signs = UNICODE) -> list[Segments]:
    """Return the lines of a plot: a legend, `height` rows with the y axis, and two lines with the x axis.

    The y axis is logarithmic if the losses are positive and differ by a factor above 20. Returns no lines if the curve
    has no finite loss, or `width` is less than 20.

    Args:
        curve: Losses to plot.
        width: Number of columns.
        height: Number of rows of the plot area, at least 3.
        signs: Characters of the plot.
    """
    measured, evaluation = _finite(curve.train), _finite(curve.evaluation)
    train = _averaged(measured, width * signs.dots[1] // 2)
    losses = [loss for _, loss in train + evaluation]
    if not losses or width < SMALLEST:
        return []
    log = is_logarithmic(losses)
    low, high = min(losses), max(losses)
    labels = {0: high, height // 2: _between(low, high, 1 - (height // 2) / (height - 1), log), height - 1: low}
    texts = {row: decimals(value) for row, value in labels.items()} if high > low else {height // 2: decimals(low)}
    margin = max(map(len, texts.values()))
    canvas = _Canvas(width - margin - 1, height, signs)
    last = max(step for step, _ in train + evaluation)  # 0 in a fit without steps

    def place(point: tuple[int, float]) -> tuple[float, float]:
        step, loss = point
        return step / max(last, 1), _fraction(loss, low, high, log)

    canvas.draw_line([place(point) for point in train])
    for point in evaluation:
        canvas.mark(*place(point))
    rows = [
        [(texts.get(row, "").rjust(margin), PLAIN), (signs.tick if row in texts else signs.side, PLAIN), *cells]
        for row, cells in enumerate(canvas.rows())
    ]
    axis = " " * margin + signs.corner + signs.bottom * (width - margin - 1)
    steps = f"step {last}".rjust(width - margin - 2)
    return [
        _legend(measured, evaluation, log, width, signs),
        *rows,
        [(axis, PLAIN)],
        [(" " * (margin + 1) + "0" + steps, PLAIN)],
    ]


def _finite(points: Points) -> Points:
    return [(step, loss) for step, loss in points if math.isfinite(loss)]


def _averaged(points: Points, limit: int) -> Points:
    """Return the means of consecutive points, at most `limit` of them."""
    size = -(-len(points) // limit) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], math.fsum(loss for _, loss in group) / len(group)) for group in groups]


def _fraction(loss: float, low: float, high: float, log: bool) -> float:
    """Return the height of a loss on the y axis, in [0, 1]."""
    if low == high:
        return 0.5
    return math.log(loss / low) / math.log(high / low) if log else (loss - low) / (high - low)


def _between(low: float, high: float, fraction: float, log: bool) -> float:
    return low * (high / low) ** fraction if log else low + (high - low) * fraction


def _legend(train: Points, evaluation: Points, log: bool, width: int, signs: Signs) -> Segments:
    """Return the legend with the latest losses, without the parts that exceed the width."""
    parts: list[Segments] = [[("loss (log)" if log else "loss", PLAIN)]]
    if train:
        parts.append([(signs.line, TRAIN), (f" train {decimals(train[-1][1])}", PLAIN)])
    if evaluation:
        parts.append([(signs.marker, EVAL), (f" eval {decimals(evaluation[-1][1])}", PLAIN)])
    line: Segments = []
    for part in parts:
        gap = [("  ", PLAIN)] if line else []
        if sum(len(text) for text, _ in [*line, *gap, *part]) <= width:
            line += [*gap, *part]
    return line


class _Canvas:
    """Grid of characters that consist of dots."""

    def __init__(self, columns: int, rows: int, signs: Signs) -> None:
        self.signs, self.size = signs, (rows, columns)
        self._bits: dict[tuple[int, int], int] = {}
        self._marks: set[tuple[int, int]] = set()

    def draw_line(self, points: list[tuple[float, float]]) -> None:
        """Draw a line through points in [0, 1] x [0, 1]; y increases upwards."""
        dots = [self._dot(x, y) for x, y in points]
        for (row, column), (next_row, next_column) in zip(dots, dots[1:] or dots, strict=False):
            count = max(abs(next_row - row), abs(next_column - column), 1)
            for k in range(count + 1):
                self._set(round(row + (next_row - row) * k / count), round(column + (next_column - column) * k / count))

    def mark(self, x: float, y: float) -> None:
        """Draw a marker."""
        row, column = self._dot(x, y)
        self._marks.add((row // self.signs.dots[0], column // self.signs.dots[1]))

    def _dot(self, x: float, y: float) -> tuple[int, int]:
        rows, columns = (size * dots for size, dots in zip(self.size, self.signs.dots, strict=True))
        return round((1 - y) * (rows - 1)), round(x * (columns - 1))

    def _set(self, row: int, column: int) -> None:
        high, wide = self.signs.dots
        cell = row // high, column // wide
        self._bits[cell] = self._bits.get(cell, 0) | DOTS[row % high][column % wide]

    def rows(self) -> Iterator[Segments]:
        """Yield the rows from top to bottom, with one segment per run of equal style."""
        for row in range(self.size[0]):
            segments: Segments = []
            for column in range(self.size[1]):
                text, style = self._cell((row, column))
                if segments and segments[-1][1] == style:
                    segments[-1] = (segments[-1][0] + text, style)
                else:
                    segments.append((text, style))
            yield segments

    def _cell(self, cell: tuple[int, int]) -> tuple[str, str]:
        if cell in self._marks:
            return self.signs.marker, EVAL
        return (self.signs.dot(self._bits[cell]), TRAIN) if cell in self._bits else (" ", PLAIN)
