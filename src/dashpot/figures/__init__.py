"""House style of all figures: matplotlib figures, and pages with inline SVG.

Every function that draws accepts optional axes `ax` and returns the figure. matplotlib is loaded only when a figure is
drawn.
"""

from dashpot.figures.axes import new_figure

__all__ = ["new_figure"]
