"""Report of a watched run: at most five sentences, and a page of measurements and predictions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.analysis.page_result import PageResult
from dashpot.analysis.wording import unbroken
from dashpot.utils.html import element, escape, page_part
from dashpot.watching.report_rows import last_step
from dashpot.watching.report_sentence import USEFUL, Sentence
from dashpot.watching.sentences import ABSENCES, FAULTS, sentences_of
from dashpot.watching.series import WatchRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.figures import Page

MOST = 5
"""Largest number of sentences of a report."""
_WIDTH = 100


@dataclass(frozen=True, repr=False)
class WatchReport(PageResult):
    """Answer of a watched run: what it does, how certain that is, and what to change.

    `print` shows at most five sentences, the most important first: faults, then possible savings of time, then what
    is uncertain. Below, it lists the faults that were not found, and measurements that are missing. Facts that need no
    action are in `more`.

    Attributes:
        record: The measurements.
        sentences: The shown sentences.
        more: The other sentences, in the order of their importance.
        missing: The reason for each topic without a sentence.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> opt = dp.AdamW([w], lr=0.1)
        >>> with dp.watch(opt, budget=1.0) as watcher:
        ...     for _ in range(40):
        ...         opt.zero_grad(); loss = (w**2).sum(); loss.backward(); watcher.observe(loss); opt.step()
        >>> report = watcher.report()
        >>> [sentence.topic for sentence in report.more if sentence.topic == "updates"]
        ['updates']
        >>> report.missing["noise"]
        'The number of examples is unknown: ...'
    """

    record: WatchRecord
    sentences: tuple[Sentence, ...]
    more: tuple[Sentence, ...]
    missing: Mapping[str, str]

    @property
    def step(self) -> int:
        """The newest step of the measurements."""
        return last_step(self.record)

    def summary(self) -> str:
        """Return the sentences in one text."""
        return " ".join(map(str, self.sentences)) or (" ".join(self.remarks()) if self.more else self._nothing())

    def _nothing(self) -> str:
        return " ".join(["Nothing has been measured.", *dict.fromkeys(self.missing.values())])

    def __str__(self) -> str:
        """Return the numbered sentences, the faults that were not found, and the reasons of missing measurements."""
        if not (self.sentences or self.more):
            return textwrap.fill(self._nothing(), _WIDTH)
        numbered = [(f"{index}. ", str(sentence)) for index, sentence in enumerate(self.sentences, start=1)]
        lines = [*numbered, *(("", line) for line in self.remarks())]
        return "\n".join(
            textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent="   ") for start, text in lines
        )

    def remarks(self) -> list[str]:
        """Return one line on the faults that were not found, and one for each missing measurement."""
        healthy = [self.missing[topic] for topic in FAULTS if topic in self.missing]
        absent = [f"No {name}: {self.missing[topic]}" for topic, name in ABSENCES.items() if topic in self.missing]
        return [*([" ".join(healthy)] if healthy else []), *absent]

    def __repr__(self) -> str:
        """Return the same as `str`, for interactive sessions."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return sentences, reasons, settings and the newest row of each kind as JSON-serializable data."""
        stored = self.record.to_dict()
        newest = {kind: rows[-1] for kind, rows in stored["series"].items() if rows}
        return {
            "step": self.step,
            "sentences": [sentence.to_dict() for sentence in self.sentences],
            "more": [sentence.to_dict() for sentence in self.more],
            "missing": dict(self.missing),
            "header": stored["header"],
            "newest": newest,
        }

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the curves of the measured quantities and of their predictions.

        Args:
            ax: Axes to draw on, one for each measured quantity, in place of a new figure.
        """
        from dashpot.watching.watch_figures import draw

        return draw(self.record, ax)

    def _page(self, command: str) -> Page:
        from dashpot.watching.page import page_of

        return page_of(self, command)

    def _repr_html_(self) -> str:
        """Return the sentences and the figure for notebooks; without matplotlib, no figure."""
        items = "".join(element("li", escape(unbroken(str(sentence)))) for sentence in self.sentences)
        text = element("ol", items, "margin:.4em 0;padding-left:1.4em") if items else escape(self.summary())
        return page_part(text + self._inline_figure(f"watch-{self.step}", "Measurements of a watched run"))


def report_of(record: WatchRecord) -> WatchReport:
    """Return the report of a record."""
    found = sentences_of(record)
    useful = [sentence for sentence in found.sentences if sentence.importance >= USEFUL][:MOST]
    return WatchReport(record, tuple(useful), found.sentences[len(useful) :], found.missing)
