"""Inline SVG of figures, whose colors follow the theme of the page and whose series have ids."""

from __future__ import annotations

import html
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dashpot.figures.palette import css_color
from dashpot.figures.series_data import axes_data, condensed, is_curve, series_color, series_data, simplify, thinned
from dashpot.figures.tags import LABEL, Tag, tags_of
from dashpot.utils.atomic_files import sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "dashpot-artist-"
LONG = 4000
"""Length of the text of a path above which the path is simplified."""
TOLERANCE = 0.1
"""Largest distance in points between a path and the simplified path."""
OFTEN = 4
"""Number of uses of a style from which a class is shorter."""
COLUMN = 1.5
"""Width in points of the columns by which long paths are simplified first."""
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"


class Series(NamedTuple):
    """Key, name, CSS color, dash pattern, drawn element ("line" or "marker") and opacity of a series, for legends."""

    key: str
    name: str
    color: str
    dashes: str
    kind: str
    opacity: float = 1.0


class Drawing(NamedTuple):
    """Inline SVG and the series of each of its axes."""

    svg: str
    series: list[list[Series]]


def svg(figure: Figure, *, key: str, title: str) -> str:
    """Return a figure as inline SVG for an HTML page.

    Each tagged artist and each labelled line is an element with the id `key-series`, or `key-series-2` and so on for
    further artists of the series. House colors are CSS variables with defaults, so that pages can define colors for
    dark mode. The values of the series are embedded as JSON in the metadata, for the script of `render_page`. Equal
    figures result in equal text.

    Args:
        figure: Matplotlib figure.
        key: Prefix of all ids; unique on the page.
        title: Accessible title.

    Example:
        >>> from dashpot.figures import new_figure
        >>> figure, [ax] = new_figure("plot")
        >>> [line] = ax.plot([1, 2, 3], label="SGD")
        >>> text = svg(figure, key="loss", title="Training loss")
        >>> 'id="loss-sgd"' in text, "var(--series-0,#0a62a8)" in text
        (True, True)
    """
    return draw_svg(figure, key=key, title=title).svg


def draw_svg(figure: Figure, *, key: str, title: str, values: bool = True) -> Drawing:
    """Return a figure as inline SVG, with its series; without `values`, the metadata contain only the axes."""
    tagged = list(tags_of(figure))
    artists = [artist for _, artist, _ in tagged]
    with _marked(artists), _thinned(tagged):
        raw = _raw_svg(figure, key)
    if values:
        data = series_data(figure, tagged)
    else:
        data = {"axes": axes_data(figure, list(dict.fromkeys(ax for ax, _, _ in tagged)))}
    series: dict[Any, dict[str, Series]] = {}
    for index, (ax, artist, tag) in enumerate(tagged):
        if tag.role != LABEL:
            series.setdefault(ax, {}).setdefault(tag.key, _series(raw, index, artist, tag))
    width, height = figure.get_size_inches() * 72
    head = (
        f'<svg class="dashpot-figure" id="{html.escape(key)}" viewBox="0 0 {width:.6g} {height:.6g}" role="img" '
        f'aria-labelledby="{html.escape(key)}-title" '
        f'style="max-width:{width / 72 * 96 * 1.12:.0f}px;stroke-linejoin:round;font-family:{FONT};'
        f'fill:{css_color("#000000")}">'
        f'<title id="{html.escape(key)}-title">{html.escape(title)}</title>'
        f"<metadata>{embedded_json(data)}</metadata>"
    )
    body = _cleaned(raw, key, [tag for _, _, tag in tagged])
    return Drawing(head + body, [list(own.values()) for own in series.values()])


def embedded_json(value: Any) -> str:
    """Return JSON for an element of a page, with the characters escaped that HTML interprets."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# ---- drawing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _marked(artists: Sequence[Any]) -> Iterator[None]:
    """Give each artist a unique id while the figure is drawn."""
    ids = [artist.get_gid() for artist in artists]
    try:
        for index, artist in enumerate(artists):
            artist.set_gid(f"{MARK}{index}-")
        yield
    finally:
        for artist, own in zip(artists, ids, strict=True):
            artist.set_gid(own)


@contextmanager
def _thinned(tagged: Sequence[tuple[Any, Any, Tag]]) -> Iterator[None]:
    """Thin long lines while the figure is drawn."""
    lines = [artist for ax, artist, _ in tagged if is_curve(ax, artist)]
    data = [line.get_data() for line in lines]
    try:
        for line in lines:
            line.set_data(*thinned(line.get_xydata()).T)
        yield
    finally:
        for line, own in zip(lines, data, strict=True):
            line.set_data(*own)


def _raw_svg(figure: Figure, key: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the browser selects the font
        with _laid_out(figure):
            figure.savefig(buffer, format="svg", facecolor="none", edgecolor="none", metadata={"Date": None})
    return buffer.getvalue()


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay the figure out once; `savefig` would draw everything twice."""
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    engine.execute(figure)
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def _series(raw: str, index: int, artist: Any, tag: Tag) -> Series:
    """Return the appearance of a series, with the dash pattern of its element."""
    start = raw.find(f'id="{MARK}{index}-"')
    element = re.compile(r'<(?:path|use)[^>]*?style="([^"]*)"').search(raw, max(start, 0))
    dashes = re.search(r"stroke-dasharray: ([\d.,]+)", element[1]) if element else None
    line = hasattr(artist, "get_linestyle") and hasattr(artist, "get_xydata")
    kind = "line" if line and artist.get_linestyle() not in ("None", "", " ") else "marker"
    opacity = artist.get_alpha()
    color = css_color(series_color(artist))
    return Series(tag.key, tag.name, color, dashes[1] if dashes else "", kind, 1.0 if opacity is None else opacity)


# ---- text of the SVG -------------------------------------------------------------------------------------------------


def _cleaned(raw: str, key: str, tags: Sequence[Tag]) -> str:
    """Return the elements of matplotlib's SVG, short, with ids of series and with CSS variables as colors."""
    body = raw[raw.index("</defs>") + len("</defs>") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="(?!dashpot-artist-)[^"]*"', "<g", body)
    seen: dict[str, int] = {}

    def identify(match: re.Match[str]) -> str:
        tag = tags[int(match[1])]
        seen[tag.key] = count = seen.get(tag.key, 0) + 1
        suffix = "" if count == 1 else f"-{count}"
        return f'id="{html.escape(key)}-{tag.key}{suffix}" data-series="{tag.key}" data-role="{html.escape(tag.role)}"'

    body = re.sub(rf'id="{MARK}(\d+)-"', identify, body)
    body = re.sub(r'\b(d|x|y|transform|points)="([^"]*)"', lambda match: f'{match[1]}="{_short(match[2])}"', body)
    body = re.sub(r'style="([^"]*)"', lambda match: f'style="{_style(match[1])}"', body)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", "\n", _without_plain_groups(body)).strip()
    return _with_classes(body)


def _with_classes(body: str) -> str:
    """Replace styles that occur often by classes, whose rules precede the elements.

    Class names contain a checksum of the styles, because the rules apply to the whole page or notebook.
    """
    counts = Counter(re.findall(r'style="([^"]*)"', body))
    often = [style for style, count in counts.most_common() if count >= OFTEN]
    prefix = sha256("\n".join(often).encode())[:8]
    classes = {style: f"f{prefix}-{index}" for index, style in enumerate(often)}
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())

    def replaced(match: re.Match[str]) -> str:
        return f'class="{classes[match[1]]}"' if match[1] in classes else match[0]

    return f"<style>{rules}</style>" + re.sub(r'style="([^"]*)"', replaced, body)


def _without_plain_groups(body: str) -> str:
    """Remove the start and end tags of groups without attributes.

    >>> _without_plain_groups('<g><g id="a"><path/></g></g>')
    '<g id="a"><path/></g>'
    """
    parts = []
    opened: list[bool] = []
    for part in re.split(r"(<g\b[^>]*>|</g>)", body):
        if part == "</g>":
            keep = not opened or opened.pop()  # the root element closes after all groups
        elif part.startswith("<g"):
            keep = part != "<g>"
            opened.append(keep)
        else:
            keep = True
        parts.append(part if keep else "")
    return "".join(parts)


def _short(numbers: str) -> str:
    """Return the text of an attribute with numbers rounded to 1/100 point, and long paths simplified.

    >>> _short("M 34.326256 22.50 \\nL 94.963949 41.93012 ")
    'M34.33 22.5L94.96 41.93'
    """
    if len(numbers) > LONG and re.fullmatch(r"[MLz\d.\se-]+", numbers):
        numbers = _simplified(numbers)
    rounded = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return re.sub(r"\s*([A-Za-z])\s*(?=-?[\d.])|\s+$", r"\1", re.sub(r"\s*\n\s*", " ", rounded)).strip()


def _simplified(path: str) -> str:
    """Return a path of straight lines with fewer points, each part simplified by itself."""
    parts = []
    for part in path.split("M"):
        points = np.array(part.replace("L", " ").replace("z", " ").split(), dtype=float).reshape(-1, 2)
        if len(points):
            points = condensed(points, COLUMN)
            kept = points[simplify(points, TOLERANCE)]
            parts.append("M " + " L ".join(f"{x:.2f} {y:.2f}" for x, y in kept.tolist()) + " z" * ("z" in part))
    return " ".join(parts)


def _style(text: str) -> str:
    """Return a style without font families, which the page defines, and with CSS variables as colors."""
    text = re.sub(r"font-family: [^;]*;? ?", "", text)
    text = re.sub(r"font: [^;]*?([\d.]+px)[^;]*", r"font-size: \1", text)  # matplotlib before version 3.10
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: css_color(match[0]), text)
    return text.replace(": ", ":").replace("; ", ";").strip()
