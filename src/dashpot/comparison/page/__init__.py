"""Page of a comparison: one self-contained HTML file, made only from findings, with a section per module."""

from dashpot.comparison.page.writing import render_page, write_page

__all__ = ["render_page", "write_page"]
