"""Page of a comparison in a browser: no message, values by keyboard, prints, and narrow screens."""

from __future__ import annotations

import re

import pytest
from browser import drawn, needs_browser
from results_support import case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.page import render_page

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def text():
    return render_page([judge(case("everything"))])


@pytest.mark.parametrize("name", ["everything", "html", "no runs"])
def test_browser_reports_no_message(name, tmp_path):
    document = drawn(render_page([judge(case(name))]), tmp_path)
    assert (document.count('role="status"') > 0) == (name != "no runs")


def test_arrow_keys_show_values_in_every_kind_of_chart(text, tmp_path):
    action = """
      const names = ["ranking", "score", "pairs", "target", "tuning", "sensitivity"];
      names.forEach((name) => document.querySelector(`#${name} .plot`)
        .dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" })));
    """
    document = drawn(text, tmp_path, action)
    tips = re.findall(r'<div class="tip" role="status" style=[^>]*><b>(.*?)</b>', document)
    starts = ["test accuracy", "steps 0", "difference from adamw", "steps 0", "trials 1", "factor of the learning rate"]
    assert len(tips) == len(starts)
    for tip, start in zip(tips, starts, strict=True):
        assert tip.startswith(start)


def test_prints_contain_the_folded_parts(text, tmp_path):
    before = drawn(text, tmp_path).count('open=""')
    printed = drawn(text, tmp_path, 'dispatchEvent(new Event("beforeprint"));').count('open=""')
    after = drawn(text, tmp_path, '["beforeprint", "afterprint"].forEach((name) => dispatchEvent(new Event(name)));')
    assert (before, after.count('open=""')) == (0, 0)
    assert printed == text.count("data-print=")


@pytest.mark.parametrize("name", ["everything", "long names", "many seeds"])
def test_narrow_screens_do_not_scroll_sideways(name, tmp_path):
    action = "document.title = document.documentElement.scrollWidth - innerWidth;"
    document = drawn(render_page([judge(case(name))]), tmp_path, action, width=500)  # the least width of Chromium
    found = re.search("<title>(-?[0-9]+)</title>", document)
    assert found is not None
    assert int(found[1]) <= 0


PAGES = """
  const main = document.querySelector("main");
  main.style.cssText = "width:703px;height:1009px;columns:703px;column-gap:0;column-fill:auto;max-width:none;padding:0";
  dispatchEvent(new Event("beforeprint"));
  const parts = [...document.querySelectorAll(".plot, .panel")];
  const split = parts.filter((part) => part.getClientRects().length > 1).length;
  const highest = Math.max(...parts.map((part) => part.getBoundingClientRect().height));
  document.title = `${Math.round(main.scrollWidth / 703)} pages, ${parts.length} parts, ${split} split, ${highest}`;
"""
"""Lay out the page in columns of the size of printed A4 pages, and measure the charts."""


@pytest.mark.parametrize("count", [9, 60])
def test_prints_split_no_chart(count, tmp_path):
    names = [f"method-{index}" for index in range(count)]
    text = render_page([judge(results(methods=names, seeds=3, trials=4, rate_seeds=2))])
    document = drawn(text.replace("@media print", "@media all"), tmp_path, PAGES)
    found = re.search("<title>([0-9]+) pages, ([0-9]+) parts, ([0-9]+) split, ([0-9.]+)</title>", document)
    assert found is not None
    assert int(found[1]) > 5
    assert int(found[2]) > 100
    assert int(found[3]) == 0
    assert float(found[4]) < 1009  # the height of a page
