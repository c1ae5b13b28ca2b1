"""The section of a page between two marker lines, which a benchmark writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple


class Section(NamedTuple):
    """The marker lines around the tables of a benchmark."""

    begin: str
    end: str

    def check(self, page: Path | None) -> None:
        """Exit if the page does not contain the markers; call this before measuring."""
        if page is not None and not all(line in page.read_text() for line in self):
            sys.exit(f"{page} must contain the lines {self.begin} and {self.end}.")

    def write(self, page: Path | None, report: str) -> None:
        """Replace the section with `report`."""
        if page is not None:
            before, _, rest = page.read_text().partition(self.begin)
            page.write_text(f"{before}{self.begin}\n\n{report}\n\n{self.end}{rest.partition(self.end)[2]}")
