"""Pages and files of figures."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from browser import drawn, needs_browser

from dashpot.errors import ArgumentError, RunError
from dashpot.figures import (
    Page,
    Section,
    html_table,
    label_lines,
    new_figure,
    paragraphs,
    render_page,
    save,
    tag,
    write_page,
)


def figure(columns=2, points=50):
    drawn, axes = new_figure("test", columns=columns, size=(6.4, 2.4))
    x = np.arange(1, points + 1)
    for ax in axes:
        for index, name in enumerate(("SGD", "Adam")):
            ax.plot(x, 1 / (index + x), label=name)
        ax.set_xlabel("step")
        label_lines(ax)
    return drawn


@pytest.fixture(scope="module")
def page():
    sections = [Section("First", paragraphs("a < b"), figure(), "A note & more."), Section("Second", figure=figure(1))]
    return render_page(Page("Title <b>", "Lead.", "dashpot x --y '</code>'", sections))


def test_page_is_self_contained_and_escaped(page):
    assert not re.findall(r"\b(?:src|href|srcset)=", page.replace("xlink:href", ""))
    assert "default-src 'none'" in page
    assert "url(" not in "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL))
    assert "Title &lt;b&gt;" in page
    assert "a &lt; b" in page
    assert "&lt;/code&gt;" in page
    assert "A note &amp; more." in page


def test_ids_are_unique_and_legends_toggle_series(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    assert {"first", "first-sgd", "first-narrow-adam", "second-heading"} <= set(ids)
    assert re.findall(r'data-toggle="(\w+)"', page) == ["sgd", "adam"] * 2


def test_legend_has_one_entry_per_name():
    drawn, [ax] = new_figure("test", size=(3, 2))
    for index, name in enumerate(("SGD", "Adam", "SGD")):
        tag(ax.plot([1, 2], label=name)[0], f"{name}-{index}")
    text = render_page(Page("x", sections=[Section("y", figure=drawn)]))
    assert re.findall(r'data-toggle="(.*?)"', text) == ["SGD-0 SGD-2", "Adam-1"]


def test_narrow_drawing_has_one_column_and_no_labels(page):
    drawings = dict(re.findall(r'<svg class="dashpot-figure" id="([\w-]+)"(.*?)</svg>', page, re.DOTALL))
    wide, narrow = drawings["first"], drawings["first-narrow"]
    assert (wide.count('data-role="label"'), narrow.count('data-role="label"')) == (4, 0)
    assert re.search(r'viewBox="0 0 460.8 172.8"', wide)
    assert re.search(r'viewBox="0 0 280.8 345.6"', narrow)


def test_drawing_for_a_page_leaves_the_figure_unchanged():
    drawn = figure()
    drawn.axes[0].legend()
    before = drawn.get_size_inches().tolist(), [ax.get_subplotspec().get_geometry() for ax in drawn.axes]
    render_page(Page("x", sections=[Section("y", figure=drawn)]))
    assert (drawn.get_size_inches().tolist(), [ax.get_subplotspec().get_geometry() for ax in drawn.axes]) == before
    assert drawn.axes[0].get_legend().get_visible()


@pytest.mark.slow
def test_page_of_many_long_series_is_at_most_300_kilobytes():
    drawn, axes = new_figure("test", columns=2, size=(7, 2.6))
    noise = np.random.default_rng(0).normal(size=(12, 5_000)).cumsum(axis=1)
    for index, values in enumerate(noise):
        axes[index % 2].plot(values, label=f"series {index}")
    assert len(render_page(Page("x", sections=[Section("y", figure=drawn)])).encode()) < 300_000


def test_sections_with_equal_keys_are_rejected():
    with pytest.raises(ArgumentError, match="the keys of sections must be distinct, got 'result' twice"):
        render_page(Page("x", sections=[Section("Result"), Section("result")]))


def test_table_aligns_numbers_and_escapes_text():
    table = html_table(["name", "value", "unit"], [["a", "-1.5", "<m>"], ["b", "2", ""]])
    assert '<td>-1.5</td><td class="text">&lt;m&gt;</td>' in table
    assert '<th scope="row">a</th>' in table


def test_missing_jinja2_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ArgumentError, match=r"Pages need jinja2: pip install 'dashpot\[plot\]'"):
        render_page(Page("x"))


@pytest.mark.parametrize(
    ("suffix", "start"),
    [
        pytest.param("png", b"\x89PNG", marks=pytest.mark.slow),
        pytest.param("pdf", b"%PDF", marks=pytest.mark.slow),
        ("svg", b"<?xml"),
    ],
)
def test_saved_files_are_reproducible(tmp_path, suffix, start):
    one, two = (save(figure(1), tmp_path / folder / f"plot.{suffix}").read_bytes() for folder in ("a", "b"))
    assert one.startswith(start)
    assert one == two


def test_invalid_paths_are_rejected(tmp_path):
    with pytest.raises(ArgumentError, match=r"save: path must end with one of \.png, \.pdf, \.svg, got '.*plot\.jpg'"):
        save(figure(1), tmp_path / "plot.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*file/page\.html: "):
        write_page(Page("x"), tmp_path / "file" / "page.html")


ACTIONS = """
  const plots = document.querySelectorAll(".plot.wide"), box = plots[0].getBoundingClientRect();
  const key = (name) => plots[0].dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  document.querySelector("button[data-toggle=adam]").click();
  const place = { clientX: box.left + 0.2 * box.width, clientY: box.top + 60 };
  plots[0].dispatchEvent(new PointerEvent("pointermove", place));
  key("ArrowRight"); key("ArrowRight"); key("ArrowLeft"); key("ArrowDown"); key("ArrowRight");
"""


@pytest.mark.slow
@needs_browser
def test_browser_shows_values_and_hides_series(page, tmp_path):
    document = drawn(page, tmp_path, ACTIONS)
    [tip] = re.findall(r'<div class="tip" role="status"[^>]*><b>(.*?)</b>(.*?)</div></div>', document)
    assert tip[0] == "step 2"
    assert re.findall(r"<em[^>]*>(.*?)</em><span>(.*?)</span>", tip[1]) == [("SGD", "0.5")]
    assert document.count('<button type="button" aria-pressed="false"') == 1
