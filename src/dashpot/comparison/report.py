"""The report: one HTML file made from records only, with everything it needs inside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dashpot.comparison.figures import loss_figure, lr_figure, score_figure
from dashpot.comparison.palette import styles_for
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.summary import Summary, summarise
from dashpot.errors import RunError
from dashpot.runs.eta import duration
from dashpot.runs.files import write_text
from dashpot.runs.records import Run

__all__ = ["write_report"]


class Chart(NamedTuple):
    """One chart of the page: where it stands, what it is called, what to know when reading it."""

    key: str
    title: str
    note: str
    figure: Any


def write_report(out: Path) -> Path:
    """Write `report.html` and `summary.md` into a comparison's folder from its records; return the report's path.

    Raises:
        RunError: the folder holds no readable comparison or no finished epoch, cannot be written, or jinja2 or plotly
            is not installed.
    """
    folder = StudyFolder(Path(out))
    study, runs = folder.study(), folder.runs()
    if not any(run.epochs or run.end for run in runs):
        raise RunError(f"{folder.path} holds no finished epoch yet, so there is nothing to report.")
    summary = summarise(runs)
    page = _render(study, runs, summary, _charts(runs, summary))
    write_text(folder.path / "summary.md", summary.markdown() + "\n")
    write_text(folder.path / "report.html", page)
    return folder.path / "report.html"


def _charts(runs: Sequence[Run], summary: Summary) -> list[Chart]:
    """Loss, the score and the other evaluation metrics, learning rate."""
    band = "Mean over seeds; the band runs from the lowest seed to the highest."
    measured = next((run.epochs[-1][summary.score.phase] for run in runs if run.epochs), {})
    metrics = [summary.score.metric, *(name for name in measured if name != summary.score.metric)] if measured else []
    window = "Moving average over a thirtieth of the run; single steps faint behind."
    return [
        *(
            Chart(name, f"{_phase(summary.score.phase)} {name}", band, score_figure(runs, summary.score.phase, name))
            for name in metrics[:1]
        ),
        Chart("train-loss", "Training loss", window, loss_figure(runs)),
        *(
            Chart(
                f"other-{name}",
                f"{_phase(summary.score.phase)} {name}",
                band,
                score_figure(runs, summary.score.phase, name),
            )
            for name in metrics[1:]
        ),
        Chart("lr", "Learning rate", "The rate each step used.", lr_figure(runs)),
    ]


def _phase(phase: str) -> str:
    return {"eval": "Evaluation", "train": "Training"}[phase]


def _render(study: dict[str, Any], runs: Sequence[Run], summary: Summary, charts: Sequence[Chart]) -> str:
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise RunError("The report needs jinja2 and plotly: pip install 'dashpot[cli]'.") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dashpot", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = list(dict.fromkeys(run.entry for run in runs))
    first = {name: next(run for run in runs if run.entry == name).header for name in names}
    return environment.get_template("report.html.jinja").render(
        title=f"{study['settings']['task']}: {len(names)} methods compared",
        lead=headline(summary),
        settings=study["settings"],
        task=runs[0].header["task"],
        command=study["command"],
        summary=summary,
        styles=styles_for(names),
        names=names,
        headers=first,
        facts=_facts(study["settings"], runs),
        charts=charts,
        plotly=get_plotlyjs(),
        figures=_json({chart.key: json.loads(chart.figure.to_json()) for chart in charts}),
        styles_json=_json({name: style._asdict() for name, style in styles_for(names).items()}),
        records=_json({"study.json": study, **{run.path.name: run.path.read_text(encoding="utf-8") for run in runs}}),
    )


def headline(summary: Summary) -> str:
    """The result in a sentence or two: who leads, by how much, and how far one method's seeds lie apart."""
    ranked = [row for row in summary.rows if row.mean is not None]
    diverged = [row.name for row in summary.rows if row.diverged]
    lost = f" Runs diverged: {', '.join(diverged)}." if diverged else ""
    if not ranked:
        return "No run has finished." + lost
    best = ranked[0]
    spread = "" if best.sd is None else f" ± {best.sd:.4f} over {best.done} seeds"
    text = f"{best.name} has the best mean {summary.score.phase} {summary.score.metric}, {best.mean:.4f}{spread}"
    if len(ranked) > 1 and ranked[1].mean is not None and best.mean is not None:
        text += f"; {ranked[1].name} follows at {ranked[1].mean:.4f}"
    return text + "." + lost


def _facts(settings: dict[str, Any], runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What a reader needs to repeat the study: name and value, values that differ between runs all shown."""
    headers = [run.header for run in runs]
    config = "; ".join(f"{key} {_plain(value)}" for key, value in settings["config"].items())
    wall = sum(epoch["wall_s"] for run in runs for epoch in run.epochs)
    machine = {
        "{processor}, {threads} of {cores} cores used, {system}".format(**header["machine"]) for header in headers
    }
    versions = {", ".join(f"{name} {version}" for name, version in header["versions"].items()) for header in headers}
    return [
        ("Epochs", f"{settings['epochs']} of {settings['steps_per_epoch']} steps"),
        ("Seeds", ", ".join(map(str, settings["seeds"])) + "; the same initial weights and batches for every method"),
        ("Task", f"{headers[0]['task']['parameters']} parameters; {config}"),
        ("Training time", f"{duration(wall)} in all, evaluation not counted"),
        ("Versions", " | ".join(sorted(versions))),
        ("Machine", " | ".join(sorted(machine))),
        ("Started", min(header["started"] for header in headers)),
    ]


def _plain(value: Any) -> str:
    """A setting as text; checksums are cut to what tells them apart, the records hold them whole."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)


def _json(value: Any) -> str:
    """JSON that may stand inside a script element: no `<`, so nothing in it can end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
