"""The command `dashpot experiment`."""

import json

import pytest

from dashpot.experiments import HOLDS, Claim, Finding, Outcome, Panel, averages
from dashpot.figures import new_figure


def draw():
    figure, [ax] = new_figure("test")
    ax.plot([1, 2, 3], label="line")
    return figure


def fake(seeds, *, quick):
    del quick
    finding = Finding("noise", "noise <gain>", 0.5, 0.4, 0.6, 0.5, limits="small rates")
    panels = (Panel("figure", "Figure of the noise", "Note.", draw),)
    return Outcome((Claim("slides", "It holds."),), (finding,), HOLDS, "Measured.", panels, {"steps": len(seeds)})


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(averages, "run", fake)


def test_experiment_prints_the_result_and_writes_the_page(dashpot, tmp_path):
    code, out, err = dashpot("experiment", "averages", "--seeds", 3, "--seed", 7)
    assert (code, err) == (0, "")
    for part in (
        "Running the experiment averages with seeds 7 to 9.",
        "Claim (slides): It holds.",
        "0.50 ± 0.10",
        "Limit: small rates (noise <gain>).",
        "Verdict: holds. Measured.",
        "Page: runs/experiment-averages.html",
    ):
        assert part in out
    page = (tmp_path / "runs" / "experiment-averages.html").read_text(encoding="utf-8")
    for part in (
        "noise &lt;gain&gt;",
        "dashpot experiment averages --seeds 3 --seed 7",
        "Figure of the noise",
        "<dt>seeds</dt><dd>7, 8, 9</dd>",
        "<dt>torch</dt>",
        "<dt>processor</dt>",
    ):
        assert part in page


def test_experiment_replaces_an_existing_page_and_creates_folders(dashpot, tmp_path):
    path = tmp_path / "new" / "page.html"
    for _ in range(2):
        assert dashpot("experiment", "averages", "--out", path)[0] == 0
        assert path.read_text(encoding="utf-8").startswith("<!")
        assert [item.name for item in path.parent.iterdir()] == ["page.html"]
        path.write_text("old", encoding="utf-8")


def test_experiment_json_is_one_line_and_writes_no_page(dashpot, tmp_path):
    code, out, err = dashpot("experiment", "averages", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    result = json.loads(out)
    assert result["findings"][0]["predicted"] == 0.5
    assert result["settings"] == {"steps": 5, "seeds": [0, 1, 2, 3, 4], "quick": False}
    assert {"versions", "machine", "command"} <= result.keys()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "experiment: name is missing; give one of averages"),
        (["avrages"], "did you mean 'averages'"),
        (["averages", "--seed", "x"], "must be an integer"),
        (["averages", "--out", "."], "Cannot write .: it is a folder."),
        (["averages", "--out", "page.pdf"], "experiment: --out must end in .html, got page.pdf."),
    ],
)
def test_experiment_with_invalid_options_prints_one_sentence(dashpot, words, message):
    code, out, err = dashpot("experiment", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_interrupted_experiment_leaves_the_existing_page(dashpot, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")

    def stop(seeds, *, quick):
        raise KeyboardInterrupt

    monkeypatch.setattr(averages, "run", stop)
    assert dashpot("experiment", "averages", "--out", path)[0] == 130
    assert path.read_text(encoding="utf-8") == "old"
