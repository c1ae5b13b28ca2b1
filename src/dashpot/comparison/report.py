"""Report of a comparison: a self-contained HTML file, generated only from the records."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dashpot.comparison.figures import loss_figure, lr_figure, score_figure
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.summary import Summary, summarise
from dashpot.errors import ArgumentError, RunError
from dashpot.figures.charts import legend_buttons, legend_entry, plots, swatch
from dashpot.figures.inline_svg import embedded_json
from dashpot.figures.method_styles import styles_for
from dashpot.figures.page import render_template
from dashpot.runs.files import write_text
from dashpot.runs.records import Run
from dashpot.utils.format import duration

SINGLE_STEPS = '\n<label class="screen"><input type="checkbox" data-toggle-role="raw" checked> single steps</label>'


class Chart(NamedTuple):
    """Chart of the report, with the key of its HTML element, its title, a note and a figure."""

    key: str
    title: str
    note: str
    figure: Any


def write_report(out: Path) -> Path:
    """Write `report.html` and `summary.md` from the records of a comparison.

    Args:
        out: Folder of the comparison.

    Returns:
        Path of `report.html`.

    Raises:
        RunError: If `out` does not contain a readable comparison with a finished epoch or cannot be written, or if
            jinja2 or matplotlib is not installed.
    """
    folder = StudyFolder(Path(out))
    study, runs = folder.study(), folder.runs()
    if not any(run.epochs or run.end for run in runs):
        raise RunError(f"{folder.path} has no finished epoch to report.")
    summary = summarise(runs)
    page = _render(study, runs, summary, _charts(runs, summary))
    write_text(folder.path / "summary.md", summary.markdown() + "\n")
    write_text(folder.path / "report.html", page)
    return folder.path / "report.html"


def _charts(runs: Sequence[Run], summary: Summary) -> list[Chart]:
    """Return the charts of the score, the training loss, the other metrics and the learning rate."""
    phase, metric = summary.score.phase, summary.score.metric
    title = {"eval": "Evaluation", "train": "Training"}[phase]

    def metric_chart(key: str, name: str) -> Chart:
        note = "Mean over seeds; band from minimum to maximum."
        return Chart(key, f"{title} {name}", note, score_figure(runs, phase, name))

    measured = next((run.epochs[-1][phase] for run in runs if run.epochs), {})
    note = "Moving average over 1/30 of the run; single steps are faint."
    charts = [
        Chart("train-loss", "Training loss", note, loss_figure(runs)),
        *(metric_chart(f"other-{name}", name) for name in measured if name != metric),
        Chart("lr", "Learning rate", "Learning rate of each step.", lr_figure(runs)),
    ]
    return [metric_chart(metric, metric), *charts] if measured else charts


def _render(study: dict[str, Any], runs: Sequence[Run], summary: Summary, charts: Sequence[Chart]) -> str:
    names = list(dict.fromkeys(run.entry for run in runs))
    styles = {name: legend_entry(name, style) for name, style in styles_for(names).items()}
    try:
        return render_template(
            "dashpot.comparison",
            "report.html.jinja",
            title=f"{study['settings']['task']}: {len(names)} methods compared",
            lead=headline(summary),
            task=runs[0].header["task"],
            command=study["command"],
            summary=summary,
            swatches={name: swatch(item) for name, item in styles.items()},
            legend=legend_buttons(list(styles.values()), SINGLE_STEPS),
            names=names,
            headers={name: next(run for run in runs if run.entry == name).header for name in names},
            facts=_facts(study["settings"], runs),
            charts=[(chart, plots(chart.figure, key=f"chart-{chart.key}", title=chart.title)) for chart in charts],
            records=embedded_json(
                {"study.json": study, **{run.path.name: run.path.read_text(encoding="utf-8") for run in runs}}
            ),
        )
    except ArgumentError as error:
        raise RunError(str(error)) from error


def headline(summary: Summary) -> str:
    """Return the result in one or two sentences: the best and the second-best method, and diverged runs."""
    ranked = [row for row in summary.rows if row.mean is not None]
    diverged = [row.name for row in summary.rows if row.diverged]
    divergence = f" Runs diverged: {', '.join(diverged)}." if diverged else ""
    if not ranked:
        return "No run has finished." + divergence
    best = ranked[0]
    spread = "" if best.sd is None else f" ± {best.sd:.4f} over {best.done} seeds"
    text = f"{best.name} has the best mean {summary.score.phase} {summary.score.metric}, {best.mean:.4f}{spread}"
    if len(ranked) > 1 and ranked[1].mean is not None and best.mean is not None:
        text += f"; {ranked[1].name} is next with {ranked[1].mean:.4f}"
    return text + "." + divergence


def _facts(settings: dict[str, Any], runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (name, value) for each field needed to repeat a study; values that differ between runs are all listed."""
    headers = [run.header for run in runs]
    config = "; ".join(f"{key} {_plain(value)}" for key, value in settings["config"].items())
    wall = sum(epoch["wall_s"] for run in runs for epoch in run.epochs)
    machine = {
        "{processor}, {threads} of {cores} cores used, {system}".format(**header["machine"]) for header in headers
    }
    versions = {", ".join(f"{name} {version}" for name, version in header["versions"].items()) for header in headers}
    return [
        ("Epochs", f"{settings['epochs']} of {settings['steps_per_epoch']} steps"),
        ("Seeds", ", ".join(map(str, settings["seeds"])) + "; all methods have the same initial weights and batches"),
        ("Task", f"{headers[0]['task']['parameters']} parameters; {config}"),
        ("Training time", f"{duration(wall)} in total, without evaluation"),
        ("Versions", " | ".join(sorted(versions))),
        ("Machine", " | ".join(sorted(machine))),
        ("Started", min(header["started"] for header in headers)),
    ]


def _plain(value: Any) -> str:
    """Return a setting as text, with checksums shortened to 12 digits."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)
