"""House style of all figures: matplotlib figures, and pages with inline SVG.

Every function that draws accepts optional axes `ax` and returns the figure. matplotlib is loaded only when a figure is
drawn.
"""

from dashpot.figures.axes import new_figure
from dashpot.figures.inline_svg import svg
from dashpot.figures.labels import label_lines
from dashpot.figures.page import Page, Section, html_table, paragraphs, render_page, write_page
from dashpot.figures.palette import color
from dashpot.figures.saving import save
from dashpot.figures.tags import tag

__all__ = [
    "Page",
    "Section",
    "color",
    "html_table",
    "label_lines",
    "new_figure",
    "paragraphs",
    "render_page",
    "save",
    "svg",
    "tag",
    "write_page",
]
