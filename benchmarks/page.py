"""The part of a page that a benchmark writes, between two lines that mark it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """The lines between which a benchmark's tables stand."""

    begin: str
    end: str

    def check(self, page: Path | None) -> None:
        """Stop, before anything is measured, where a page lacks the lines."""
        if page is not None and not all(line in page.read_text() for line in self):
            sys.exit(f"{page} must hold the lines {self.begin} and {self.end}.")

    def write(self, page: Path | None, report: str) -> None:
        """Put `report` there, in place of what stood there before."""
        if page is not None:
            before, _, rest = page.read_text().partition(self.begin)
            page.write_text(f"{before}{self.begin}\n\n{report}\n\n{self.end}{rest.partition(self.end)[2]}")
