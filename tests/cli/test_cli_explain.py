"""`dashpot explain`: output, files and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import refused

import dashpot as dp
from dashpot.cli.explain import WITHOUT_OPTION, MethodOptions
from dashpot.constraints import ARGUMENTS
from dashpot.schedules import from_name

ADAMW = ("explain", "adamw", "--lr", "1e-3", "--betas", "0.9", "0.999")


def test_method_prints_the_explanation(dashpot):
    code, out, err = dashpot(*ADAMW)
    assert (code, err) == (0, "")
    assert out == f"Explaining adamw.\n{dp.explain('adamw', lr=1e-3, betas=(0.9, 0.999))}\n"
    assert max(map(len, out.splitlines())) <= 100
    assert not list(Path().iterdir())


def test_settings_of_options_and_of_set(dashpot):
    words = ("--pole", 0.8, "--zero", -0.3, "--no-adaptive", "--numerator", 3, "--set", "eps=0.1", "quirks=")
    code, out, err = dashpot("explain", "autosgm", *words[:-1], "--json")
    expected = dp.explain("autosgm", pole=0.8, zero=-0.3, adaptive=False, numerator=3, eps=0.1)
    assert (code, err, json.loads(out)) == (0, "", json.loads(json.dumps(expected.to_dict())))
    assert (
        dashpot("explain", "adamw", "--betas", "0.8,0.9")[1] == dashpot("explain", "adamw", "--set", "betas=0.8,0.9")[1]
    )


def test_nesterov_and_curvature(dashpot):
    words = ("--momentum", 0.9, "--nesterov", "--lr", 0.1, "--curvature", 3, "--noise", 1, "--batch-size", 4)
    found = dp.explain("sgd", momentum=0.9, nesterov=True, lr=0.1, curvature=3.0, noise=1.0, batch_size=4)
    assert dashpot("explain", "sgd", *words)[1] == f"Explaining sgd.\n{found}\n"


def test_schedule_of_a_method(dashpot):
    words = ("--lr", 0.1, "--schedule", "warmup-cosine:warmup=0.2", "--steps", 50)
    found = dp.explain("adamw", lr=0.1, schedule=from_name("warmup-cosine", 50, warmup=0.2))
    assert dashpot("explain", "adamw", *words)[1] == f"Explaining adamw.\n{found}\n"
    assert "Values after 3 steps; the schedule changes lr." in dashpot("explain", "adamw", *words, "--step", 3)[1]


def test_schedule_by_name(dashpot):
    code, out, _ = dashpot("explain", "cosine:floor=0.1", "--steps", 200, "--lr", 0.5)
    assert code == 0
    assert out.startswith("Explaining cosine:floor=0.1.\nThe schedule cosine falls from 0.5 to 0.05 over 200 steps.")
    assert "over 1000 steps" in dashpot("explain", "cosine")[1]


def test_figure_and_page_are_written(dashpot):
    code, out, err = dashpot("explain", "cosine", "--steps", 9, "--plot", "new/plot.png", "--html", "page.html")
    assert (code, err) == (0, "")
    assert out.endswith("Plot: new/plot.png\nPage: page.html\n")
    assert Path("new/plot.png").read_bytes().startswith(b"\x89PNG")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "dashpot explain cosine --steps 9 --plot new/plot.png --html page.html" in page
    assert len(page) < 300_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "explain: name is missing; give a method, such as adamw, or a schedule, such as cosine."),
        (("adamx",), "Unknown method or schedule 'adamx': did you mean 'adam'?"),
        (("adamw", "--lr", "-1"), "AdamW: lr must be a number in [0, inf), got -1.0."),
        (("adamw", "--betas", "0.9"), "AdamW: betas must be a pair, each a number in [0, 1), got 0.9."),
        (("adamw", "--momentum", "0.9"), "AdamW: unknown argument 'momentum'"),
        (("adamw", "--lr", "0.1", "--set", "lr=0.2"), "lr must be given once, got 0.1 and, in --set, 0.2."),
        (("adamw", "--curvature", "0"), "explain: curvature must be None or a number in (0, inf), got 0.0."),
        (("adamw", "--to-batch", "2"), "explain: batch_size must be given with to_batch, got None."),
        (("adamw", "--steps", "2"), "explain: --steps is the length of a schedule; give one by --schedule."),
        (("adamw", "--schedule", "cosin"), "Unknown schedule 'cosin': did you mean 'cosine'?"),
        (("cosine", "--momentum", "0.9"), "explain: a schedule is explained with --steps and --lr only, got momentum."),
        (("cosine", "--curvature", "1"), "explain: a schedule is explained with --steps and --lr only, got curvature."),
        (("cosine:flor=1",), "Unknown option of schedule 'cosine' 'flor': did you mean 'floor'?"),
        (("adamw", "--plot", "a.gif"), "explain: the file must end with .png, .pdf or .svg, got 'a.gif'."),
        (("adamw", "--html", "a.txt"), "explain: the file must end with .html, got 'a.txt'."),
        (("adamw", "--html", "folder.html"), "Cannot write folder.html: it is a folder."),
    ],
)
def test_invalid_input_exits_with_code_2_and_one_line_message(dashpot, words, message):
    Path("folder.html").mkdir()
    assert message in refused(dashpot("explain", *words))


def test_every_setting_is_an_option_or_listed_as_an_exception():
    options = set(MethodOptions.__dataclass_fields__)
    assert options | WITHOUT_OPTION == set(ARGUMENTS)
    assert not options & WITHOUT_OPTION
