"""The command `dashpot watch`, which reports the measurements of a watched run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.export_options import check_export_files, write_exports
from dashpot.cli.first_line import print_first_line


def watch(
    run: Annotated[Path, Parameter(help="Folder of a run of `dashpot train --watch`, or its watch.jsonl.")],
    /,
    *,
    plot: Annotated[Path | None, Parameter(help="PNG, PDF or SVG file of the figure.")] = None,
    html: Annotated[Path | None, Parameter(help="HTML file with sentences, figures and tables.")] = None,
    json: Annotated[bool, Parameter(help="Print the result as a line of JSON.")] = False,
) -> None:
    """Report what a watched run does, compared with what theory predicts, while it trains or afterwards."""
    check_export_files("watch", plot, html)
    if not json:  # the output is a single line of JSON
        print_first_line(f"Reading {run}.")
    from dashpot.runs.watch_file import read_watch_file
    from dashpot.training.run.folder import RunFolder
    from dashpot.utils.strict_json import encode
    from dashpot.watching.report import report_of

    file = RunFolder.open(run).watch_file if run.is_dir() else run
    found = report_of(read_watch_file(file))
    print(encode(found.to_dict()) if json else found)
    write_exports(found, plot, html, command=command_line(), is_quiet=json)
