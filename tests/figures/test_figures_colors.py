"""Colors of figures: contrast and color blindness."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dashpot.comparison import DEFAULT_METHODS
from dashpot.errors import ArgumentError
from dashpot.figures import color
from dashpot.figures.method_styles import STYLES, styles_for
from dashpot.figures.palette import INK, MUTED, PAPER, SERIES, Hue

# Matrices on linear RGB that simulate color blindness. Source: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(color: str) -> np.ndarray:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 1e-9))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: Hue, two: Hue, theme: str, vision: str) -> float:
    seen = [lab(np.asarray(VISION[vision]) @ linear(getattr(hue, theme))) for hue in (one, two)]
    return float(np.linalg.norm(seen[0] - seen[1]))


# A CIELAB distance of 2.3 is just noticeable; lines require a distance several times larger.
LEAST = 15


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_series_colors_differ_under_color_blindness(theme, vision):
    least, *pair = min((distance(a, b, theme, vision), a, b) for a, b in itertools.combinations(SERIES, 2))
    assert least > LEAST, pair


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_default_methods_differ_in_dash_or_color_under_color_blindness(theme, vision):
    for one, two in itertools.combinations(DEFAULT_METHODS, 2):
        a, b = STYLES[one], STYLES[two]
        assert a.dash != b.dash or distance(a.hue, b.hue, theme, vision) > LEAST, (one, two)


def contrast(hue: Hue, theme: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    bright, dim = sorted((float(weights @ linear(getattr(item, theme))) for item in (hue, PAPER)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_meets_wcag(theme):
    assert min(contrast(hue, theme) for hue in SERIES) >= 3  # WCAG 2.2, 1.4.11: graphical objects
    assert min(contrast(hue, theme) for hue in (INK, MUTED)) >= 4.5  # WCAG 2.2, 1.4.3: text


def test_styles_of_unknown_methods_are_unique():
    own = styles_for([f"mine-{i}" for i in range(8)])
    assert len({*own.values(), *STYLES.values()}) == 8 + len(set(STYLES.values()))


def test_color_indices_repeat_after_eight():
    assert color(8) == color(0)
    assert len({color(index) for index in range(8)}) == 8


@pytest.mark.parametrize("value", [-1, 1.0, True, "stabel", None])
def test_color_rejects_other_values(value):
    with pytest.raises(ArgumentError, match="color: index_or_role must be an integer >= 0 or one of 'ink'"):
        color(value)
