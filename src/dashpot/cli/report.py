"""The command `dashpot report`: tables and pages of comparisons, of runs, and of CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.values import number
from dashpot.constraints import Interval, OneOf, Optional, check
from dashpot.errors import ArgumentError

DIRECTION = OneOf((None, "max", "min"))
Folders = Annotated[Path, Parameter(help="Folders of `dashpot compare`, or of `dashpot train` on one task.")]


def report(
    *folders: Folders,
    from_csv: Annotated[
        Path | None, Parameter(help="CSV file with the columns step, seed, method and metrics, instead of folders.")
    ] = None,
    metric: Annotated[str | None, Parameter(help="With --from-csv, metric that ranks methods; e.g. accuracy.")] = None,
    direction: Annotated[str | None, Parameter(help="With --from-csv, max or min.")] = None,
    target: Annotated[
        float | None, Parameter(converter=number, help="With --from-csv, target value of the metric.")
    ] = None,
    margin: Annotated[
        float | None, Parameter(converter=number, help="With --from-csv, largest irrelevant difference.")
    ] = None,
    reference: Annotated[
        str | None, Parameter(help="Method to which steps to the target are related; defaults to adamw.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Page to write, which ends in .html; defaults to report.html in a single folder.")
    ] = None,
) -> None:
    """Write the report of comparisons, training runs or a CSV file; print the verdicts.

    The report of several comparisons contains a performance profile over their tasks.
    """
    given = {"metric": metric, "direction": direction, "target": target, "margin": margin}
    _check(folders, from_csv, out, given)
    shown = str(from_csv) if from_csv is not None else ", ".join(map(str, folders))
    print_first_line(f"Reading {shown}.")
    from dashpot.comparison.csv_results import results_of_csv
    from dashpot.comparison.report_files import judged, report_path, write_files
    from dashpot.comparison.report_inputs import results_of_paths
    from dashpot.comparison.table import text_summary

    if from_csv is not None:
        found = [results_of_csv(from_csv, metric=metric, direction=direction, target=target, margin=margin)]
    else:
        found = results_of_paths(folders)
    findings = judged(found, reference)
    path = report_path(folders) if out is None else out
    write_files(findings, path)
    for each in findings:
        title = f"{each.results.task} ({each.results.source})\n\n" if len(findings) > 1 else ""
        print(f"\n{title}{text_summary(each)}")
    print(f"\nReport: {path}")


def _check(folders: tuple[Path, ...], from_csv: Path | None, out: Path | None, given: dict[str, object]) -> None:
    """Check the options before torch is loaded."""
    if not folders and from_csv is None:
        raise ArgumentError("report: give at least one folder of dashpot compare or dashpot train, or --from-csv FILE.")
    if folders and from_csv is not None:
        raise ArgumentError("report: give either folders or --from-csv, not both.")
    if from_csv is None:
        for name, value in given.items():
            if value is not None:
                raise ArgumentError(f"report: --{name} applies to --from-csv only; folders contain their {name}.")
    if out is not None and out.suffix.lower() != ".html":
        raise ArgumentError(f"report: --out must end in .html, got {out}.")
    check("report", "direction", given["direction"], DIRECTION)
    check("report", "target", given["target"], Optional(Interval()))
    check("report", "margin", given["margin"], Optional(Interval(0)))
